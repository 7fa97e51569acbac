//! Weights that come from files as long as those are good, and as they are made where they are not.
//!
//! Writes nothing but what was found damaged. Invariant: a file with one wrong byte gives no more bytes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::file::PackedFile;
use super::{Unit, damaged};
use crate::exec::ExecError;
use crate::exec::checkpoint_weights::CheckpointWeights;
use crate::exec::packed::{PackedRows, PackedSource, Scratch};
use crate::graph::WeightId;

/// Where the packed bytes of a graph's weights come from.
#[derive(Debug)]
pub(in crate::exec) struct Packing {
    source: Arc<dyn PackedSource>,
    cached: Option<Arc<CachedWeights>>,
}

impl Packing {
    /// From files, where they are there.
    pub(super) fn cached(cached: CachedWeights) -> Self {
        let cached = Arc::new(cached);
        Self { source: cached.clone(), cached: Some(cached) }
    }

    /// Packed on the way.
    pub(in crate::exec) fn uncached(made: CheckpointWeights) -> Self {
        Self { source: Arc::new(made), cached: None }
    }

    /// For as long as they are wanted.
    pub(in crate::exec) const fn source(&self) -> &Arc<dyn PackedSource> {
        &self.source
    }

    /// Makes those files anew that were found damaged while they were read.
    pub(in crate::exec) fn mend(&self) {
        for kept in self.cached.iter().flat_map(|cached| &cached.files) {
            if kept.damaged.load(Ordering::Relaxed)
                && let Some(cached) = &self.cached
                && let Err(error) = kept.unit.write(&cached.made, &mut |_| ())
            {
                tracing::warn!("{}: not made anew: {error:?}", kept.unit.path.display());
            }
        }
    }
}

/// Weights that come from files as long as those are good, all others as they are made.
#[derive(Debug)]
pub(super) struct CachedWeights {
    pub(super) made: CheckpointWeights,
    files: Vec<Kept>,
    /// By weight: its file, and which one in it.
    places: HashMap<WeightId, (usize, usize)>,
}

/// A file in use.
#[derive(Debug)]
struct Kept {
    file: PackedFile,
    unit: Unit,
    damaged: AtomicBool,
}

impl CachedWeights {
    pub(super) fn new(made: CheckpointWeights) -> Self {
        Self { made, files: Vec::new(), places: HashMap::new() }
    }

    /// Takes a unit's weights from a file.
    pub(super) fn add(&mut self, file: PackedFile, unit: Unit) {
        // When it was last written is when it was last used: where that can't be said, nothing depends on it.
        drop(std::fs::File::open(file.path()).and_then(|file| file.set_modified(SystemTime::now())));
        let number = self.files.len();
        let ids = unit.weights.iter().enumerate().map(|(index, (id, _))| (*id, (number, index)));
        self.places.extend(ids);
        self.files.push(Kept { file, unit, damaged: AtomicBool::new(false) });
    }

    /// The good file that holds a weight, and which one in it.
    fn place(&self, weight: WeightId) -> Option<(&Kept, usize)> {
        let (file, index) = *self.places.get(&weight)?;
        let kept = &self.files[file];
        (!kept.damaged.load(Ordering::Relaxed)).then_some((kept, index))
    }
}

impl PackedSource for CachedWeights {
    fn read(
        &self,
        rows: &PackedRows,
        scratch: &mut Scratch,
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), ExecError> {
        if let Some((kept, index)) = self.place(rows.weight) {
            match kept.file.read(index, &rows.rows, scratch, take) {
                Ok(()) => return Ok(()),
                Err(reason) => {
                    // Only the first thread to find out says it.
                    if !kept.damaged.swap(true, Ordering::Relaxed) {
                        tracing::warn!("{}", damaged(&kept.unit.path, &reason));
                        drop(std::fs::remove_file(&kept.unit.path));
                    }
                }
            }
        }
        self.made.read(rows, scratch, take)
    }

    fn read_ahead(&self, rows: &PackedRows) {
        match self.place(rows.weight) {
            Some((kept, index)) => kept.file.will_need(index, &rows.rows),
            None => self.made.read_ahead(rows),
        }
    }
}
