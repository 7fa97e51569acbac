//! A linear in GPTQ's layout, as this process quantized it: to be written to a file, or to be read in place of the
//! tensor it was made from.
//!
//! Packs; chooses no code. Invariant: read back, each weight is `(code - zero) * scale` of what was given.

use std::sync::Arc;

use half::f16;

use super::{Composed, grouped};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::view::{Encoding, TensorEntry};

/// The four tensors of a 4-bit linear (`checkpoint_format` "gptq": zero points are stored less one).
#[derive(Debug, Clone)]
pub struct GptqLinear {
    /// The tensor it stands for: `<linear>.weight`.
    pub tensor: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Inputs of a group; none for all of them.
    pub group_size: Option<usize>,
    /// i32 `(cols / 8, rows)`: codes of neighbouring inputs, from the lowest bits up.
    pub qweight: Arc<[u8]>,
    /// i32 `(groups, rows / 8)`: zero points less one, of neighbouring outputs.
    pub qzeros: Arc<[u8]>,
    /// f16 `(groups, rows)`.
    pub scales: Arc<[u8]>,
    /// i32 `(cols)`: the group of each input.
    pub g_idx: Arc<[u8]>,
}

/// What a linear is packed from, all row by row.
#[derive(Debug, Clone, Copy)]
pub struct GptqCodes<'a> {
    /// `(rows, cols)`, 0 to 15.
    pub codes: &'a [u8],
    /// `(rows, groups)`.
    pub scales: &'a [f16],
    /// `(rows, groups)`, 1 to 15: a 0 would be read as 16 by some engines.
    pub zeros: &'a [u8],
    /// `(cols)`: the group of each input.
    pub group_of: &'a [u32],
}

/// A linear that is yet to be quantized.
#[derive(Debug, Clone, Copy)]
pub struct PlannedGptq<'t> {
    /// The tensor it stands for.
    pub tensor: &'t str,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Which of the model's activations it reads: linears that read the same one agree on the order of columns.
    pub input: usize,
}

/// Codes of a word.
const PER_WORD: usize = 8;

impl GptqLinear {
    /// What zero points are stored less.
    pub(super) const ZERO_OFFSET: u32 = 1;

    /// Packs a linear.
    ///
    /// # Panics
    /// If lengths disagree, or rows or columns are no multiples of 8: the caller chooses what is quantized.
    pub fn pack(tensor: String, group_size: Option<usize>, contents: GptqCodes<'_>) -> Self {
        let GptqCodes { codes, scales, zeros, group_of } = contents;
        let cols = group_of.len();
        let (rows, groups) = (codes.len() / cols, cols.div_ceil(group_size.unwrap_or(cols)));
        let whole = rows * cols == codes.len() && rows.is_multiple_of(PER_WORD) && cols.is_multiple_of(PER_WORD);
        assert!(whole, "{} codes in rows of {cols}", codes.len());
        assert!(scales.len() == rows * groups && zeros.len() == rows * groups, "a scale and zero point for each group");
        let word = |place: usize, code: u32| code << (4 * place);
        let mut qweight = Vec::with_capacity(codes.len() / 2);
        for down in (0..cols).step_by(PER_WORD) {
            for row in codes.chunks_exact(cols) {
                let packed = (0..PER_WORD).fold(0, |packed, at| packed | word(at, u32::from(row[down + at])));
                qweight.extend_from_slice(&packed.to_le_bytes());
            }
        }
        let (mut qzeros, mut stored_scales) = (Vec::new(), Vec::new());
        for group in 0..groups {
            for row in (0..rows).step_by(PER_WORD) {
                let zero = |at: usize| u32::from(zeros[(row + at) * groups + group]) - Self::ZERO_OFFSET;
                let packed = (0..PER_WORD).fold(0, |packed, at| packed | word(at, zero(at)));
                qzeros.extend_from_slice(&packed.to_le_bytes());
            }
            stored_scales.extend((0..rows).flat_map(|row| scales[row * groups + group].to_le_bytes()));
        }
        Self {
            tensor,
            rows,
            cols,
            group_size,
            qweight: qweight.into(),
            qzeros: qzeros.into(),
            scales: stored_scales.into(),
            g_idx: group_of.iter().flat_map(|group| group.to_le_bytes()).collect(),
        }
    }

    /// Names, safetensors dtypes and shapes of the tensors of a linear of this size.
    pub fn layout(
        tensor: &str,
        rows: usize,
        cols: usize,
        group_size: Option<usize>,
    ) -> [(String, &'static str, Vec<usize>); 4] {
        let stem = tensor.strip_suffix(".weight").unwrap_or(tensor);
        let groups = cols.div_ceil(group_size.unwrap_or(cols));
        [
            (format!("{stem}.qweight"), "I32", vec![cols / PER_WORD, rows]),
            (format!("{stem}.qzeros"), "I32", vec![groups, rows / PER_WORD]),
            (format!("{stem}.scales"), "F16", vec![groups, rows]),
            (format!("{stem}.g_idx"), "I32", vec![cols]),
        ]
    }

    /// The bytes of each tensor, by its name.
    pub fn tensors(&self) -> [(String, &[u8]); 4] {
        let [qweight, qzeros, scales, g_idx] =
            Self::layout(&self.tensor, self.rows, self.cols, self.group_size).map(|(name, ..)| name);
        [(qweight, &self.qweight), (qzeros, &self.qzeros), (scales, &self.scales), (g_idx, &self.g_idx)]
    }
}

impl Checkpoint {
    /// The same checkpoint with these linears in place of the tensors they were made from.
    ///
    /// # Panics
    /// If there is no such tensor: a linear stands for one of this checkpoint.
    pub fn with_gptq(&self, linears: &[GptqLinear]) -> Self {
        self.with(
            linears.iter().map(|linear| (&*linear.tensor, [linear.rows, linear.cols], grouped::in_memory(linear))),
        )
    }

    /// The same checkpoint with these linears as [`Self::with_gptq`] will have them once they are rounded: sizes and
    /// formats, but no rows.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn with_planned_gptq<'t>(
        &self,
        linears: impl Iterator<Item = PlannedGptq<'t>>,
        group_size: Option<usize>,
        act_order: bool,
    ) -> Self {
        self.with(linears.map(|linear| {
            let rows = grouped::planned(&self.path, &linear, group_size, act_order);
            (linear.tensor, [linear.rows, linear.cols], rows)
        }))
    }

    fn with<'t>(&self, linears: impl Iterator<Item = (&'t str, [usize; 2], Arc<dyn Composed>)>) -> Self {
        let (mut tensors, mut replaced) = (self.tensors.clone(), self.replaced);
        for (tensor, shape, rows) in linears {
            let entry = tensors.get(tensor).expect("it was made from a tensor of this checkpoint");
            let entry = TensorEntry { encoding: Encoding::Composed(rows), shape: shape.to_vec(), ..entry.clone() };
            tensors.insert(tensor.to_owned(), entry);
            replaced = true;
        }
        Self { tensors, replaced, ..self.clone() }
    }
}
