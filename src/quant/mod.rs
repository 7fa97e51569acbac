//! Weight formats: how a row of weights is stored in a file and how it is laid out on an adapter.
//!
//! A format has two byte forms of the same values:
//! - **stored**: what the checkpoint file holds (ggml's blocks, or plain little-endian floats), row after row;
//! - **packed**: the device layout that `shaders/quant/<name>.wgsl` reads: one or more *regions* (quants, scales,
//!   further bits of the quants), each a run of whole 16-byte units for all rows of a slice, so that neighbouring
//!   lanes read neighbouring chunks. The same packed bytes serve resident and streamed weights.
//!
//! This room does not know files, models or wgpu. Invariant: `unpack(repack(stored)) == dequantize(stored)`,
//! bit for bit.
//!
//! Callers hand over slices of the right length: checkpoint sizes are checked where files are read, so a wrong one
//! here is a defect of wgpt and panics.

use std::fmt::Debug;
use std::ops::Range;

mod absmax4;
mod coded;
mod codes;
mod dense;
mod f8_e4m3;
mod grouped;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;
mod zero_point;

pub use absmax4::{Absmax, DoubleQuantized, FP4, FP4_DQ, Float, NF4, NF4_DQ, NormalFloat, Table};
pub use coded::Coded;
pub use dense::{BF16, Dense, F16, F32};
pub use f8_e4m3::F8E4M3;
pub use iq4_nl::Iq4Nl;
pub use iq4_xs::Iq4Xs;
pub use mxfp4::Mxfp4;
pub use q2_k::Q2K;
pub use q3_k::Q3K;
pub use q4_0::Q4_0;
pub use q4_1::Q4_1;
pub use q4_k::Q4K;
pub use q5_0::Q5_0;
pub use q5_1::Q5_1;
pub use q5_k::Q5K;
pub use q6_k::Q6K;
pub use q8_0::Q8_0;
pub use zero_point::ZeroPoint;

/// Every region of a packed slice starts at a multiple of this many bytes, the largest alignment that WebGPU
/// asks of a storage binding's offset.
pub const REGION_ALIGN: u64 = 256;

/// Which packed bytes stored ones become, and which stored ones values are quantized to. To be raised whenever that
/// changes for any format: whoever keeps packed bytes in files makes them anew then.
pub const LAYOUT_VERSION: u32 = 1;

/// Bytes that one lane of a kernel loads at once, at most.
pub const CHUNK_BYTES: usize = 16;

/// One weight format; its twin is the WGSL snippet `shaders/quant/<name>.wgsl`.
pub trait BlockFormat: Debug + Send + Sync {
    /// ggml's name (`q4_0`) where ggml has the format; the same string in Rust, WGSL and on the command line.
    fn name(&self) -> &'static str;

    /// The id of this format in GGUF's tensor list (`ggml_type`); none where GGUF has no such format.
    fn ggml_type(&self) -> Option<u32>;

    /// Weights in one stored block, along a row; a row's length must be a multiple of it.
    fn block_len(&self) -> usize;

    /// Bytes of one stored block.
    fn block_bytes(&self) -> usize;

    /// Weights along a row whose blocks have something in common, counted from the row's first: only behind whole runs
    /// can another row's blocks follow.
    fn run_len(&self) -> usize {
        self.block_len()
    }

    /// Weights of one chunk, what a lane takes at once (`CHUNK` in WGSL): 4 for f32, 8 for f16, 16 for q8_0, 32 for
    /// formats of fewer bits. It divides 32.
    fn chunk_len(&self) -> usize;

    /// Bytes of one chunk in region 0: 16, or 8 for codes of 2 bits there.
    fn chunk_bytes(&self) -> usize {
        CHUNK_BYTES
    }

    /// Whether weights are whole numbers of their scales that a signed byte holds, less a min: then the snippet has
    /// `chunk_codes` and `half_scale`, and decode may multiply by integer dot products.
    fn integer(&self) -> bool {
        false
    }

    /// Whether codes stand for places in a table of sixteen values: then the snippet has `hold_values` and `held4`, and
    /// with [`Self::integer`] also `held_codes`.
    fn table(&self) -> bool {
        false
    }

    /// Bytes of side data (scales and mins; further bits) a row of `cols` weights needs in each region after the
    /// first.
    fn side_bytes_per_row(&self, cols: usize) -> Vec<usize>;

    /// Stored bytes to values. `stored` is whole blocks, `weights` as long as they hold.
    ///
    /// # Panics
    /// When the two lengths disagree; the same holds for the other three.
    fn dequantize(&self, stored: &[u8], weights: &mut [f32]);

    /// Values to stored bytes, as the format's reference (ggml, bitsandbytes) does, byte for byte. `weights` is one row,
    /// or the start of one.
    fn quantize(&self, weights: &[f32], stored: &mut [u8]);

    /// The first of some stored blocks whose scales are not numbers, or make weights that are none: a damaged file.
    /// Plain floats are taken as they are.
    fn bad_block(&self, _stored: &[u8]) -> Option<usize> {
        None
    }

    /// One stored row into row `row` (counted from the slice's first) of a packed slice, which was zeroed.
    fn repack_row(&self, stored: &[u8], layout: &PackedLayout, row: usize, packed: &mut [u8]);

