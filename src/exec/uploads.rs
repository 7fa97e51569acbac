//! Streamed units on their way into a lane's ring.
//!
//! An upload is noted when its step is played, and done with the next submission: beside that one's dispatches where
//! they don't need it, else before them. Invariant: dispatches that read a ring slot are submitted after everything
//! that fills it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, MutexGuard};

use super::ExecError;
use super::lane::Lane;
use super::packed::Batch;
use super::stream::{Staged, Stream};
use crate::gpu::{Buffer, HostBuffer, HostCopy};
use crate::ops::Step;
use crate::tensor::Dim;

/// A streamed unit.
#[derive(Debug)]
pub(super) struct Streamed {
    pub(super) packed: Packed,
    pub(super) nodes: Range<usize>,
    /// Rows that the kernels of its weights compute.
    pub(super) rows: Vec<Dim>,
    /// Whether kernels of a single row read its weights where they are.
    pub(super) in_place: bool,
}

/// Where the packed bytes of a streamed unit are between forwards.
#[derive(Debug)]
pub(super) enum Packed {
    /// In host memory: each slice with its buffer in the ring slot.
    Pinned(Vec<(HostBuffer, Buffer)>),
    /// Where the stream's source has them.
    Mapped(Vec<Arc<Batch>>),
}

impl Streamed {
    /// Whether a forward needs it in its ring slot.
    fn needs_upload(&self, step: Step) -> bool {
        let least = if self.in_place { 2 } else { 1 };
        self.rows.iter().any(|rows| rows.length(step.extents()) >= least)
    }

    fn slices(&self) -> &[(HostBuffer, Buffer)] {
        match &self.packed {
            Packed::Pinned(slices) => slices,
            Packed::Mapped(_) => &[],
        }
    }

    fn batches(&self) -> &[Arc<Batch>] {
        match &self.packed {
            Packed::Pinned(_) => &[],
            Packed::Mapped(batches) => batches,
        }
    }

    /// From where it is pinned into its ring slot.
    fn copies(&self) -> impl Iterator<Item = HostCopy<'_>> {
        self.slices().iter().map(|(from, to)| HostCopy { from, at: 0, to, offset: 0, bytes: from.bytes() })
    }
}

/// Uploads that were noted and are not done.
#[derive(Debug)]
pub(super) struct Due {
    step: Step,
    units: VecDeque<usize>,
    /// Batches of the first of them that are done.
    done: usize,
}

impl Default for Due {
    fn default() -> Self {
        Self { step: Step::new(0, 0, 0), units: VecDeque::new(), done: 0 }
    }
}

/// Uploads that are ready and whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pinned: Vec<usize>,
    staged: Vec<Staged>,
}

impl Lane {
    /// Forgets uploads of an earlier forward and has the first ones of this one packed.
    pub(super) fn expect_uploads(&self, step: Step) {
        *self.due() = Due { step, ..Due::default() };
        if let Some(stream) = &self.stream {
            let wanted = self.streamed.values().filter(|unit| unit.needs_upload(step));
            stream.start(wanted.flat_map(Streamed::batches).cloned().collect());
        }
    }

    /// Notes that the ring slot of a streamed unit is to be filled; a forward's units come in ascending order.
    pub(super) fn upload(&self, unit: usize) {
        let mut due = self.due();
        if self.streamed[&unit].needs_upload(due.step) {
            due.units.push_back(unit);
        }
    }

    /// Does all uploads that were noted: for who is about to wait for something else.
    pub(super) fn settle(&self) -> Result<(), ExecError> {
        let ready = self.take_ready(&(0..usize::MAX))?;
        debug_assert!(ready.pinned.is_empty() && ready.staged.is_empty(), "everything was needed: {ready:?}");
        Ok(())
    }

    /// Does the uploads that these nodes need, waiting for them to be packed; hands out what is ready beyond that.
    pub(super) fn take_ready(&self, nodes: &Range<usize>) -> Result<Ready, ExecError> {
        let mut ready = Ready::default();
        match self.gather(nodes, &mut ready) {
            Ok(()) => Ok(ready),
            Err(error) => {
                // Whoever tries again needs all staging buffers.
                self.release(ready);
                Err(error)
            }
        }
    }

