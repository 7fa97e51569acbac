//! What can be wrong with a checkpoint, in words for the person who downloaded it.
//!
//! Every message names the file, then the tensor or key, then what was expected and found.

use std::io;
use std::path::PathBuf;

/// Why a checkpoint, one of its tensors or a config key can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused a file.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The path is no checkpoint.
    #[error("{}: {reason}", .path.display())]
    NotACheckpoint {
        /// What was to be opened.
        path: PathBuf,
        /// What is missing, or too much.
        reason: String,
    },
    /// The file ends too early.
    #[error(
        "{}: truncated: {what} needs {needed} bytes at byte {at}, the file has {left} left; download it again",
        .file.display()
    )]
    Truncated {
        /// The file.
        file: PathBuf,
        /// What was being read.
        what: String,
        /// Where.
        at: u64,
        /// Bytes it takes.
        needed: u64,
        /// Bytes there are.
        left: u64,
    },
    /// The file was longer when it was opened.
    #[error(
        "{}: has been cut short while in use: it had {bytes} bytes when it was opened, now {found}; \
         is it still being written? Start again when it is whole",
        .path.display()
    )]
    Shortened {
        /// The file.
        path: PathBuf,
        /// Its length when it was opened.
        bytes: u64,
        /// Its length now.
        found: u64,
    },
    /// The file's header or index contradicts the format.
    #[error("{}: {reason}", .file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What contradicts what.
        reason: String,
    },
    /// A tensor's entry contradicts the file.
    #[error("{}: tensor \"{tensor}\": {reason}", .file.display())]
    BadTensor {
        /// The file.
        file: PathBuf,
        /// The tensor, by the name in the file.
        tensor: String,
        /// What contradicts what.
        reason: String,
    },
    /// A tensor in a format wgpt can't read.
    #[error("{}: tensor \"{tensor}\": {format} is not supported; supported: {supported}", .file.display())]
    UnsupportedFormat {
        /// The file.
        file: PathBuf,
        /// The tensor asked for.
        tensor: String,
        /// Its format, as the file calls it.
        format: String,
        /// Every readable format.
        supported: String,
    },
    /// No tensor of that name.
    #[error("{}: there is no tensor \"{tensor}\"{hint}", .path.display())]
    NoTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
        /// A name that is there and looks alike, with a leading separator, or nothing.
        hint: String,
    },
    /// A config key that is needed and absent.
    #[error("{file}: \"{key}\" is missing")]
    MissingKey {
        /// Where it was looked for.
        file: String,
        /// The key or keys.
        key: String,
    },
    /// A key with a value of another type.
    #[error("{file}: \"{key}\": expected {expected}, found {found}")]
    WrongType {
        /// Where it stands.
        file: String,
        /// The key.
        key: String,
        /// What was asked for.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A value of the config that is understood and not supported.
    #[error("{file}: \"{key}\" is {value}, which is not supported; supported: {supported}")]
    UnsupportedValue {
        /// Where it stands.
        file: String,
        /// The key.
        key: String,
        /// What it says.
        value: String,
        /// What it may say.
        supported: String,
    },
    /// A GGUF architecture whose names can't be translated.
    #[error("{}: GGUF architecture \"{architecture}\" is not supported; supported: {supported}", .file.display())]
    UnknownArchitecture {
        /// The file.
        file: PathBuf,
        /// What its metadata says.
        architecture: String,
        /// Every one with a table.
        supported: String,
    },
}
