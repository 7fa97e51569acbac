//! What a reference reads: plain slices, and weights that unpack a row at a time.

use std::ops::Range;

use rayon::prelude::*;

use crate::quant::{BlockFormat, PackedLayout};

/// One row slice of a weight on the host.
#[derive(Debug, Clone, Copy)]
pub struct HostSlice<'a> {
    /// Its first row in the weight.
    pub first_row: usize,
    /// Where its parts lie.
    pub layout: &'a PackedLayout,
    /// The packed bytes.
    pub bytes: &'a [u8],
}

/// A packed weight on the host, in the same bytes that adapters get.
#[derive(Debug, Clone)]
pub struct HostWeight<'a> {
    /// Its format.
    pub format: &'static dyn BlockFormat,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Its row slices, in order.
    pub slices: Vec<HostSlice<'a>>,
}

impl HostWeight<'_> {
    /// Row `row` as values, into `values` of `cols`.
    pub fn row(&self, row: usize, values: &mut [f32]) {
        let at = self.slices.partition_point(|slice| slice.first_row <= row) - 1;
        let slice = &self.slices[at];
        self.format.unpack_row(slice.bytes, slice.layout, row - slice.first_row, values);
    }
}

/// An op's input on the host.
#[derive(Debug, Clone)]
pub enum HostInput<'a> {
    /// An activation, a vector, or a state as values.
    F32(&'a [f32]),
    /// Token ids.
    U32(&'a [u32]),
    /// A weight.
    Weight(HostWeight<'a>),
}

impl<'a> HostInput<'a> {
    /// The values of an activation, vector or state.
    ///
    /// # Panics
    /// If it is something else: a broken invariant of the graph.
    pub fn f32(&self) -> &'a [f32] {
        match self {
            Self::F32(values) => values,
            other => panic!("expected values, found {other:?}"),
        }
    }

    /// The token ids.
    ///
    /// # Panics
    /// If it is something else.
    pub fn u32(&self) -> &'a [u32] {
        match self {
            Self::U32(ids) => ids,
            other => panic!("expected token ids, found {other:?}"),
        }
    }

    /// The weight.
    ///
    /// # Panics
    /// If it is something else.
    pub fn weight(&self) -> &HostWeight<'a> {
        match self {
            Self::Weight(weight) => weight,
            other => panic!("expected a weight, found {other:?}"),
        }
    }
}

/// Runs `work` for ranges that cover `0..count`, on all cores, and returns the results in order.
pub fn fan_out<R: Send>(count: usize, work: impl Fn(Range<usize>) -> R + Sync) -> Vec<R> {
    let part = count.div_ceil(rayon::current_num_threads() * 4).max(1);
    let starts: Vec<usize> = (0..count).step_by(part).collect();
    starts.into_par_iter().map(|start| work(start..(start + part).min(count))).collect()
}
