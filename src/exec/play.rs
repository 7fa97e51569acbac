//! Playing a plan's steps for the chunks of a forward.
//!
//! Adapters that have to wait for one another anyway are played in one thread, in the plan's order: a token of a
//! resident plan. Otherwise each has a thread of its own that plays its steps for all chunks: the pieces of a prompt,
//! of which it takes the next one while the others are still at the one before, and streamed weights, which all
//! adapters fetch at the same time. This is the one place where the hidden state crosses between adapters: out of a
//! mapped readback, through host memory, into the next adapter's queue. Invariant: both ways give each adapter the
//! same steps in the same order, so the same bits.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use super::ExecError;
use super::alone::{Alone, Ends};
use super::handover::{Choice, Ending};
use super::lane::{Lane, Pass};
use crate::gpu::Recorded;
use crate::graph::{Buffers, Graph, TensorId};
use crate::ops::Step;
use crate::plan::{AdapterId, PlanStep};

/// Hidden states on their way to an adapter that is not ready for them: enough to never keep the sender waiting
/// while the receiver computes, few enough to bound host memory.
const ON_THE_WAY: usize = 2;

/// The tokens of one pass through all adapters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk<'t> {
    pub(super) tokens: &'t [u32],
    pub(super) step: Step,
    /// Tokens of the whole batch.
    pub(super) batch: u32,
}

impl Chunk<'_> {
    const fn pass(&self) -> Pass {
        Pass { step: self.step, batch: self.batch }
    }
}

/// What is played.
#[derive(Clone, Copy)]
pub(super) struct Play<'e> {
    pub(super) graph: &'e Graph,
    pub(super) buffers: &'e Buffers,
    pub(super) steps: &'e [PlanStep],
    pub(super) lanes: &'e [Lane],
    pub(super) cancel: &'e AtomicBool,
    /// Where the logits become a token instead of coming to the host.
    pub(super) choice: Option<Choice<'e>>,
}

