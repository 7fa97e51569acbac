//! The token choice at the end of a plan, on the adapter that has the logits.
//!
//! Its buffers, its dispatches, and the decode forward that ends in them. Invariant: a choice stays in its place of
//! the ring until as many others are queued as the ring has places.

use std::sync::atomic::{AtomicBool, Ordering};

use super::ExecError;
use super::ahead::{Next, Queued, Ticket, queue_plainly};
use super::gpu::GpuExecutor;
use super::handover::Choice;
use super::lane::Lane;
use super::play::{Chunk, Play};
use super::{Batch, LogitRows, check_batch};
use crate::gpu::{Buffer, Device, Dispatch, GpuError, Readback, Recorded, Usage};
use crate::graph::{Buffers, Graph};
use crate::ops::{Bind, Call, Choose, Chosen, Op, Phase, Step};
use crate::plan::{CHOICES_IN_FLIGHT, Plan};
use crate::sampler::Rule;

/// Forwards queued beyond the one that is waited for, where one adapter has all it needs for the next one. One is
/// enough: the host records a forward in less time than the adapter computes it.
const AHEAD: usize = 1;

const _: () = assert!(AHEAD < CHOICES_IN_FLIGHT, "the ring holds what is queued and what is taken");

/// Its memory, made before weights are loaded.
#[derive(Debug)]
pub(super) struct ChooserBuffers {
    slices: Buffer,
    rule: Buffer,
    chosen: Buffer,
    /// Takes the next token where the embedding is elsewhere.
    elsewhere: Buffer,
    ring: Vec<Readback>,
}

impl ChooserBuffers {
    pub(super) fn new(device: &Device) -> Result<Self, GpuError> {
        let buffer = |label: &str, bytes| device.buffer(label, bytes, Usage::Activations);
        let ring = (0..CHOICES_IN_FLIGHT).map(|_| device.readback("choices", Choose::CHOSEN_BYTES));
        Ok(Self {
            slices: buffer("slices of logits", Choose::SLICE_BYTES)?,
            rule: buffer("rule", Choose::RULE_BYTES)?,
            chosen: buffer("chosen", Choose::CHOSEN_BYTES)?,
            elsewhere: buffer("next token", Choose::CHOSEN_BYTES)?,
            ring: ring.collect::<Result<_, _>>()?,
        })
    }
}

/// The token choice of a plan.
#[derive(Debug)]
pub(super) struct Chooser {
    buffers: ChooserBuffers,
    /// The lane with the logits, and the one with the embedding.
    pub(super) lane: usize,
    first: usize,
    /// The choice, behind the head.
    choice: Vec<Dispatch>,
    /// All that one token takes, the choice included, where that is one submission.
    decode: Vec<Dispatch>,
    /// The rule on the adapter.
    written: Option<[f32; 8]>,
    /// Choices queued so far.
    serial: u64,
    /// The choice that the embedding would read.
    in_place: Option<u64>,
    /// Where several adapters take turns: the first one's commands for the next token, and its position.
    next: Option<(u32, Recorded)>,
}

impl Chooser {
    pub(super) fn new(
        buffers: ChooserBuffers,
        plan: &Plan,
        lanes: &[Lane],
        graph: &Graph,
        activations: &Buffers,
    ) -> Result<Self, GpuError> {
        let (first, lane) = (plan.placements[0].adapter, plan.placements[graph.units.len() - 1].adapter);
        let device = &lanes[lane].device;
        let next = if first == lane {
            lanes[lane].activation(activations, graph.tokens, Phase::Decode)
        } else {
            &buffers.elsewhere
        };
        let bind = |bind| match bind {
            Bind::Input(0) => lanes[lane].activation(activations, graph.logits, Phase::Decode).whole(),
            Bind::Input(_) => buffers.rule.whole(),
            Bind::Output(0) => buffers.chosen.whole(),
            Bind::Output(_) => next.whole(),
            _ => buffers.slices.whole(),
        };
        let call = Call {
            phase: Phase::Decode,
            inputs: &[],
            outputs: &[],
            traits: &device.traits,
            largest: Step::new(1, 0, 1).extents(),
        };
        let kernels = Choose.kernels(&call);
        device.compile(&kernels)?;
        let choice = kernels.iter().map(|kernel| device.dispatch(kernel, &lanes[lane].step, bind));
        let choice = choice.collect::<Result<Vec<_>, _>>()?;
        // By node, in their order: what is played without looking anything up.
        let nodes = lanes[lane].dispatches.iter().flat_map(|node| &node[Phase::Decode as usize]);
        let decode = nodes.chain(&choice).cloned().collect();
        Ok(Self { buffers, lane, first, choice, decode, written: None, serial: 0, in_place: None, next: None })
    }

    /// Bytes it holds on its lane.
    pub(super) fn bytes(&self) -> u64 {
        let all = &self.buffers;
        let buffers = [&all.slices, &all.rule, &all.chosen, &all.elsewhere];
        buffers.map(Buffer::bytes).iter().sum::<u64>() + all.ring.iter().map(Readback::bytes).sum::<u64>()
    }

    /// Another token is in the embedding's place now.
    const fn displace(&mut self) {
        self.in_place = None;
    }

    /// Another forward comes than the one that was prepared.
    pub(super) fn interrupt(&mut self) {
        self.displace();
        self.next = None;
    }

