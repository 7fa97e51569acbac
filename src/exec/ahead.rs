//! Tokens chosen where their logits are, forwards queued before the tokens they compute are known.
//!
//! [`Line`] keeps one sequence going: it queues the next forward while the adapter computes the one before, and takes
//! choices in order. What an executor queues and how is its own matter (`chooser` for adapters); here is what they
//! share, and the plain way, a forward and a choice on the host. Invariant: the tokens are those of forwards and
//! [`Rule::choose`] taken in turn, whatever was queued.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;

use super::{Batch, ExecError, Executor, LogitRows};
use crate::ops::Chosen;
use crate::sampler::Rule;

/// The token that a queued forward computes.
#[derive(Debug, Clone, Copy)]
pub enum Next<'a> {
    /// This one.
    Token(u32),
    /// The one that the forward of this ticket chooses, known or not.
    After(&'a Ticket),
}

/// A queued forward: what it chooses can be taken.
#[derive(Debug)]
pub struct Ticket(pub(super) Queued);

#[derive(Debug)]
pub(super) enum Queued {
    /// It is known already.
    Known(Chosen),
    /// It is copied to its place of the ring when its forward is done.
    Submitted { serial: u64, limit: usize },
}

impl Ticket {
    /// A ticket of a choice that is known.
    pub(super) const fn known(chosen: Chosen) -> Self {
        Self(Queued::Known(chosen))
    }
}

/// Choices of one text that are left to the host before all of them are: each costs a forward over again.
const UNDECIDED: u32 = 3;

/// The forwards of one text that are on their way.
#[derive(Debug, Default)]
pub struct Line {
    tickets: VecDeque<Ticket>,
    undecided: u32,
}

impl Line {
    /// Forwards that are queued and whose choices were not taken yet.
    pub fn pending(&self) -> usize {
        self.tickets.len()
    }

    /// Chooses the token after `token`, which stands at `position` behind what the KV cache holds and was chosen last.
    /// `wanted` tokens are to follow at most, this one included: no more forwards are queued. `rule` says how the
    /// token after the next so many is chosen. Nothing, where `cancel` was set before it was there.
    ///
    /// Where the text goes on differently (or not at all), the line is dropped: what it queued counts for nothing.
    ///
    /// # Errors
    /// As [`Executor::forward`]; the line is empty then.
    pub fn next(
        &mut self,
        executor: &mut dyn Executor,
        (token, position): (u32, u32),
        wanted: usize,
        rule: &dyn Fn(u64) -> Rule,
        cancel: &AtomicBool,
    ) -> Result<Option<Chosen>, ExecError> {
        if self.undecided >= UNDECIDED {
            return choose_on_host(executor, token, position, &rule(0), cancel);
        }
        let chosen = self.take(executor, (token, position), wanted, rule, cancel);
        if !matches!(chosen, Ok(Some(Chosen::Token(_)))) {
            self.tickets.clear();
        }
        if matches!(chosen, Ok(Some(Chosen::Undecided))) {
            self.undecided += 1;
            return choose_on_host(executor, token, position, &rule(0), cancel);
        }
        chosen
    }

    fn take(
        &mut self,
        executor: &mut dyn Executor,
        (token, position): (u32, u32),
        wanted: usize,
        rule: &dyn Fn(u64) -> Rule,
        cancel: &AtomicBool,
    ) -> Result<Option<Chosen>, ExecError> {
        let room = executor.context_length().saturating_sub(position) as usize;
        // Without room the first forward says so.
        let depth = (1 + executor.ahead()).min(wanted).min(room).max(1);
        while self.tickets.len() < depth {
            let ahead = self.tickets.len();
            let next = self.tickets.back().map_or(Next::Token(token), Next::After);
            let ticket = executor.queue(next, position + ahead as u32, &rule(ahead as u64), cancel)?;
            let Some(ticket) = ticket else { break };
            self.tickets.push_back(ticket);
        }
        let ticket = self.tickets.pop_front();
        ticket.map(|ticket| executor.take(&ticket)).transpose()
    }
}

/// [`Executor::queue`] the plain way: the choice is known when it returns.
pub(super) fn queue_plainly(
    executor: &mut (impl Executor + ?Sized),
    next: Next<'_>,
    position: u32,
    rule: &Rule,
    cancel: &AtomicBool,
) -> Result<Option<Ticket>, ExecError> {
    let token = match next {
        Next::Token(token) => token,
        Next::After(ticket) => match executor.take(ticket)? {
            Chosen::Token(token) => token,
            none => return Ok(Some(Ticket::known(none))),
        },
    };
    Ok(choose_on_host(executor, token, position, rule, cancel)?.map(Ticket::known))
}

/// One forward whose logits come to the host.
fn choose_on_host(
    executor: &mut (impl Executor + ?Sized),
    token: u32,
    position: u32,
    rule: &Rule,
    cancel: &AtomicBool,
) -> Result<Option<Chosen>, ExecError> {
    let batch = Batch { tokens: &[token], position, logits: LogitRows::Last };
    let logits = executor.forward_unless(&batch, cancel)?;
    Ok(logits.map(|logits| rule.choose(logits.last()).into()))
}