impl Play<'_> {
    /// Plays every step for every chunk, and returns the logits that were wanted; `None` when cancelled.
    pub(super) fn run(&self, chunks: &[Chunk<'_>]) -> Result<Option<Vec<f32>>, ExecError> {
        let streaming = (0..self.lanes.len()).filter(|lane| self.streams(*lane)).count();
        if self.lanes.len() > 1 && (chunks.len() > 1 || streaming > 1) {
            self.at_once(chunks)
        } else {
            self.in_turn(chunks, None)
        }
    }

    /// As [`Self::run`] for one chunk, where [`Self::record_first`] has recorded its first commands.
    pub(super) fn run_recorded(&self, chunk: &Chunk<'_>, first: Recorded) -> Result<Option<Vec<f32>>, ExecError> {
        self.in_turn(std::slice::from_ref(chunk), Some(first))
    }

    /// Records what a chunk begins with, and tells the lane of it, where adapters take turns and nothing has to come
    /// through a ring first.
    pub(super) fn record_first(&self, chunk: &Chunk<'_>) -> Option<Recorded> {
        if (0..self.lanes.len()).any(|lane| self.streams(lane)) {
            return None;
        }
        let first = first_lane(self.steps);
        self.lanes[first].begin(chunk.step);
        self.record(first, self.steps, chunk, false)
    }

    /// One lane after the other, in this thread.
    fn in_turn(&self, chunks: &[Chunk<'_>], first: Option<Recorded>) -> Result<Option<Vec<f32>>, ExecError> {
        let mut ahead = first;
        let mut values = Vec::new();
        for chunk in chunks {
            // Who does not stream is told when the first lane is at work.
            let first = first_lane(self.steps);
            let others = (0..self.lanes.len()).filter(|lane| *lane != first);
            let (now, mut later): (Vec<_>, Vec<_>) = others.partition(|lane| self.streams(*lane));
            if ahead.is_none() {
                self.lanes[first].begin(chunk.step);
            }
            self.write_tokens(chunk);
            now.into_iter().for_each(|lane| self.lanes[lane].begin(chunk.step));
            for (index, step) in self.steps.iter().enumerate() {
                if self.cancel.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                match step {
                    PlanStep::Upload { unit, adapter, .. } => self.lanes[*adapter].upload(*unit),
                    PlanStep::Compute { adapter, .. } => {
                        self.compute(*adapter, &self.steps[index..], chunk, false, ahead.take())?;
                        later.drain(..).for_each(|lane| self.lanes[lane].begin(chunk.step));
                    }
                    PlanStep::Transfer { after, from, to } if self.crosses(*after, chunk) => {
                        // The next lane's commands are ready when the row arrives.
                        ahead = self.record(*to, &self.steps[index + 1..], chunk, false);
                        self.lanes[*to].settle()?;
                        let (id, bytes) = self.hidden(*after, chunk);
                        self.lanes[*from].read(false, bytes, |row| self.lanes[*to].write(self.buffers, id, row))?;
                    }
                    PlanStep::Readback { from } => self.logits(*from, chunk, &mut values)?,
                    PlanStep::Transfer { .. } => {}
                }
            }
            if chunks.len() > 1 {
                self.lanes.iter().try_for_each(Lane::keep_pace)?;
            }
        }
        Ok(Some(values))
    }

    /// Every lane in its own thread.
    fn at_once(&self, chunks: &[Chunk<'_>]) -> Result<Option<Vec<f32>>, ExecError> {
        let ends = self.ends();
        let results: Vec<Result<Option<Vec<f32>>, ExecError>> = std::thread::scope(|scope| {
            let play =
                |(lane, ends): (AdapterId, Ends)| scope.spawn(move || Alone::new(*self, lane, ends).play(chunks));
            let threads: Vec<_> = ends.into_iter().enumerate().map(play).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        // Who stopped because another one failed says nothing: the error of that one counts.
        let parts = results.into_iter().collect::<Result<Vec<Option<Vec<f32>>>, ExecError>>()?;
        Ok(parts.into_iter().collect::<Option<Vec<Vec<f32>>>>().map(|parts| parts.concat()))
    }

    /// The ways between lanes, by lane.
    fn ends(&self) -> Vec<Ends> {
        let mut ends: Vec<Ends> = self.lanes.iter().map(|_| Ends::default()).collect();
        for step in self.steps {
            if let PlanStep::Transfer { from, to, .. } = step
                && !ends[*from].out.contains_key(to)
            {
                let (sender, receiver) = sync_channel(ON_THE_WAY);
                ends[*from].out.insert(*to, sender);
                ends[*to].into.insert(*from, receiver);
            }
        }
        ends
    }

    /// The steps of one lane, in order; what leaves it leaves before it uploads anything more.
    pub(super) fn own_steps(&self, lane: AdapterId) -> Vec<PlanStep> {
        let mut own: Vec<PlanStep> = Vec::new();
        for step in self.steps.iter().filter(|step| step.concerns(lane)) {
            let uploads = own.iter().rev().take_while(|step| matches!(step, PlanStep::Upload { .. })).count();
            let leaves = matches!(step, PlanStep::Transfer { from, .. } if *from == lane);
            own.insert(if leaves { own.len() - uploads } else { own.len() }, step.clone());
        }
        own
    }

    pub(super) fn streams(&self, lane: AdapterId) -> bool {
        self.steps.iter().any(|step| matches!(step, PlanStep::Upload { adapter, .. } if *adapter == lane))
    }

    /// Tells a lane what comes, and the one that begins the tokens.
    pub(super) fn begin(&self, lane: AdapterId, chunk: &Chunk<'_>) {
        self.lanes[lane].begin(chunk.step);
        if lane == first_lane(self.steps) {
            self.write_tokens(chunk);
        }
    }

    fn write_tokens(&self, chunk: &Chunk<'_>) {
        let tokens = bytemuck::cast_slice(chunk.tokens);
        self.lanes[first_lane(self.steps)].write(self.buffers, self.graph.tokens, tokens);
    }

    /// Submits the compute that `steps` begins with, as recorded where it was; what the step behind it wants is copied
    /// to a readback.
    pub(super) fn compute(
        &self,
        lane: AdapterId,
        steps: &[PlanStep],
        chunk: &Chunk<'_>,
        spare: bool,
        recorded: Option<Recorded>,
    ) -> Result<(), ExecError> {
        let ending = self.ending(steps, chunk, spare);
        match (recorded, self.nodes(steps, chunk)) {
            (Some(recorded), _) => self.lanes[lane].submit_recorded(recorded, ending),
            (None, Some(nodes)) => self.lanes[lane].submit(self.graph, self.buffers, nodes, chunk.pass(), ending),
            (None, None) => Ok(()),
        }
    }

    /// Records the compute that `steps` begins with, where it does.
    pub(super) fn record(
        &self,
        lane: AdapterId,
        steps: &[PlanStep],
        chunk: &Chunk<'_>,
        spare: bool,
    ) -> Option<Recorded> {
        let nodes = self.nodes(steps, chunk)?;
        let ending = self.ending(steps, chunk, spare);
        Some(self.lanes[lane].record(self.graph, self.buffers, nodes, chunk.pass(), ending))
    }

    /// The nodes of the compute that `steps` begins with. A chunk whose logits nobody wants skips the head, which is
    /// the last unit.
    fn nodes(&self, steps: &[PlanStep], chunk: &Chunk<'_>) -> Option<Range<usize>> {
        let PlanStep::Compute { units, .. } = steps.first()? else { return None };
        let head = usize::from(chunk.step.logit_rows == 0);
        let end = units.end.min(self.graph.units.len() - head);
        let nodes = |unit: usize| &self.graph.units[unit].nodes;
        (units.start < end).then(|| nodes(units.start).start..nodes(end - 1).end)
    }

    /// What is wanted of the compute that `steps` begins with: by the next step that is no upload.
    fn ending(&self, steps: &[PlanStep], chunk: &Chunk<'_>, spare: bool) -> Ending<'_> {
        match next_of(steps) {
            Some(PlanStep::Transfer { after, .. }) if self.crosses(*after, chunk) => {
                let (id, bytes) = self.hidden(*after, chunk);
                Ending::Fetch { id, bytes, spare }
            }
            Some(PlanStep::Readback { .. }) if chunk.step.logit_rows > 0 => match self.choice {
                Some(choice) => Ending::Choice(choice),
                None => {
                    let id = self.graph.logits;
                    Ending::Fetch { id, bytes: self.bytes(id, chunk), spare: false }
                }
            },
            _ => Ending::Nothing,
        }
    }

    /// Whether the unit behind this one has anything to do: the head alone has not, where no logits are wanted.
    pub(super) fn crosses(&self, after: usize, chunk: &Chunk<'_>) -> bool {
        chunk.step.logit_rows > 0 || after + 2 < self.graph.units.len()
    }

    /// The output of a unit, and its bytes.
    pub(super) fn hidden(&self, after: usize, chunk: &Chunk<'_>) -> (TensorId, u64) {
        let id = self.graph.units[after].output;
        (id, self.bytes(id, chunk))
    }

    fn bytes(&self, id: TensorId, chunk: &Chunk<'_>) -> u64 {
        self.graph.activation(id).expect("only activations are fetched").bytes(chunk.step.extents())
    }

    /// Reads the logits that the chunk wants, where no token was chosen from them.
    pub(super) fn logits(&self, lane: AdapterId, chunk: &Chunk<'_>, values: &mut Vec<f32>) -> Result<(), ExecError> {
        if chunk.step.logit_rows == 0 || self.choice.is_some() {
            return Ok(());
        }
        let bytes = self.bytes(self.graph.logits, chunk);
        self.lanes[lane].read(false, bytes, |bytes| values.extend_from_slice(bytemuck::cast_slice(bytes)))
    }
}

/// The step behind the compute that `steps` begins with, uploads left out.
fn next_of(steps: &[PlanStep]) -> Option<&PlanStep> {
    steps[1..].iter().find(|step| !matches!(step, PlanStep::Upload { .. }))
}

/// The lane that the tokens go to.
pub(super) fn first_lane(steps: &[PlanStep]) -> AdapterId {
    let compute = steps.iter().find_map(|step| match step {
        PlanStep::Compute { adapter, .. } => Some(*adapter),
        _ => None,
    });
    compute.expect("a plan computes something")
}
