//! One file of packed weights: written whole or not at all, read by row.
//!
//! Magic and the header's length and sum (8 bytes each, little-endian), the header as JSON, a sum for each group of
//! rows, and on pages of their own each region of each weight, row after row, as adapters have them. The header's sum
//! covers the other sums too. Invariant: no byte of a weight is handed out before the sum of its group was right once.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rayon::prelude::*;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::header::{Header, PREFIX, Places};
use crate::checkpoint::{CheckpointError, MappedFile};
use crate::exec::ExecError;
use crate::exec::packed::{PackedRows, PackedSource, SCRATCH, Scratch, room};
use crate::graph::{Weight, WeightId};

/// What such files begin with.
const MAGIC: [u8; 8] = *b"wgptpack";

/// No header is near this.
const MOST_HEADER: u64 = 64 << 20;

/// Groups of rows that are packed between two looks at how far it is.
const GROUPS_AT_ONCE: usize = 256;

/// A file of packed weights, opened.
#[derive(Debug)]
pub(super) struct PackedFile {
    map: MappedFile,
    header: Header,
    places: Places,
    sums: Vec<u64>,
    /// By group: whether its sum was found right.
    right: Vec<AtomicBool>,
}

/// Why a file can't be used.
#[derive(Debug)]
pub(super) enum Unusable {
    /// There is none.
    Missing,
    /// It was made from another version of the checkpoint, or by another version of wgpt.
    Stale,
    /// It is not as it was written.
    Damaged(String),
    /// It can't be opened; nothing is known of what is in it.
    Unreadable(String),
}

/// Why a file was not written.
#[derive(Debug)]
pub(super) enum NotWritten {
    /// The disk.
    Io(io::Error),
    /// What was to be packed.
    Source(ExecError),
}

