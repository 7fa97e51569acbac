//! Zip archives that lie about their entries.

use wgpt::checkpoint::Checkpoint;

use crate::assert_refused;
use crate::torch_files::{Zip, one, pickle, torch_directory};

const DATA: &str = "archive/data/0";

fn whole() -> Zip {
    Zip::torch(&pickle(&one()), &[&[7; 24]])
}

#[track_caller]
fn assert_file_refused(bytes: &[u8], parts: &[&str]) {
    assert_refused(torch_directory(bytes).path(), &[&["pytorch_model.bin: "], parts].concat());
}

/// Opens an archive with one line of its directory, that of the storage, changed.
#[track_caller]
fn assert_line_refused(change: impl Fn(&mut crate::torch_files::Line), parts: &[&str]) {
    let mut zip = whole();
    change(zip.line(DATA));
    assert_file_refused(&zip.bytes(), parts);
}

fn assert_opens(zip: &Zip) {
    let directory = torch_directory(&zip.bytes());
    let checkpoint = Checkpoint::open(directory.path()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(checkpoint.tensor("a").expect("it is there").bytes, [7; 24], "the storage's bytes");
}

/// An entry's zip64 field.
fn wide(values: &[u64]) -> Vec<u8> {
    let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    [&1u16.to_le_bytes()[..], &(values.len() as u16).to_le_bytes(), &values].concat()
}

#[test]
fn zip64_archives_are_read() {
    assert_opens(&whole());
    assert_opens(&Zip { zip64: true, ..whole() });
    let mut zip = whole();
    let line = zip.line(DATA);
    let header = u64::from(line.header);
    line.extra = [b"FB\x02\0ZZ", &wide(&[24, 24, header])[..]].concat();
    (line.bytes, line.stored, line.header) = (u32::MAX, u32::MAX, u32::MAX);
    assert_opens(&zip);
    zip.line(DATA).extra = wide(&[header]);
    (zip.line(DATA).bytes, zip.line(DATA).stored) = (24, 24);
    assert_opens(&zip);
}

#[test]
fn entries_that_cannot_be_mapped_are_refused_by_name() {
    assert_line_refused(|line| line.method = 8, &["\"archive/data/0\" is compressed (method 8)", "safetensors"]);
    assert_line_refused(|line| line.flags = 1, &["\"archive/data/0\" is encrypted"]);
    assert_line_refused(|line| line.stored = 20, &["\"archive/data/0\" is uncompressed, yet 24 bytes long in 20"]);
}

#[test]
fn entries_outside_the_file_are_refused() {
    let no_header = "\"archive/data/0\": there is no header of that name at byte";
    assert_line_refused(|line| line.header += 1, &[no_header]);
    assert_line_refused(|line| line.header = 1 << 30, &[no_header, "1073741824"]);
    assert_line_refused(|line| line.header = u32::MAX, &["\"archive/data/0\" lacks its zip64 sizes"]);
    assert_line_refused(
        |line| (line.header, line.extra) = (u32::MAX, wide(&[u64::MAX])),
        &[no_header, "18446744073709551615"],
    );
    assert_line_refused(|line| (line.stored, line.bytes) = (25, 25), &["\"archive/data/0\", 25 bytes at byte"]);
    assert_line_refused(
        |line| (line.stored, line.bytes, line.extra) = (u32::MAX, u32::MAX, wide(&[u64::MAX, u64::MAX])),
        &["18446744073709551615 bytes at byte", "does not fit before the zip directory"],
    );
    assert_line_refused(
        |line| (line.stored, line.bytes, line.extra) = (u32::MAX, u32::MAX, wide(&[24])),
        &["\"archive/data/0\" lacks its zip64 sizes"],
    );
}

#[test]
fn overlapping_and_repeated_entries_are_refused() {
    let mut zip = whole().entry("archive/data/1", &[0; 8]);
    let line = zip.line(DATA);
    (line.stored, line.bytes) = (30, 30);
    assert_file_refused(&zip.bytes(), &["\"archive/data/1\" overlaps \"archive/data/0\" by 6 bytes"]);
    let mut zip = whole();
    let again = zip.line(DATA).clone();
    zip.lines.push(again);
    assert_file_refused(&zip.bytes(), &["\"archive/data/0\" overlaps \"archive/data/0\" by"]);
    assert_file_refused(&whole().entry(DATA, &[0; 24]).bytes(), &["\"archive/data/0\" is there twice"]);
    // A header inside another entry's bytes.
    let inner = Zip::default().entry("archive/data/1", &[9; 4]).data;
    let mut zip = Zip::torch(&pickle(&one()), &[&[7; 24]]).entry("archive/outer", &inner);
    let outer = zip.line("archive/outer").clone();
    let start = outer.header + 30 + outer.name.len() as u32 + 5;
    zip.lines.push(crate::torch_files::Line {
        name: "archive/data/1".into(),
        header: start,
        stored: 4,
        bytes: 4,
        ..outer
    });
    assert_file_refused(&zip.bytes(), &["\"archive/data/1\" overlaps \"archive/outer\" by"]);
}

#[test]
fn directories_that_contradict_themselves_are_refused() {
    assert_file_refused(&Zip { count: Some(2), ..whole() }.bytes(), &["more than the 2 entries that it counts"]);
    assert_file_refused(&Zip { count: Some(4), ..whole() }.bytes(), &["has 3 entries but counts 4"]);
    let end = whole().bytes().len() - 22;
    let changed = |at: usize, byte: u8| {
        let mut file = whole().bytes();
        file[at] = byte;
        file
    };
    assert_file_refused(&changed(end + 4, 1), &["one part of a zip split over several files"]);
    assert_file_refused(&changed(end + 8, 1), &["one part of a zip split over several files"]);
    assert_file_refused(&changed(end + 16, 1), &["does not end at the end record"]);
    assert_file_refused(&changed(end, b'Q'), &["is cut short: a zip file must end with its end record"]);
    assert_file_refused(&[whole().bytes(), vec![0]].concat(), &["is cut short"]);
    let line = whole().data.len();
    assert_file_refused(&changed(line, b'Q'), &["its zip directory is malformed"]);
    assert_file_refused(&changed(line + 28, 0xff), &["its zip directory is malformed"]);
}

#[test]
fn zip64_end_records_that_contradict_are_refused() {
    let zip = Zip { zip64: true, ..whole() };
    let length = zip.bytes().len();
    let changed = |from_end: usize, byte: u8| {
        let mut file = zip.bytes();
        file[length - from_end] = byte;
        file
    };
    let (end, locator, record) = (22, 22 + 20, 22 + 20 + 56);
    assert_file_refused(&changed(locator - 8, 1), &["zip64 end record is not at byte"]);
    assert_file_refused(&changed(locator - 15, 0xff), &["zip64 end record is not at byte"]);
    assert_file_refused(&changed(record - 4, 45), &["zip64 end record is not at byte"]);
    assert_file_refused(&changed(locator, b'Q'), &["refers to a zip64 record, which is not there"]);
    assert_file_refused(&changed(end - 8, 1), &["two zip end records disagree"]);
    assert_file_refused(&changed(record - 47, 1), &["does not end at the end record"]);
    let count = changed(record - 36, 0xff);
    assert_file_refused(&count, &["one part of a zip split"]);
}
