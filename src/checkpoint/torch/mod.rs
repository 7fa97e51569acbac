//! PyTorch's `pytorch_model.bin`: a zip archive with a pickle that describes tensors, and their bytes beside it.
//!
//! `zip.rs` finds the entries, `pickle/` reads the description without ever running what it names, `value.rs` is
//! all it can build, `state_dict.rs` checks tensors against the bytes. Not read: what `torch.save` wrote before
//! PyTorch 1.6 (no zip), TorchScript, sparse and quantized tensors. Invariant: a tensor's bytes are part of one
//! storage, row after row; several tensors may share a storage, as tied weights do.

mod pickle;
mod state_dict;
mod value;
mod zip;

use super::CheckpointError;
use super::mmap::MappedFile;
use super::view::TensorEntry;
use zip::Archive;

/// A description takes some 200 bytes a tensor; no model's is near this. It bounds what is copied out of the file.
const MAX_PICKLE: usize = 100_000_000;

/// Characters of a hostile file's texts that a message repeats.
const MAX_EXCERPT: usize = 120;

/// The tensors of one file, which is number `file` of the checkpoint.
pub(super) fn parse(mapping: &MappedFile, file: usize) -> Result<Vec<TensorEntry>, CheckpointError> {
    let malformed = |reason| CheckpointError::Malformed { file: mapping.path().into(), reason };
    check_magic(mapping).map_err(malformed)?;
    let archive = Archive::parse(mapping).map_err(malformed)?;
    let root = root(&archive).map_err(malformed)?;
    let order = archive.get(&format!("{root}/byteorder")).map_or(&b"little"[..], |range| &mapping[range]);
    if order != b"little" {
        let order = excerpt(&String::from_utf8_lossy(&order[..order.len().min(MAX_EXCERPT)]));
        return Err(malformed(format!("its byte order is \"{order}\"; only \"little\" is read")));
    }
    let range = archive.get(&format!("{root}/data.pkl")).unwrap_or_default();
    if range.len() > MAX_PICKLE {
        let bytes = range.len();
        return Err(malformed(format!("data.pkl is {bytes} bytes long, too long for a state dict's")));
    }
    // A copy: text borrowed from the mapping could change after it was found to be UTF-8.
    let bytes = mapping[range].to_vec();
    let pickle = pickle::parse(&bytes).map_err(|reason| malformed(format!("data.pkl {reason}")))?;
    state_dict::entries(&pickle, &archive, &root, mapping, file)
}

/// Tells a zip from the files of before PyTorch 1.6, whose first bytes are a pickle's or a tar's.
fn check_magic(file: &[u8]) -> Result<(), String> {
    let tar = file.get(257..262) == Some(b"ustar");
    if file.starts_with(&[0x80]) || tar {
        let reason = "is no zip archive: PyTorch before 1.6 wrote such files, which are not read; load it with \
                      PyTorch (weights_only=True) and save it again, or convert it to safetensors";
        return Err(reason.into());
    }
    if !file.starts_with(b"PK") {
        return Err("is not a PyTorch file: it does not start as a zip archive does; download it again".into());
    }
    Ok(())
}

/// The folder inside the archive that holds everything; its name is the file's at the time it was saved.
fn root(archive: &Archive<'_>) -> Result<String, String> {
    let roots = archive.names().filter_map(|name| name.strip_suffix("/data.pkl"));
    let mut roots = roots.filter(|root| !root.contains('/'));
    match (roots.next(), roots.next()) {
        (Some(root), None) => Ok(root.into()),
        (None, _) => Err("is a zip archive without data.pkl, not a PyTorch file".into()),
        (Some(one), Some(other)) => {
            Err(format!("holds both {}/data.pkl and {}/data.pkl; only one can be meant", excerpt(one), excerpt(other)))
        }
    }
}

/// A file's text as a message may show it: short, and without control characters.
fn excerpt(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_EXCERPT).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_EXCERPT).is_some() {
        shown.push('…');
    }
    shown
}