    fn gather(&self, nodes: &Range<usize>, ready: &mut Ready) -> Result<(), ExecError> {
        let mut due = self.due();
        while let Some(unit) = due.units.front().copied() {
            let streamed = &self.streamed[&unit];
            let needed = streamed.nodes.start < nodes.end && nodes.start < streamed.nodes.end;
            match &streamed.packed {
                Packed::Pinned(_) if needed => self.device.copy(&streamed.copies().collect::<Vec<_>>())?,
                Packed::Pinned(_) => ready.pinned.push(unit),
                Packed::Mapped(batches) => {
                    while due.done < batches.len() {
                        let Some(next) = self.stream().next(needed)? else { return Ok(()) };
                        due.done += 1;
                        if needed {
                            let copied = self.device.copy(&self.stream().copies(&next).collect::<Vec<_>>());
                            self.stream().release(next);
                            copied?;
                        } else {
                            ready.staged.push(next);
                        }
                    }
                }
            }
            due.units.pop_front();
            due.done = 0;
        }
        Ok(())
    }

    /// The copies that do these uploads.
    pub(super) fn copies<'l>(&'l self, ready: &'l Ready) -> Vec<HostCopy<'l>> {
        let pinned = ready.pinned.iter().flat_map(|unit| self.streamed[unit].copies());
        let staged = ready.staged.iter().flat_map(|staged| self.stream().copies(staged));
        pinned.chain(staged).collect()
    }

    /// Lets staging buffers be filled again, once the copies from them are submitted.
    pub(super) fn release(&self, ready: Ready) {
        ready.staged.into_iter().for_each(|staged| self.stream().release(staged));
    }

    /// Packed bytes kept on the host.
    pub(super) fn host_bytes(&self) -> u64 {
        let streamed = self.streamed.values().flat_map(Streamed::slices).map(|(host, _)| host);
        streamed.chain(&self.in_place).map(HostBuffer::bytes).sum()
    }

    fn stream(&self) -> &Stream {
        self.stream.as_ref().expect("who streams from the checkpoint has a stream")
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().expect("no thread panics while it holds what is due")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::exec::{ExecOptions, GpuExecutor, GpuOptions, WeightSource, plan_checkpoint};
    use crate::gpu::{AdapterChoice, Device, DeviceOptions};
    use crate::plan::{Offload, OffloadMode};

    /// A tiny checkpoint with a scale of its first layer's last tensor that is no number, streamed from its file.
    fn damaged() -> GpuExecutor {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/tiny-llama-q4_k_m/model.gguf");
        let mut bytes = std::fs::read(&source).expect("the file can be read");
        let sound = Checkpoint::open(&source).expect("the file is sound");
        let view = sound.tensor("model.layers.0.mlp.down_proj.weight").expect("it is there");
        assert_eq!(view.format.name(), "q6_k", "whose blocks end with their scales");
        let at = bytes.windows(view.bytes.len()).position(|window| window == view.bytes).expect("its bytes are there");
        let end = at + view.bytes.len();
        bytes[end - 2..end].copy_from_slice(&[0x00, 0x7e]);
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).expect("written");
        let checkpoint = Checkpoint::open(&path).expect("scales are not looked at before they are packed");
        let options = ExecOptions {
            adapter: AdapterChoice::Index(0),
            offload: Offload::All,
            offload_mode: Some(OffloadMode::Mapped),
            context_length: Some(16),
            ..ExecOptions::default()
        };
        let (graph, placed) = plan_checkpoint(&checkpoint, &options).expect("there is a plan");
        let device = Device::open(0, DeviceOptions::default()).expect("the adapter opens");
        let (source, options) = (WeightSource::new(&checkpoint), GpuOptions::default());
        GpuExecutor::new(graph, &placed.plan, vec![device], source, options, &mut |_| ()).expect("it loads")
    }

    /// Begins a forward, leaves what is staged alone for a while, then takes it; whether it was found to fail.
    fn fails_after(lane: &Lane, wait: Duration) -> bool {
        lane.begin(Step::new(1, 0, 1));
        lane.streamed.keys().for_each(|unit| lane.upload(*unit));
        std::thread::sleep(wait);
        match lane.take_ready(&(0..0)) {
            Ok(ready) => {
                lane.release(ready);
                false
            }
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("layers.0.mlp.down_proj.weight"), "{error}");
                true
            }
        }
    }

    #[test]
    fn staging_buffers_come_back_from_uploads_that_fail() {
        let executor = damaged();
        let lane = &executor.lanes[0];
        let batches = lane.streamed.values().next().expect("it is streamed").batches().len();
        assert_eq!(batches, 3, "the damage is in the last, and there are four buffers");
        for time in 1..=3 {
            // Two buffers lost leave none to find the damage in while two are staged, however long that may take.
            let mut waits = (0..8).map(|doubled| Duration::from_millis(20 << doubled));
            assert!(waits.any(|wait| fails_after(lane, wait)), "time {time}: staging buffers are missing");
        }
    }
}