    /// Row `row` of a packed slice to values; `weights` is `layout.cols` long.
    fn unpack_row(&self, packed: &[u8], layout: &PackedLayout, row: usize, weights: &mut [f32]);

    /// Bytes of a stored row.
    fn row_bytes(&self, cols: usize) -> usize {
        cols.div_ceil(self.block_len()) * self.block_bytes()
    }

    /// Bits a weight takes in the file.
    fn bits_per_weight(&self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }

    /// Where each region of a slice of `rows` × `cols` weights lies.
    fn layout(&self, rows: usize, cols: usize) -> PackedLayout {
        let chunks_per_row = cols.div_ceil(self.chunk_len());
        let mut row_bytes = vec![chunks_per_row * self.chunk_bytes()];
        row_bytes.extend(self.side_bytes_per_row(cols));
        let mut end = 0u64;
        let regions = row_bytes.iter().map(|bytes| {
            let start = end.next_multiple_of(REGION_ALIGN);
            // Shaders index regions in 16-byte chunks or 4-byte words: never a partial one.
            end = start + (rows as u64 * *bytes as u64).next_multiple_of(CHUNK_BYTES as u64);
            start..end
        });
        let regions = regions.collect();
        PackedLayout { rows, cols, chunks_per_row, row_bytes, regions, bytes: end }
    }
}

/// Where the parts of one packed slice lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedLayout {
    /// Rows of the slice.
    pub rows: usize,
    /// Weights of a row.
    pub cols: usize,
    /// Chunks of a row in region 0; the last one is padded with zero quants.
    pub chunks_per_row: usize,
    /// Bytes a row takes in each region, padding included.
    pub row_bytes: Vec<usize>,
    /// Byte ranges: region 0 holds the quants, the others side data. Each starts at [`REGION_ALIGN`].
    pub regions: Vec<Range<u64>>,
    /// Bytes of the whole slice.
    pub bytes: u64,
}

impl PackedLayout {
    /// One region of a packed slice.
    pub fn region<'a>(&self, packed: &'a [u8], index: usize) -> &'a [u8] {
        let range = &self.regions[index];
        &packed[range.start as usize..range.end as usize]
    }

    /// The bytes of one row in one region.
    pub fn row<'a>(&self, packed: &'a [u8], region: usize, row: usize) -> &'a [u8] {
        &packed[self.row_range(region, row)]
    }

    /// The bytes of one row in one region, to fill them.
    pub fn row_mut<'a>(&self, packed: &'a mut [u8], region: usize, row: usize) -> &'a mut [u8] {
        &mut packed[self.row_range(region, row)]
    }

    fn row_range(&self, region: usize, row: usize) -> Range<usize> {
        assert!(row < self.rows, "row {row} of a packed slice of {} rows", self.rows);
        let start = self.regions[region].start as usize + row * self.row_bytes[region];
        start..start + self.row_bytes[region]
    }
}

/// Every format, for look-ups, tests and help texts.
pub static FORMATS: &[&dyn BlockFormat] = &[
    &F32,
    &F16,
    &BF16,
    &Q8_0,
    &Q4_0,
    &Q4_1,
    &Q5_0,
    &Q5_1,
    &Q2K,
    &Q3K,
    &Q4K,
    &Q5K,
    &Q6K,
    &Iq4Nl,
    &Iq4Xs,
    &Mxfp4,
    &NF4,
    &NF4_DQ,
    &FP4,
    &FP4_DQ,
    &ZeroPoint::<4, 32>,
    &ZeroPoint::<4, 128>,
    &ZeroPoint::<8, 32>,
    &F8E4M3::<32>,
    &F8E4M3::<128>,
];

/// The format of this name.
pub fn format(name: &str) -> Option<&'static dyn BlockFormat> {
    FORMATS.iter().copied().find(|format| format.name() == name)
}

/// The format that a person calls so: by its own name, with a `-` for a `_`, or as bitsandbytes names its modes
/// (`bnb.nf4-dq`). `int8` (`bnb.int8`, `llm.int8`) is q8_0, which has 8 bits too and a scale for 32 weights where those
/// have one for a row.
pub fn format_called(name: &str) -> Option<&'static dyn BlockFormat> {
    let lower = name.to_ascii_lowercase().replace('-', "_");
    match lower.as_str() {
        "int8" | "bnb.int8" | "llm.int8" => Some(&Q8_0),
        plain => {
            let own = plain.strip_prefix("bnb.").filter(|own| own.starts_with("nf4") || own.starts_with("fp4"));
            format(own.unwrap_or(plain))
        }
    }
}

/// The format with this id in GGUF's tensor list.
pub fn from_ggml_type(id: u32) -> Option<&'static dyn BlockFormat> {
    FORMATS.iter().copied().find(|format| format.ggml_type() == Some(id))
}

/// The f16 at byte `at`.
fn read_f16(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Both lengths belong to the same number of blocks, or the caller is wrong.
fn assert_blocks(format: &dyn BlockFormat, stored: &[u8], weights: usize) {
    assert!(
        weights.is_multiple_of(format.block_len())
            && stored.len() == weights / format.block_len() * format.block_bytes(),
        "{} bytes can't hold {weights} weights of {}",
        stored.len(),
        format.name(),
    );
}
