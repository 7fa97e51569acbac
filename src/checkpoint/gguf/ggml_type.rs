//! GGUF's tensor types: wgpt's formats, and the block sizes of those it can't read yet.
//!
//! The sizes let a file with such tensors be checked and listed; asking for one of them names its format. A format
//! that [`crate::quant`] learns hides its line here, which can then go.

use crate::checkpoint::view::Encoding;
use crate::quant;

/// One tensor type.
#[derive(Debug)]
pub(super) struct GgmlType {
    pub(super) block_len: u64,
    pub(super) block_bytes: u64,
    pub(super) encoding: Encoding,
}

/// (id, name, weights of a block, bytes of a block), from ggml's `ggml.h` and `ggml-common.h`.
const UNREADABLE: &[(u32, &str, u64, u64)] = &[
    (9, "q8_1", 32, 36),
    (15, "q8_k", 256, 292),
    (16, "iq2_xxs", 256, 66),
    (17, "iq2_xs", 256, 74),
    (18, "iq3_xxs", 256, 98),
    (19, "iq1_s", 256, 50),
    (21, "iq3_s", 256, 110),
    (22, "iq2_s", 256, 82),
    (24, "i8", 1, 1),
    (25, "i16", 1, 2),
    (26, "i32", 1, 4),
    (27, "i64", 1, 8),
    (28, "f64", 1, 8),
    (29, "iq1_m", 256, 56),
    (34, "tq1_0", 256, 54),
    (35, "tq2_0", 256, 66),
];

/// The type with this id.
pub(super) fn look_up(id: u32) -> Option<GgmlType> {
    if let Some(format) = quant::from_ggml_type(id) {
        let (block_len, block_bytes) = (format.block_len() as u64, format.block_bytes() as u64);
        return Some(GgmlType { block_len, block_bytes, encoding: Encoding::Known(format) });
    }
    let &(_, name, block_len, block_bytes) = UNREADABLE.iter().find(|(known, ..)| *known == id)?;
    Some(GgmlType { block_len, block_bytes, encoding: Encoding::Unknown(format!("{name} (ggml type {id})")) })
}