    fn place(&self, serial: u64) -> &Readback {
        &self.buffers.ring[serial as usize % CHOICES_IN_FLIGHT]
    }

    fn write_rule(&mut self, device: &Device, numbers: [f32; 8]) {
        if self.written != Some(numbers) {
            device.write(&self.buffers.rule, 0, bytemuck::cast_slice(&numbers));
            self.written = Some(numbers);
        }
    }
}

impl GpuExecutor {
    /// Forwards that can be queued before the choice of the one before is known. None where queuing one means waiting:
    /// for another adapter, or until its weights have come through the ring.
    pub(super) fn decode_ahead(&self) -> usize {
        if self.at_once() { AHEAD } else { 0 }
    }

    /// [`Executor::queue`] on adapters.
    ///
    /// [`Executor::queue`]: super::Executor::queue
    pub(super) fn queue_choice(
        &mut self,
        next: Next<'_>,
        position: u32,
        rule: &Rule,
        cancel: &AtomicBool,
    ) -> Result<Option<Ticket>, ExecError> {
        if !Choose::takes(rule) {
            return queue_plainly(self, next, position, rule, cancel);
        }
        let token = match next {
            Next::Token(token) => Some(token),
            Next::After(Ticket(Queued::Submitted { serial, .. })) if self.chooser.in_place == Some(*serial) => None,
            Next::After(ticket) => match self.taken(ticket)? {
                Chosen::Token(token) => Some(token),
                none => return Ok(Some(Ticket::known(none))),
            },
        };
        // A token that is not known here was chosen among the vocabulary.
        let batch = Batch { tokens: &[token.unwrap_or(0)], position, logits: LogitRows::Last };
        check_batch(&batch, self.position, self.graph.context_length, self.graph.vocab_size)?;
        self.position = position;
        self.chooser.displace();
        let limit = rule.limit.min(self.graph.logits_width());
        let numbers = Choose::numbers(rule, self.graph.logits_width());
        self.chooser.write_rule(&self.lanes[self.chooser.lane].device, numbers);
        let serial = self.chooser.serial + 1;
        if !self.play_choice(token, position, serial, cancel)? {
            return Ok(None);
        }
        self.chooser.serial = serial;
        self.chooser.in_place = Some(serial);
        self.position = position + 1;
        Ok(Some(Ticket(Queued::Submitted { serial, limit })))
    }

    /// One token through every step and the choice behind the last one. Without a token the embedding reads the last
    /// choice. `false` when cancelled before the end.
    fn play_choice(
        &mut self,
        token: Option<u32>,
        position: u32,
        serial: u64,
        cancel: &AtomicBool,
    ) -> Result<bool, ExecError> {
        let recorded = self.chooser.next.take().filter(|(recorded, _)| *recorded == position);
        let Chooser { buffers: ChooserBuffers { chosen, .. }, choice, decode, lane, first, .. } = &self.chooser;
        let (step, readback) = (Step::new(1, position, 1), self.chooser.place(serial));
        let result = [(chosen, 0, Choose::CHOSEN_BYTES)];
        let device = &self.lanes[*lane].device;
        if !self.at_once() {
            let token = [token.expect("nothing is queued ahead of a choice")];
            let choice = Some(Choice { dispatches: choice, chosen, readback });
            let Self { graph, buffers, steps, lanes, .. } = &*self;
            let play = Play { graph, buffers, steps, lanes, cancel, choice };
            let chunk = Chunk { tokens: &token, step, batch: 1 };
            let played = match recorded {
                Some((_, first)) => play.run_recorded(&chunk, first)?,
                None => play.run(&[chunk])?,
            };
            // While the last adapter is still at this token.
            let next = (played.is_some() && position + 1 < self.graph.context_length)
                .then(|| play.record_first(&Chunk { step: Step::new(1, position + 1, 1), ..chunk }));
            self.chooser.next = next.flatten().map(|first| (position + 1, first));
            return Ok(played.is_some());
        }
        if cancel.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.lanes[*lane].begin(step);
        match token {
            // An adapter that has nothing to do starts before all is recorded.
            Some(token) => {
                self.lanes[*first].write(&self.buffers, self.graph.tokens, bytemuck::bytes_of(&token));
                device.submit(step, decode.iter(), &result, Some(readback))?;
            }
            None => device.submit_at_once(step, decode, &result, readback)?,
        }
        Ok(true)
    }

    /// [`Executor::take`] on adapters: waits for the ticket's forward alone.
    ///
    /// [`Executor::take`]: super::Executor::take
    pub(super) fn taken(&self, ticket: &Ticket) -> Result<Chosen, ExecError> {
        let (serial, limit) = match &ticket.0 {
            Queued::Known(chosen) => return Ok(chosen.clone()),
            Queued::Submitted { serial, limit } => (*serial, *limit),
        };
        assert!(serial + CHOICES_IN_FLIGHT as u64 > self.chooser.serial, "its place in the ring is another's by now");
        let (device, place) = (&self.lanes[self.chooser.lane].device, self.chooser.place(serial));
        let read = |bytes: &[u8]| bytemuck::pod_read_unaligned::<[f32; 4]>(bytes);
        let numbers = if self.chooser.serial > serial {
            device.read_asleep(place, Choose::CHOSEN_BYTES, read)?
        } else {
            device.read(place, Choose::CHOSEN_BYTES, read)?
        };
        Ok(Chosen::from_numbers(numbers, limit))
    }
}
