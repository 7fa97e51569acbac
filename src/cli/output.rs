//! What commands print beside their data: load time, speed, memory.
//!
//! Formats and writes; measures nothing but the process's own peak memory. Invariant: [`Notes`] go to stderr and
//! only where `--quiet` is not given; [`Text`] is flushed after every piece, so that a reader sees it as it is made.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use indicatif::ProgressBar;
use wgpt::checkpoint::partial;
use wgpt::exec::MemoryUse;
use wgpt::plan::Bytes;
use wgpt::session::{Guesses, Stats};

/// What a shell reports for a process that Ctrl-C ended.
pub(super) const INTERRUPTED: i32 = 130;

/// stdout as a stream of text.
#[derive(Debug)]
pub(super) struct Text(io::Stdout);

impl Text {
    pub(super) fn new() -> Self {
        Self(io::stdout())
    }

    /// Writes and flushes.
    pub(super) fn show(&mut self, text: &str) -> io::Result<()> {
        let mut out = self.0.lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Lets what stderr says next begin on a line of its own, where both are the same terminal.
    pub(super) fn end_line(&self) {
        if self.0.is_terminal() {
            eprintln!();
        }
    }
}

/// Remarks for people, on stderr.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notes {
    quiet: bool,
}

impl Notes {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// One line; a stderr that cannot be written to is no reason to stop.
    pub(super) fn line(self, text: impl Display) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// A bar of bytes, seen only where stderr is a terminal.
    pub(super) fn progress(self, bytes: u64) -> ProgressBar {
        if self.quiet { ProgressBar::hidden() } else { ProgressBar::new(bytes) }
    }

    /// Prompt and generation speed of one text.
    pub(super) fn speed(self, stats: &Stats) {
        let reused = match stats.reused_tokens {
            0 => String::new(),
            tokens => format!(" ({tokens} of them held from before)"),
        };
        let (prompt, prefill) = (stats.prompt_tokens, seconds(stats.prefill));
        self.line(format_args!("prompt: {prompt} tokens{reused} in {prefill}, {:.1} tokens/s", stats.prefill_rate()));
        let (generated, decode) = (stats.generated_tokens, seconds(stats.prefill + stats.decode));
        self.line(format_args!(
            "generated: {generated} tokens in {decode} with the prompt, {:.1} tokens/s after the first",
            stats.decode_rate()
        ));
        if let Some(Guesses { made, accepted, forwards }) = stats.guesses {
            let each = generated as f64 / forwards.max(1) as f64;
            self.line(format_args!(
                "guesses: {made} tokens, {accepted} of them right; {each:.2} tokens from each of {forwards} forwards"
            ));
        }
    }

    /// What is allocated on each adapter, and the most the process has held on the host.
    pub(super) fn memory(self, places: &[MemoryUse]) {
        for (index, MemoryUse { place, weights, kv_cache, other }) in places.iter().enumerate() {
            let alike = |places: &[MemoryUse]| places.iter().filter(|one| one.place == *place).count();
            // Adapters of one name, or one that is used twice.
            let which = match alike(places) {
                1 => String::new(),
                count => format!(" ({} of {count})", alike(&places[..=index])),
            };
            self.line(format_args!(
                "memory on {place}{which}: {} ({} weights, {} KV cache, {} other)",
                bytes(weights + kv_cache + other),
                bytes(*weights),
                bytes(*kv_cache),
                bytes(*other)
            ));
        }
        if let Some(peak) = peak_resident_bytes() {
            self.line(format_args!("memory of the process: {} at most, mapped files included", bytes(peak)));
        }
    }
}

/// A duration as people read it.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Bytes in decimal units, as adapters and disks are sold.
pub(super) fn bytes(count: u64) -> String {
    Bytes(count).to_string()
}

/// The most memory the process has held, where the system tells without unsafe calls.
fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Refuses what [`write_file`] could not write: to be known before the work whose result goes there.
pub(super) fn check_file(path: &Path) -> anyhow::Result<()> {
    ensure!(!path.is_dir(), "{}: is a folder; name a file in it", path.display());
    let partial = partial_of(path)?;
    let made = std::fs::File::create(&partial).and_then(|_| std::fs::remove_file(&partial));
    made.with_context(|| format!("{}: cannot write", path.display()))
}

/// Writes a file whole or not at all: beside its place first, then moved there.
pub(super) fn write_file(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    let context = || format!("{}: cannot write", path.display());
    let partial = partial_of(path)?;
    let written = std::fs::write(&partial, contents).and_then(|()| std::fs::rename(&partial, path));
    written.inspect_err(|_| drop(std::fs::remove_file(&partial))).with_context(context)
}

fn partial_of(path: &Path) -> anyhow::Result<PathBuf> {
    partial(path).with_context(|| format!("{}: not a file name", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("out.bin");
        write_file(&path, b"one").expect("written");
        write_file(&path, b"two").expect("replaced");
        assert_eq!(std::fs::read(&path).expect("readable"), b"two", "the later contents");
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing left beside it");
        let missing = folder.path().join("no/such/folder.bin");
        let error = write_file(&missing, b"x").expect_err("no folder").to_string();
        assert!(error.contains("folder.bin"), "names the file: {error}");
        let [folder, missing] =
            [folder.path(), &missing].map(|path| check_file(path).expect_err("refused").to_string());
        assert!(folder.contains("is a folder") && missing.contains("cannot write"), "beforehand: {folder}, {missing}");
        check_file(&path).expect("it can be replaced");
        assert_eq!(std::fs::read(&path).expect("readable"), b"two", "and still is what it was");
    }
}
