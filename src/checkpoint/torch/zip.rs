//! The zip container of PyTorch files: a central directory at the end says where each entry's bytes lie.
//!
//! Reads what `torch.save` writes: one archive that is the whole file, without a comment, entries uncompressed so
//! that they can be mapped; zip64 where files are large. Checksums are not compared: torch may leave them out.
//! Invariant: every entry lies before the central directory, overlaps no other and has a name of its own.

use std::collections::BTreeMap;
use std::ops::Range;

use super::excerpt;

const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const ZIP64_END: &[u8] = b"PK\x06\x06";
const ZIP64_LOCATOR: &[u8] = b"PK\x06\x07";

// Bytes of each record before its name or end.
const LOCAL_BYTES: usize = 30;
const CENTRAL_BYTES: usize = 46;
const END_BYTES: usize = 22;
const ZIP64_END_BYTES: usize = 56;
const ZIP64_LOCATOR_BYTES: usize = 20;

/// A 16- or 32-bit field of this value says that a zip64 record has the real one.
const SATURATED_16: u64 = 0xffff;
const SATURATED_32: u64 = 0xffff_ffff;

/// The id of the extra field with an entry's 64-bit values.
const ZIP64_EXTRA: u64 = 1;

/// An archive has an entry a storage; no model is near this.
const MAX_ENTRIES: u64 = 1 << 20;

/// The entries of an archive, by name.
#[derive(Debug)]
pub(super) struct Archive<'m> {
    entries: BTreeMap<&'m [u8], Range<usize>>,
}

impl<'m> Archive<'m> {
    /// Reads the central directory of `file` and compares it with the entries' own headers.
    pub(super) fn parse(file: &'m [u8]) -> Result<Self, String> {
        let (directory, count) = find_directory(file)?;
        if count > MAX_ENTRIES {
            return Err(format!("its zip directory counts {count} entries; at most {MAX_ENTRIES} are read"));
        }
        let mut rest = &file[directory.clone()];
        let mut listed = Vec::new();
        while !rest.is_empty() {
            if listed.len() as u64 == count {
                return Err(format!("its zip directory has more than the {count} entries that it counts"));
            }
            let (entry, behind) = Entry::parse(rest)?;
            listed.push(entry);
            rest = behind;
        }
        if (listed.len() as u64) < count {
            return Err(format!("its zip directory has {} entries but counts {count}", listed.len()));
        }
        listed.sort_by_key(|entry| entry.header);
        Self::place(&listed, &file[..directory.start])
    }

    /// Gives entries in the file's order their bytes.
    fn place(listed: &[Entry<'m>], file: &[u8]) -> Result<Self, String> {
        let mut entries = BTreeMap::new();
        let (mut end, mut before) = (0, String::new());
        for entry in listed {
            let name = entry.shown();
            if entry.header < end {
                return Err(format!("zip entry \"{name}\" overlaps \"{before}\" by {} bytes", end - entry.header));
            }
            let range = entry.locate(file)?;
            (end, before) = (range.end as u64, name);
            if entries.insert(entry.name, range).is_some() {
                return Err(format!("zip entry \"{before}\" is there twice"));
            }
        }
        Ok(Self { entries })
    }

    /// Where an entry's bytes are in the file.
    pub(super) fn get(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(name.as_bytes()).cloned()
    }

    /// The names that are text.
    pub(super) fn names(&self) -> impl Iterator<Item = &'m str> {
        self.entries.keys().filter_map(|name| str::from_utf8(name).ok())
    }
}

/// A little-endian number of up to eight bytes. The record was checked to be long enough.
fn number(record: &[u8], field: Range<usize>) -> u64 {
    record[field].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Where the central directory is and how many entries it counts.
fn find_directory(file: &[u8]) -> Result<(Range<usize>, u64), String> {
    let end_at = file.len().checked_sub(END_BYTES).filter(|at| file[*at..].starts_with(END));
    let end_at = end_at.ok_or("is cut short: a zip file must end with its end record; download it again")?;
    let end = &file[end_at..];
    let short = [4..6, 6..8, 8..10, 10..12, 12..16, 16..20].map(|field| number(end, field));
    let saturated = [SATURATED_16, SATURATED_16, SATURATED_16, SATURATED_16, SATURATED_32, SATURATED_32];
    let (fields, behind) = match find_zip64_end(file, end_at)? {
        None if short.iter().zip(saturated).any(|(field, saturated)| *field == saturated) => {
            return Err("its zip end record refers to a zip64 record, which is not there".into());
        }
        None => (short, end_at),
        Some(at) => {
            let wide = [16..20, 20..24, 24..32, 32..40, 40..48, 48..56].map(|field| number(&file[at..], field));
            let agree = |at: usize| short[at] == saturated[at] || short[at] == wide[at];
            if !(0..short.len()).all(agree) {
                return Err(format!("its two zip end records disagree: {short:?} and {wide:?}"));
            }
            (wide, at)
        }
    };
    let [disk, directory_disk, here, count, bytes, start] = fields;
    if (disk, directory_disk, here) != (0, 0, count) {
        return Err("is one part of a zip split over several files".into());
    }
    if start.checked_add(bytes) != Some(behind as u64) {
        return Err(format!("its zip directory, {bytes} bytes at byte {start}, does not end at the end record"));
    }
    Ok((start as usize..behind, count))
}

/// Where the zip64 end record is: right before its locator, which is right before the end record.
fn find_zip64_end(file: &[u8], end_at: usize) -> Result<Option<usize>, String> {
    let locator_at = end_at.checked_sub(ZIP64_LOCATOR_BYTES).filter(|at| file[*at..].starts_with(ZIP64_LOCATOR));
    let Some(locator_at) = locator_at else { return Ok(None) };
    let at = number(&file[locator_at..], 8..16);
    let inside = usize::try_from(at).ok().filter(|at| {
        let record = file[..locator_at].get(*at..).unwrap_or_default();
        let whole = record.len() >= ZIP64_END_BYTES && record.starts_with(ZIP64_END);
        whole && number(record, 4..12) == record.len() as u64 - 12
    });
    inside.map(Some).ok_or_else(|| format!("its zip64 end record is not at byte {at}, where the locator says"))
}

/// A line of the central directory.
#[derive(Debug)]
struct Entry<'m> {
    name: &'m [u8],
    /// Where its own header starts.
    header: u64,
    bytes: u64,
}

