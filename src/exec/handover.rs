//! What a lane computes and hands over: submissions, and the readbacks that their results leave by.
//!
//! A lane that hands on to another has two readbacks, so that one is filled while the other is read. Invariant: a
//! readback is read before it is filled again.

use std::ops::Range;

use super::ExecError;
use super::lane::{Lane, Pass, rows_of};
use crate::gpu::{Buffer, Dispatch, Readback, Recorded};
use crate::graph::{Buffers, Graph, TensorId};

/// What comes behind the nodes of a submission.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending<'e> {
    /// Nothing that the host waits for.
    Nothing,
    /// So many bytes of an activation are copied for [`Lane::read`].
    Fetch {
        id: TensorId,
        bytes: u64,
        /// To the second readback.
        spare: bool,
    },
    /// A token is chosen from the logits.
    Choice(Choice<'e>),
}

/// What chooses a token from the logits, behind the head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<'e> {
    pub(super) dispatches: &'e [Dispatch],
    /// The outcome, and where it is copied to for the host.
    pub(super) chosen: &'e Buffer,
    pub(super) readback: &'e Readback,
}

/// What an [`Ending`] is to a device: dispatches, what is copied, and where to.
type EndingParts<'e> = (&'e [Dispatch], Vec<(&'e Buffer, u64, u64)>, Option<&'e Readback>);

impl Lane {
    /// Submits nodes in one compute pass, with the uploads that are ready beside them, and what comes behind them.
    pub(super) fn submit(
        &self,
        graph: &Graph,
        buffers: &Buffers,
        nodes: Range<usize>,
        pass: Pass,
        ending: Ending<'_>,
    ) -> Result<(), ExecError> {
        let (behind, results, readback) = self.ending((graph, buffers), pass, ending);
        let ready = self.take_ready(&nodes)?;
        let dispatches = self.dispatches(graph, nodes, pass).chain(behind);
        let submitted = self.device.submit_beside(&self.copies(&ready), pass.step, dispatches, &results, readback);
        self.release(ready);
        Ok(submitted?)
    }

    /// As [`Self::submit`], but only recorded.
    pub(super) fn record(
        &self,
        graph: &Graph,
        buffers: &Buffers,
        nodes: Range<usize>,
        pass: Pass,
        ending: Ending<'_>,
    ) -> Recorded {
        let (behind, results, readback) = self.ending((graph, buffers), pass, ending);
        self.device.record(pass.step, self.dispatches(graph, nodes, pass).chain(behind), &results, readback)
    }

    /// Submits what was recorded with this ending, behind all that was written and settled since.
    pub(super) fn submit_recorded(&self, recorded: Recorded, ending: Ending<'_>) -> Result<(), ExecError> {
        let readback = match ending {
            Ending::Nothing => None,
            Ending::Fetch { spare, .. } => Some(self.readback(spare)),
            Ending::Choice(choice) => Some(choice.readback),
        };
        Ok(self.device.submit_recorded(recorded, readback)?)
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

    fn ending<'e>(&'e self, (graph, buffers): (&Graph, &Buffers), pass: Pass, ending: Ending<'e>) -> EndingParts<'e> {
        match ending {
            Ending::Nothing => (&[], Vec::new(), None),
            Ending::Fetch { id, bytes, spare } => {
                let activation = self.activation(buffers, id, pass.phase(rows_of(graph, id)));
                (&[], vec![(activation, 0, bytes)], Some(self.readback(spare)))
            }
            Ending::Choice(Choice { dispatches, chosen, readback }) => {
                (dispatches, vec![(chosen, 0, chosen.bytes())], Some(readback))
            }
        }
    }
}
