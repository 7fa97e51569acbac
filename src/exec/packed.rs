//! Where packed bytes come from, and how they are put into a host buffer: by all cores, a few hundred kilobytes each.
//!
//! [`PackedSource`] is the one door: a checkpoint is packed on the way through it, a file that holds packed weights is
//! read as it is. A [`Fill`] says which rows go where in a buffer. Invariant: every byte of a region is
//! written, the padding behind its last row with zeros, so that a buffer that is used again keeps nothing of before.

use std::cell::RefCell;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::ExecError;
use crate::gpu::{Buffer, HostBuffer, MappedPart};
use crate::graph::WeightId;
use crate::quant::{CHUNK_BYTES, PackedLayout};

/// Bytes that one thread packs at a time: what its cache holds twice.
const PIECE_BYTES: usize = 512 << 10;

/// Rows of one slice of a weight.
#[derive(Debug, Clone)]
pub(super) struct PackedRows {
    pub(super) weight: WeightId,
    /// The slice: its first row, and its layout.
    pub(super) slice: Arc<(usize, PackedLayout)>,
    /// Rows of the weight, inside the slice.
    pub(super) rows: Range<usize>,
}

impl PackedRows {
    /// Where a region's bytes of these rows lie in the slice; behind the slice's last row with what pads the region.
    pub(super) fn range(&self, region: usize) -> Range<u64> {
        let (first, layout) = &*self.slice;
        let (region, row_bytes) = (&layout.regions[region], layout.row_bytes[region] as u64);
        let at = |row: usize| region.start + (row - first) as u64 * row_bytes;
        let is_last = self.rows.end == first + layout.rows;
        at(self.rows.start)..if is_last { region.end } else { at(self.rows.end) }
    }

    fn regions(&self) -> usize {
        self.slice.1.regions.len()
    }

    /// The same rows in pieces for one thread each.
    fn pieces(&self) -> impl Iterator<Item = Self> + '_ {
        let row_bytes = self.slice.1.row_bytes.iter().sum::<usize>().max(1);
        let step = (PIECE_BYTES / row_bytes).max(1);
        let end = self.rows.end;
        let ranges = self.rows.clone().step_by(step).map(move |start| start..(start + step).min(end));
        ranges.map(|rows| Self { rows, ..self.clone() })
    }
}

/// Memory that is used again from piece to piece.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) stored: Vec<u8>,
    pub(super) packed: Vec<u8>,
}

/// Where packed bytes come from.
pub(super) trait PackedSource: Debug + Send + Sync {
    /// Hands the packed bytes of some rows to `take`, region by region in their order, without what pads a region. Where
    /// it turns to another source half-way, it begins anew with the first region.
    fn read(
        &self,
        rows: &PackedRows,
        scratch: &mut Scratch,
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), ExecError>;

    /// Tells the system that these rows will be read soon.
    fn read_ahead(&self, rows: &PackedRows);
}

/// What goes into one host buffer.
#[derive(Debug, Default)]
pub(super) struct Fill {
    /// Rows that one thread packs at a time.
    pieces: Vec<PackedRows>,
    /// Ascending ranges of the buffer, each a region of a piece.
    ranges: Vec<Range<u64>>,
    /// By range: its piece.
    piece_of: Vec<usize>,
    /// Rows as they were added: the system is told of them in as few calls as can be.
    whole: Vec<PackedRows>,
}

impl Fill {
    /// A whole slice, as the adapter has it.
    pub(super) fn slice(weight: WeightId, slice: Arc<(usize, PackedLayout)>) -> Self {
        let rows = slice.0..slice.0 + slice.1.rows;
        let all = PackedRows { weight, slice, rows };
        let mut fill = Self::default();
        fill.add(&all, |region| all.range(region).start);
        fill
    }

    /// Adds rows whose regions begin at these places, which are behind everything added before.
    fn add(&mut self, rows: &PackedRows, at: impl Fn(usize) -> u64) {
        let first = self.pieces.len();
        self.pieces.extend(rows.pieces());
        self.whole.push(rows.clone());
        for region in 0..rows.regions() {
            let start = rows.range(region).start;
            for (index, piece) in self.pieces[first..].iter().enumerate() {
                let range = piece.range(region);
                self.ranges.push(at(region) + range.start - start..at(region) + range.end - start);
                self.piece_of.push(first + index);
            }
        }
    }