impl PackedFile {
    /// Opens a file that is to say this of itself.
    pub(super) fn open(path: &Path, expected: &Header) -> Result<Self, Unusable> {
        let map = MappedFile::open(path).map_err(|error| match &error {
            // Of a folder that is none: what can't be written there is said once.
            CheckpointError::Io { source, .. }
                if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Unusable::Missing
            }
            CheckpointError::Io { .. } => Unusable::Unreadable(error.to_string()),
            _ if path.is_dir() => Unusable::Unreadable(error.to_string()),
            error => Unusable::Damaged(error.to_string()),
        })?;
        let json = header_json(&map).map_err(Unusable::Damaged)?;
        let header: Header =
            serde_json::from_slice(&json).map_err(|error| Unusable::Damaged(format!("its header: {error}")))?;
        if header != *expected {
            return Err(Unusable::Stale);
        }
        let places = header.places(json.len() as u64);
        if map.len() as u64 != places.bytes {
            return Err(Unusable::Damaged(format!("{} bytes, expected {}", map.len(), places.bytes)));
        }
        let mut stored = vec![0; places.sums * size_of::<u64>()];
        read(&map, PREFIX + json.len() as u64, &mut stored).map_err(Unusable::Damaged)?;
        let mut sum = [0; 8];
        read(&map, PREFIX - 8, &mut sum).map_err(Unusable::Damaged)?;
        if u64::from_le_bytes(sum) != sum_of(&json, &stored) {
            return Err(Unusable::Damaged("its header is not as it was written".into()));
        }
        let sums: Vec<u64> = stored.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let right = sums.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Self { map, header, places, sums, right })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.map.path()
    }

    /// Its length.
    pub(super) fn bytes(&self) -> u64 {
        self.places.bytes
    }

    /// Hands rows of a weight to `take`, region by region; or says what is wrong with the file.
    pub(super) fn read(
        &self,
        weight: usize,
        rows: &Range<usize>,
        scratch: &mut Scratch,
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), String> {
        let (whole, groups) = self.header.weights[weight].whole_groups(rows);
        let first = self.places.first_sum[weight];
        let is_right = |group: usize| self.right[first + group].load(Ordering::Relaxed);
        if groups.clone().all(is_right) {
            for region in 0..self.places.regions[weight].len() {
                let (at, bytes) = self.range(weight, region, rows);
                let bytes = room(&mut scratch.packed, bytes);
                read(&self.map, at, bytes)?;
                take(region, bytes);
            }
            return Ok(());
        }
        self.check(weight, &whole, groups, scratch)?;
        let (mut start, row_bytes) = (0, &self.header.weights[weight].row_bytes);
        for (region, row_bytes) in row_bytes.iter().enumerate() {
            let at = start + (rows.start - whole.start) * row_bytes;
            take(region, &scratch.packed[at..at + rows.len() * row_bytes]);
            start += whole.len() * row_bytes;
        }
        Ok(())
    }

    /// Reads whole groups of rows, one region behind the other, and checks their sums.
    fn check(
        &self,
        weight: usize,
        whole: &Range<usize>,
        groups: Range<usize>,
        scratch: &mut Scratch,
    ) -> Result<(), String> {
        let about = &self.header.weights[weight];
        let memory = room(&mut scratch.packed, whole.len() * about.row_bytes.iter().sum::<usize>());
        let (mut rest, mut regions) = (memory, Vec::with_capacity(about.row_bytes.len()));
        for region in 0..about.row_bytes.len() {
            let (at, bytes) = self.range(weight, region, whole);
            let (part, behind) = rest.split_at_mut(bytes);
            read(&self.map, at, part)?;
            regions.push(&*part);
            rest = behind;
        }
        for group in groups {
            let start = group * about.group_rows();
            let rows = start - whole.start..(start + about.group_rows()).min(whole.end) - whole.start;
            let parts = regions.iter().zip(&about.row_bytes);
            let parts = parts.map(|(region, row_bytes)| &region[rows.start * row_bytes..rows.end * row_bytes]);
            let index = self.places.first_sum[weight] + group;
            if parts.fold(0, |sum, bytes| xxh3_64_with_seed(bytes, sum)) != self.sums[index] {
                let end = start + rows.len() - 1;
                return Err(format!("rows {start} to {end} of weight {weight} are not as they were written"));
            }
            self.right[index].store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Tells the system that rows of a weight will be read soon.
    pub(super) fn will_need(&self, weight: usize, rows: &Range<usize>) {
        for region in 0..self.places.regions[weight].len() {
            let (at, bytes) = self.range(weight, region, rows);
            self.map.will_need(at as usize..at as usize + bytes);
        }
    }

    /// Where rows of a region begin, and their bytes.
    fn range(&self, weight: usize, region: usize, rows: &Range<usize>) -> (u64, usize) {
        let row_bytes = self.header.weights[weight].row_bytes[region];
        (self.places.regions[weight][region] + (rows.start * row_bytes) as u64, rows.len() * row_bytes)
    }
}

/// The header of a file, where there is one.
pub(super) fn header(path: &Path) -> Option<Header> {
    let json = header_json(&MappedFile::open(path).ok()?).ok()?;
    serde_json::from_slice(&json).ok()
}

fn header_json(map: &MappedFile) -> Result<Vec<u8>, String> {
    let mut prefix = [0; PREFIX as usize - 8];
    read(map, 0, &mut prefix)?;
    let bytes = u64::from_le_bytes(prefix[8..].try_into().expect("eight bytes"));
    if prefix[..8] != MAGIC || bytes > MOST_HEADER.min(map.len() as u64) {
        return Err("not a file of packed weights".into());
    }
    let mut json = vec![0; bytes as usize];
    read(map, PREFIX, &mut json)?;
    Ok(json)
}

fn read(map: &MappedFile, at: u64, bytes: &mut [u8]) -> Result<(), String> {
    map.read_at(at, bytes).map_err(|error| error.to_string())
}

/// The sum of a header and of all other sums.
fn sum_of(json: &[u8], sums: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(json);
    sum.update(sums);
    sum.digest()
}

/// Packs weights into a file, which appears under its name once it is whole.
pub(super) fn write(
    path: &Path,
    header: &Header,
    weights: &[(WeightId, &Weight)],
    source: &dyn PackedSource,
    progress: &mut dyn FnMut(u64),
) -> Result<(), NotWritten> {
    let partial = partial(path);
    let written = write_to(&partial, header, weights, source, progress)
        .and_then(|()| std::fs::rename(&partial, path).map_err(NotWritten::Io));
    written.inspect_err(|_| drop(std::fs::remove_file(&partial)))
}

/// What the name of a file that is still written has before the numbers that make it one of its own.
pub(super) const PARTIAL: &str = ".partial-";

fn partial(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!("{PARTIAL}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

fn write_to(
    path: &Path,
    header: &Header,
    weights: &[(WeightId, &Weight)],
    source: &dyn PackedSource,
    progress: &mut dyn FnMut(u64),
) -> Result<(), NotWritten> {
    let json = serde_json::to_vec(header).expect("strings and numbers are JSON");
    let places = header.places(json.len() as u64);
    let file = File::create(path).map_err(NotWritten::Io)?;
    let mut sums = Vec::with_capacity(places.sums);
    for (index, (id, weight)) in weights.iter().enumerate() {
        let about = &header.weights[index];
        let slice = Arc::new((0, weight.format.layout(weight.rows(), weight.cols())));
        assert!(about.has(&slice.1), "the header is about {}", weight.label());
        let pack = |rows: &Range<usize>| {
            let at = |region: usize| places.regions[index][region] + (rows.start * about.row_bytes[region]) as u64;
            let rows = PackedRows { weight: *id, slice: slice.clone(), rows: rows.clone() };
            pack(&file, source, &rows, at)
        };
        for groups in about.groups().chunks(GROUPS_AT_ONCE) {
            sums.extend(groups.par_iter().map(pack).collect::<Result<Vec<u64>, _>>()?);
            let rows: usize = groups.iter().map(Range::len).sum();
            progress((rows * about.row_bytes.iter().sum::<usize>()) as u64);
        }
    }
    let sums: Vec<u8> = sums.into_iter().flat_map(u64::to_le_bytes).collect();
    let (bytes, sum) = ((json.len() as u64).to_le_bytes(), sum_of(&json, &sums).to_le_bytes());
    let start = [&MAGIC[..], &bytes, &sum, &json, &sums].concat();
    write_all_at(&file, &start, 0).map_err(NotWritten::Io)
}

/// Packs and writes a group of rows; its sum.
fn pack(
    file: &File,
    source: &dyn PackedSource,
    rows: &PackedRows,
    at: impl Fn(usize) -> u64,
) -> Result<u64, NotWritten> {
    let (mut sum, mut written) = (0, Ok(()));
    let mut put = |region: usize, bytes: &[u8]| {
        sum = xxh3_64_with_seed(bytes, if region == 0 { 0 } else { sum });
        if written.is_ok() {
            written = write_all_at(file, bytes, at(region));
        }
    };
    SCRATCH.with_borrow_mut(|scratch| source.read(rows, scratch, &mut put)).map_err(NotWritten::Source)?;
    written.map_err(NotWritten::Io).map(|()| sum)
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, at)? {
            0 => return Err(ErrorKind::WriteZero.into()),
            written => (bytes, at) = (&bytes[written..], at + written as u64),
        }
    }
    Ok(())
}
