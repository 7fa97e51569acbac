//! A lane that plays its steps in a thread of its own, for all chunks of a forward.
//!
//! Knows the other lanes only by the ways to and from them. Invariant: a lane that ends, for whatever reason, drops its
//! ends of the ways, so that no other waits for it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};

use super::ExecError;
use super::play::{Chunk, Play};
use crate::gpu::Recorded;
use crate::plan::{AdapterId, PlanStep};

/// A lane's ends of the ways between lanes, by the lane at the other end.
#[derive(Default)]
pub(super) struct Ends {
    pub(super) out: HashMap<AdapterId, SyncSender<Vec<u8>>>,
    pub(super) into: HashMap<AdapterId, Receiver<Vec<u8>>>,
}

/// A hidden state that is being computed and will be sent on.
struct Leaving {
    /// Whether it is copied to the lane's spare readback.
    spare: bool,
    bytes: u64,
    to: AdapterId,
}

/// Whether to go on, or another lane has ended: that one says why.
enum Outcome {
    GoesOn,
    Ended,
}

/// One lane in its thread.
pub(super) struct Alone<'e> {
    play: Play<'e>,
    lane: AdapterId,
    ends: Ends,
    /// What it fetched for another lane is waited for only when the chunk after it has been submitted, so that the
    /// adapter always has work. Uploads would take too long for that.
    patient: bool,
    leaving: Option<Leaving>,
    /// Which readback is free.
    spare: bool,
    ahead: Option<Recorded>,
    values: Vec<f32>,
}

impl<'e> Alone<'e> {
    pub(super) fn new(play: Play<'e>, lane: AdapterId, ends: Ends) -> Self {
        let patient = !play.streams(lane);
        Self { play, lane, ends, patient, leaving: None, spare: false, ahead: None, values: Vec::new() }
    }

    /// Its part of all chunks; returns the logits it read, `None` when cancelled or left alone.
    pub(super) fn play(mut self, chunks: &[Chunk<'_>]) -> Result<Option<Vec<f32>>, ExecError> {
        let own = self.play.own_steps(self.lane);
        for chunk in chunks {
            self.play.begin(self.lane, chunk);
            for index in 0..own.len() {
                if self.play.cancel.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                if let Outcome::Ended = self.step(&own[index..], chunk)? {
                    return Ok(None);
                }
            }
            self.play.lanes[self.lane].keep_pace()?;
        }
        let leaving = self.leaving.take();
        Ok(matches!(self.send(leaving)?, Outcome::GoesOn).then_some(self.values))
    }

    /// The first of these steps.
    fn step(&mut self, steps: &[PlanStep], chunk: &Chunk<'_>) -> Result<Outcome, ExecError> {
        let (play, lane) = (self.play, self.lane);
        match &steps[0] {
            PlanStep::Upload { unit, .. } => play.lanes[lane].upload(*unit),
            PlanStep::Compute { .. } => play.compute(lane, steps, chunk, self.spare, self.ahead.take())?,
            PlanStep::Transfer { after, .. } if !play.crosses(*after, chunk) => {}
            PlanStep::Transfer { after, from, to } if *from == lane => {
                let (_, bytes) = play.hidden(*after, chunk);
                let now = Leaving { spare: self.spare, bytes, to: *to };
                self.spare = !self.spare;
                let due = if self.patient { self.leaving.replace(now) } else { Some(now) };
                return self.send(due);
            }
            PlanStep::Transfer { after, from, .. } => {
                // Nothing comes back for what was not sent.
                let due = self.leaving.take();
                if let Outcome::Ended = self.send(due)? {
                    return Ok(Outcome::Ended);
                }
                // The commands are ready when the hidden state arrives.
                self.ahead = play.record(lane, &steps[1..], chunk, self.spare);
                play.lanes[lane].settle()?;
                let Ok(state) = self.ends.into[from].recv() else { return Ok(Outcome::Ended) };
                play.lanes[lane].write(play.buffers, play.hidden(*after, chunk).0, &state);
            }
            PlanStep::Readback { .. } => play.logits(lane, chunk, &mut self.values)?,
        }
        Ok(Outcome::GoesOn)
    }

    /// Waits for a hidden state and sends it on.
    fn send(&self, leaving: Option<Leaving>) -> Result<Outcome, ExecError> {
        let Some(Leaving { spare, bytes, to }) = leaving else { return Ok(Outcome::GoesOn) };
        let state = self.play.lanes[self.lane].read(spare, bytes, <[u8]>::to_vec)?;
        Ok(if self.ends.out[&to].send(state).is_ok() { Outcome::GoesOn } else { Outcome::Ended })
    }
}
