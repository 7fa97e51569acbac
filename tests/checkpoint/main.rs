//! Checkpoints as a user hands them over: whole, cut short, contradicting themselves.
//!
//! Small files are built in scratch directories and then broken, one lie at a time; the message must name the file,
//! the tensor and what is wrong. `broken.rs` adds random damage: any answer will do, but no panic.

mod broken;
mod config;
mod families;
mod files;
mod gguf;
mod gguf_architectures;
mod pickle;
mod quantized;
mod safetensors;
mod tiny;
mod torch;
mod torch_files;
mod zip;

use std::path::Path;

use wgpt::checkpoint::{Checkpoint, CheckpointError};

/// Opens what must not open, and compares the message with the parts it must have.
#[track_caller]
fn assert_refused(path: &Path, parts: &[&str]) {
    let error = Checkpoint::open(path).map(|_| ()).expect_err("it must be refused");
    assert_says(&error, parts);
}

#[track_caller]
fn assert_says(error: &CheckpointError, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "the message lacks {part:?}: {message}");
    }
}

#[test]
fn checkpoints_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Checkpoint>();
}