    /// Packs everything into a mapped buffer.
    pub(super) fn run(&self, source: &dyn PackedSource, into: &HostBuffer) -> Result<(), ExecError> {
        into.write_parts(&self.ranges, |parts| {
            let mut of_pieces: Vec<Vec<MappedPart<'_>>> = self.pieces.iter().map(|_| Vec::new()).collect();
            // Ranges ascend by region within the rows that were added together, so each piece gets its regions in order.
            for (part, piece) in parts.into_iter().zip(&self.piece_of) {
                of_pieces[*piece].push(part);
            }
            let work = self.pieces.par_iter().zip(of_pieces);
            work.try_for_each(|(rows, mut parts)| {
                SCRATCH.with_borrow_mut(|scratch| {
                    source.read(rows, scratch, &mut |region, bytes| parts[region].write(bytes))
                })
            })
        })?
    }

    /// Packs everything into plain memory, which holds zeros.
    pub(super) fn run_in_memory(&self, source: &dyn PackedSource, into: &mut [u8]) -> Result<(), ExecError> {
        let mut of_pieces: Vec<Vec<&mut [u8]>> = self.pieces.iter().map(|_| Vec::new()).collect();
        let (mut rest, mut at) = (into, 0);
        for (range, piece) in self.ranges.iter().zip(&self.piece_of) {
            let (part, behind) = rest[(range.start - at) as usize..].split_at_mut((range.end - range.start) as usize);
            of_pieces[*piece].push(part);
            (rest, at) = (behind, range.end);
        }
        let work = self.pieces.par_iter().zip(of_pieces);
        work.try_for_each(|(rows, mut parts)| {
            let mut put = |region: usize, bytes: &[u8]| parts[region][..bytes.len()].copy_from_slice(bytes);
            SCRATCH.with_borrow_mut(|scratch| source.read(rows, scratch, &mut put))
        })
    }

    /// Tells the system that all of it will be read soon.
    pub(super) fn read_ahead(&self, source: &dyn PackedSource) {
        self.whole.iter().for_each(|rows| source.read_ahead(rows));
    }
}

thread_local! {
    /// Memory of each thread that packs.
    pub(super) static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The first bytes of memory that is used again and only grows.
pub(super) fn room(memory: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if memory.len() < bytes {
        memory.resize(bytes, 0);
    }
    &mut memory[..bytes]
}

/// What is staged at once: how to fill a staging buffer, and where to copy it from there.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) fill: Fill,
    /// Start in the staging buffer, where to, start there, bytes.
    pub(super) copies: Vec<(u64, Buffer, u64, u64)>,
    /// Bytes of the staging buffer.
    pub(super) bytes: u64,
}

impl Batch {
    /// Adds as many rows as there is room for; how many those are.
    fn take(&mut self, rows: &PackedRows, to: &Buffer, capacity: u64) -> usize {
        let padding = rows.regions() as u64 * 2 * CHUNK_BYTES as u64;
        let row_bytes: u64 = rows.slice.1.row_bytes.iter().map(|bytes| *bytes as u64).sum();
        let room = capacity.saturating_sub(self.bytes + padding) / row_bytes.max(1);
        let count = rows.rows.len().min(room as usize);
        if count == 0 {
            return 0;
        }
        let taken = PackedRows { rows: rows.rows.start..rows.rows.start + count, ..rows.clone() };
        let mut starts = Vec::with_capacity(taken.regions());
        for region in 0..taken.regions() {
            let range = taken.range(region);
            let start = self.bytes.next_multiple_of(CHUNK_BYTES as u64);
            self.copies.push((start, to.clone(), range.start, range.end - range.start));
            self.bytes = start + range.end - range.start;
            starts.push(start);
        }
        self.fill.add(&taken, |region| starts[region]);
        count
    }
}

/// Cuts slices, each with the buffer it goes to, into batches of at most `capacity` bytes.
///
/// # Panics
/// If a row is larger than that: the plan makes staging buffers larger than any row.
pub(super) fn batches(
    slices: impl Iterator<Item = (WeightId, (usize, PackedLayout), Buffer)>,
    capacity: u64,
) -> Vec<Arc<Batch>> {
    let (mut done, mut open) = (Vec::new(), Batch::default());
    for (weight, slice, to) in slices {
        let (mut next, end) = (slice.0, slice.0 + slice.1.rows);
        let slice = Arc::new(slice);
        while next < end {
            let rows = PackedRows { weight, slice: slice.clone(), rows: next..end };
            let taken = open.take(&rows, &to, capacity);
            next += taken;
            if taken == 0 {
                assert!(open.bytes > 0, "a row of weight {weight:?} is larger than a staging buffer of {capacity}");
                done.push(Arc::new(std::mem::take(&mut open)));
            }
        }
    }
    if open.bytes > 0 {
        done.push(Arc::new(open));
    }
    done
}