impl<'m> Entry<'m> {
    /// The directory's first entry, and the directory behind it.
    fn parse(directory: &'m [u8]) -> Result<(Self, &'m [u8]), String> {
        let malformed = || "its zip directory is malformed; download it again";
        let (fixed, rest) = directory.split_at_checked(CENTRAL_BYTES).ok_or_else(malformed)?;
        if !fixed.starts_with(CENTRAL) {
            return Err(malformed().into());
        }
        let length = |field| number(fixed, field) as usize;
        let (name, rest) = rest.split_at_checked(length(28..30)).ok_or_else(malformed)?;
        let (extra, rest) = rest.split_at_checked(length(30..32)).ok_or_else(malformed)?;
        let (_comment, rest) = rest.split_at_checked(length(32..34)).ok_or_else(malformed)?;
        let shown = excerpt(&String::from_utf8_lossy(name));
        if number(fixed, 8..10) & 1 != 0 {
            return Err(format!("zip entry \"{shown}\" is encrypted"));
        }
        let method = number(fixed, 10..12);
        if method != 0 {
            return Err(format!(
                "zip entry \"{shown}\" is compressed (method {method}), so its bytes can't be mapped; unpack it and \
                 pack it again without compression, or convert the checkpoint to safetensors"
            ));
        }
        let values = widen([24..28, 20..24, 42..46].map(|field| number(fixed, field)), extra);
        let [bytes, stored, header] = values.ok_or_else(|| format!("zip entry \"{shown}\" lacks its zip64 sizes"))?;
        if stored != bytes {
            return Err(format!("zip entry \"{shown}\" is uncompressed, yet {bytes} bytes long in {stored}"));
        }
        Ok((Self { name, header, bytes }, rest))
    }

    /// Where its bytes are: behind its own header. `file` ends where the central directory starts.
    fn locate(&self, file: &[u8]) -> Result<Range<usize>, String> {
        let name = self.shown();
        let lies = || format!("zip entry \"{name}\": there is no header of that name at byte {}", self.header);
        let header = usize::try_from(self.header).ok().and_then(|at| file.get(at..)).ok_or_else(lies)?;
        let (fixed, rest) = header.split_at_checked(LOCAL_BYTES).ok_or_else(lies)?;
        let (name_bytes, extra_bytes) = (number(fixed, 26..28) as usize, number(fixed, 28..30) as usize);
        if !fixed.starts_with(LOCAL) || number(fixed, 8..10) != 0 || rest.get(..name_bytes) != Some(self.name) {
            return Err(lies());
        }
        let start = self.header + (LOCAL_BYTES + name_bytes + extra_bytes) as u64;
        let end = start.checked_add(self.bytes).filter(|end| *end <= file.len() as u64);
        let end = end.ok_or_else(|| {
            let bytes = self.bytes;
            format!("zip entry \"{name}\", {bytes} bytes at byte {start}, does not fit before the zip directory")
        })?;
        Ok(start as usize..end as usize)
    }

    fn shown(&self) -> String {
        excerpt(&String::from_utf8_lossy(self.name))
    }
}

/// Replaces saturated values (length, stored length, place of the header) by those of the zip64 extra field, which
/// lists in this order only the ones it replaces.
fn widen(mut values: [u64; 3], mut extra: &[u8]) -> Option<[u64; 3]> {
    if !values.contains(&SATURATED_32) {
        return Some(values);
    }
    loop {
        let (head, rest) = extra.split_at_checked(4)?;
        let (mut field, rest) = rest.split_at_checked(number(head, 2..4) as usize)?;
        if number(head, 0..2) == ZIP64_EXTRA {
            for value in values.iter_mut().filter(|value| **value == SATURATED_32) {
                let (wide, behind) = field.split_at_checked(8)?;
                *value = number(wide, 0..8);
                field = behind;
            }
            return Some(values);
        }
        extra = rest;
    }
}
