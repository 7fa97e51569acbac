//! What a lane computes and hands over: submissions, and the readbacks that their results leave by.
//!
//! A lane that hands on to another has two readbacks, so that one is filled while the other is read. Invariant: a
//! readback is read before it is filled again.

use std::ops::Range;

use super::ExecError;
use super::lane::{Lane, Pass, rows_of};
use crate::gpu::{Buffer, Dispatch, Readback, Recorded};
use crate::graph::{Buffers, Graph, TensorId};

impl Lane {
    /// Submits nodes in one compute pass, with the uploads that are ready beside them; where `fetch` names an activation
    /// and its bytes, copies it for [`Self::read`].
    pub(super) fn submit(
        &self,
        graph: &Graph,
        buffers: &Buffers,
        nodes: Range<usize>,
        pass: Pass,
        fetch: Option<(TensorId, u64)>,
        spare: bool,
    ) -> Result<(), ExecError> {
        let readback = fetch.map(|_| self.readback(spare));
        let results = self.results((graph, buffers), pass, fetch);
        let ready = self.take_ready(&nodes)?;
        let dispatches = self.dispatches(graph, nodes, pass);
        self.device.submit_beside(&self.copies(&ready), pass.step, dispatches, &results, readback)?;
        self.release(ready);
        Ok(())
    }

    /// As [`Self::submit`], but only recorded.
    pub(super) fn record(
        &self,
        graph: &Graph,
        buffers: &Buffers,
        nodes: Range<usize>,
        pass: Pass,
        fetch: Option<(TensorId, u64)>,
        spare: bool,
    ) -> Recorded {
        let readback = fetch.map(|_| self.readback(spare));
        let results = self.results((graph, buffers), pass, fetch);
        self.device.record(pass.step, self.dispatches(graph, nodes, pass), &results, readback)
    }

    /// Submits what was recorded, behind all that was written and settled since; `spare` where it fetches anything.
    pub(super) fn submit_recorded(&self, recorded: Recorded, spare: Option<bool>) -> Result<(), ExecError> {
        Ok(self.device.submit_recorded(recorded, spare.map(|spare| self.readback(spare)))?)
    }

    /// Waits for a submission that fetched `bytes`, and reads them.
    pub(super) fn read<R>(&self, spare: bool, bytes: u64, read: impl FnOnce(&[u8]) -> R) -> Result<R, ExecError> {
        Ok(self.device.read(self.readback(spare), bytes, read)?)
    }

    /// Waits until the device is no more than a chunk behind, so that a long prompt can be cancelled.
    pub(super) fn keep_pace(&self) -> Result<(), ExecError> {
        Ok(self.device.keep_pace()?)
    }

    fn readback(&self, spare: bool) -> &Readback {
        self.spare.as_ref().filter(|_| spare).unwrap_or(&self.readback)
    }

    fn dispatches(&self, graph: &Graph, nodes: Range<usize>, pass: Pass) -> impl Iterator<Item = &Dispatch> {
        nodes.flat_map(move |node| self.dispatches_of(graph, node, pass))
    }

    fn results(
        &self,
        (graph, buffers): (&Graph, &Buffers),
        pass: Pass,
        fetch: Option<(TensorId, u64)>,
    ) -> Vec<(&Buffer, u64, u64)> {
        let phase = |id| pass.phase(rows_of(graph, id));
        fetch.iter().map(|(id, bytes)| (self.activation(buffers, *id, phase(*id)), 0, *bytes)).collect()
    }
}
