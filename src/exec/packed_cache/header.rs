//! What a file of packed weights says about itself: which weights of which checkpoint it holds, and where in it they
//! are.
//!
//! Reads and writes nothing. Invariant: two headers are equal only if the packed bytes behind them are.

use std::ops::Range;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::checkpoint::FileIdentity;
use crate::graph::Weight;
use crate::model::{Part, WeightSpec};
use crate::quant::{LAYOUT_VERSION, PackedLayout};

/// Bytes of rows that share a sum, about: a thread checks them at once.
const GROUP_BYTES: usize = 128 << 10;

/// What regions begin at a multiple of.
const PAGE: u64 = 4096;

/// Bytes before the header: magic, its length, its sum.
pub(super) const PREFIX: u64 = 24;

/// Everything that decides a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Of the program's packed formats.
    pub(super) layout_version: u32,
    /// What was opened, by its whole path.
    pub(super) checkpoint: String,
    /// The files it consists of.
    sources: Vec<Source>,
    /// The unit of the graph that the weights belong to.
    unit: String,
    pub(super) weights: Vec<PackedWeight>,
}

/// A file that weights come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Source {
    path: String,
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: Option<u64>,
    ends: u64,
}

/// A weight in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PackedWeight {
    /// The rows it is made of, as text.
    made_of: String,
    pub(super) format: String,
    rows: usize,
    cols: usize,
    /// Bytes of a row in each region.
    pub(super) row_bytes: Vec<usize>,
}

/// Where everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// By weight: where each of its regions begins.
    pub(super) regions: Vec<Vec<u64>>,
    /// By weight: the sum of its first group of rows.
    pub(super) first_sum: Vec<usize>,
    /// Groups of rows of all weights.
    pub(super) sums: usize,
    /// Of the whole file.
    pub(super) bytes: u64,
}

impl Header {
    pub(super) fn new<'w>(
        checkpoint: &Path,
        identity: &[FileIdentity],
        unit: &str,
        weights: impl Iterator<Item = &'w Weight>,
    ) -> Self {
        Self {
            layout_version: LAYOUT_VERSION,
            checkpoint: canonical(checkpoint),
            sources: identity.iter().map(Source::new).collect(),
            unit: unit.to_owned(),
            weights: weights.map(PackedWeight::new).collect(),
        }
    }

    /// Whether it is about the same version of a checkpoint, and packed in the same way.
    pub(super) fn has_source_of(&self, other: &Self) -> bool {
        self.layout_version == other.layout_version && self.sources == other.sources
    }

    /// The name of its file: the same for other versions of the checkpoint, another one for other weights.
    pub(super) fn file_name(&self, extension: &str) -> String {
        let weights = serde_json::to_vec(&self.weights).expect("strings and numbers are JSON");
        format!("{}-{:016x}.{extension}", self.unit.replace(' ', "-"), xxh3_64(&weights))
    }

    /// Where everything is behind a header of so many bytes.
    pub(super) fn places(&self, header_bytes: u64) -> Places {
        let mut places = Places { regions: Vec::new(), first_sum: Vec::new(), sums: 0, bytes: 0 };
        for weight in &self.weights {
            places.first_sum.push(places.sums);
            places.sums += weight.rows.div_ceil(weight.group_rows());
        }
        places.bytes = PREFIX + header_bytes + (places.sums * size_of::<u64>()) as u64;
        for weight in &self.weights {
            let starts = weight.row_bytes.iter().map(|row_bytes| {
                let start = places.bytes.next_multiple_of(PAGE);
                places.bytes = start + (weight.rows * row_bytes) as u64;
                start
            });
            let starts = starts.collect();
            places.regions.push(starts);
        }
        places
    }
}

impl Source {
    fn new(file: &FileIdentity) -> Self {
        let since = |time: std::time::SystemTime| time.duration_since(UNIX_EPOCH).ok();
        let modified = file.modified.and_then(since).map(|time| time.as_nanos() as u64);
        Self { path: canonical(&file.path), bytes: file.bytes, modified, ends: file.ends }
    }
}

impl PackedWeight {
    fn new(weight: &Weight) -> Self {
        let (rows, cols) = (weight.rows(), weight.cols());
        let made_of: Vec<String> = weight.specs.iter().map(matrix).collect();
        Self {
            made_of: made_of.join(" | ") + if weight.ordered { ", in its own order" } else { "" },
            format: weight.format.name().to_owned(),
            rows,
            cols,
            row_bytes: weight.format.layout(rows, cols).row_bytes,
        }
    }

    /// Rows that share a sum.
    pub(super) fn group_rows(&self) -> usize {
        (GROUP_BYTES / self.row_bytes.iter().sum::<usize>().max(1)).max(1)
    }

    /// All groups of rows.
    pub(super) fn groups(&self) -> Vec<Range<usize>> {
        let (rows, step) = (self.rows, self.group_rows());
        (0..rows).step_by(step).map(|start| start..(start + step).min(rows)).collect()
    }

    /// These rows and all that share a sum with them; and which groups those are.
    pub(super) fn whole_groups(&self, rows: &Range<usize>) -> (Range<usize>, Range<usize>) {
        let step = self.group_rows();
        let groups = rows.start / step..rows.end.div_ceil(step);
        (groups.start * step..(groups.end * step).min(self.rows), groups)
    }

    /// Whether a weight of the graph has this layout, which a header read from a file may not say.
    pub(super) fn has(&self, layout: &PackedLayout) -> bool {
        self.row_bytes == layout.row_bytes
    }
}

/// One name for a file, however it was named.
fn canonical(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn matrix(spec: &WeightSpec) -> String {
    let part = |Part { tensor, tensor_rows, rows, transposed }: &Part| {
        let down = if *transposed { ", columns" } else { "" };
        format!("{tensor} [{}..{} of {tensor_rows}{down}]", rows.start, rows.end)
    };
    spec.parts.iter().map(part).collect::<Vec<_>>().join(" + ")
}
