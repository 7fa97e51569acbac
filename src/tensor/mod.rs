//! Tensor types: element type and shape, symbolic only in what changes from one forward to the next.
//!
//! Holds no data. Shapes are row-major, outermost dimension first, in config words: `(tokens, heads, head_dim)`.

/// Rows of a forward of few tokens at most: such a forward computes each row as decode does, several at a time.
pub const FEW_ROWS: u32 = 16;

/// The element type of an activation. Weights have a [`crate::quant::BlockFormat`] instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float: the residual stream and all activations.
    F32,
    /// 16-bit float: rows that only cooperative matrices multiply, whole slabs of [`DType::F16_SLAB`] values.
    F16,
    /// As [`DType::F16`], values divided by [`DType::F16_SCALE`]: those that may go beyond what f16 holds, 65 504.
    F16Scaled,
    /// 32-bit unsigned integer: token ids.
    U32,
    /// Rows rounded to 8 bits, for integer dot products: a scale for each [`DType::Q8_BLOCK`] values. Only forwards of
    /// few tokens read them, so there are at most [`FEW_ROWS`].
    Q8,
}

impl DType {
    /// Values of [`DType::Q8`] that share a scale; a row's length is a multiple of twice as many.
    pub const Q8_BLOCK: usize = 16;

    /// A row of [`DType::F16`] is a multiple of it long: the columns that pass through workgroup memory at a time.
    pub const F16_SLAB: usize = 32;

    /// What values of [`DType::F16Scaled`] are divided by, and weights multiplied by: lib/f16_scale has it too. A power of
    /// two, so that nothing is rounded; small, so that small values keep their digits and no weight goes beyond f16.
    pub const F16_SCALE: f32 = 16.0;

    /// What its values are divided by.
    pub const fn scale(self) -> f32 {
        match self {
            Self::F16Scaled => Self::F16_SCALE,
            _ => 1.0,
        }
    }

    /// Whether its values are f16.
    pub const fn is_f16(self) -> bool {
        matches!(self, Self::F16 | Self::F16Scaled)
    }

    /// Bytes of so many elements of whole rows. Of [`DType::Q8`] a block takes its codes, its scale, and the sum of
    /// its values.
    pub const fn bytes(self, elements: u64) -> u64 {
        match self {
            Self::F32 | Self::U32 => 4 * elements,
            Self::F16 | Self::F16Scaled => 2 * elements,
            Self::Q8 => elements / Self::Q8_BLOCK as u64 * (Self::Q8_BLOCK as u64 + 8),
        }
    }
}

/// One dimension of an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Known when the graph is lowered.
    Fixed(u32),
    /// The tokens of this forward: 1 at decode, up to the prefill chunk otherwise.
    Tokens,
    /// The last rows of this forward whose logits are wanted: 1 when generating, all when scoring.
    LogitRows,
}

/// What [`Dim::Tokens`] and [`Dim::LogitRows`] are in one forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extents {
    /// Tokens of this forward.
    pub tokens: u32,
    /// Trailing tokens whose logits are computed; at most `tokens`.
    pub logit_rows: u32,
}

impl Dim {
    /// The dimension's length in a forward of these extents.
    pub const fn length(self, extents: Extents) -> u32 {
        match self {
            Self::Fixed(length) => length,
            Self::Tokens => extents.tokens,
            Self::LogitRows => extents.logit_rows,
        }
    }
}

/// Element type and shape of an activation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Row-major, outermost first.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// An f32 tensor of this shape.
    pub fn f32(shape: impl Into<Vec<Dim>>) -> Self {
        Self { dtype: DType::F32, shape: shape.into() }
    }

    /// The same values, rounded to 8 bits.
    pub fn rounded(&self) -> Self {
        self.stored_as(DType::Q8)
    }

    /// The same values as f16.
    pub fn halved(&self) -> Self {
        self.stored_as(DType::F16)
    }

    /// The same values of another element type.
    pub fn stored_as(&self, dtype: DType) -> Self {
        Self { dtype, shape: self.shape.clone() }
    }

    /// Elements in a forward of these extents.
    pub fn elements(&self, extents: Extents) -> u64 {
        let most = if self.dtype == DType::Q8 { FEW_ROWS } else { u32::MAX };
        let length = |dim: &Dim| match dim {
            Dim::Fixed(length) => *length,
            rows => rows.length(extents).min(most),
        };
        self.shape.iter().map(|dim| u64::from(length(dim))).product()
    }

    /// Bytes in a forward of these extents.
    pub fn bytes(&self, extents: Extents) -> u64 {
        self.dtype.bytes(self.elements(extents))
    }

    /// Length of the innermost dimension, where it is fixed.
    pub fn columns(&self) -> Option<u32> {
        match self.shape.last() {
            Some(Dim::Fixed(columns)) => Some(*columns),
            _ => None,
        }
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<String> = self
            .shape
            .iter()
            .map(|dim| match dim {
                Dim::Fixed(length) => length.to_string(),
                Dim::Tokens => "tokens".into(),
                Dim::LogitRows => "logit_rows".into(),
            })
            .collect();
        let dtype = match self.dtype {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::F16Scaled => "scaled f16",
            DType::U32 => "u32",
            DType::Q8 => "q8",
        };
        write!(f, "{dtype} ({})", dims.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbolic_dimensions_take_the_forward_s_extents() {
        let logits = TensorType::f32([Dim::LogitRows, Dim::Fixed(10)]);
        let extents = Extents { tokens: 7, logit_rows: 2 };
        assert_eq!(logits.elements(extents), 20, "two rows of ten");
        assert_eq!(logits.to_string(), "f32 (logit_rows, 10)", "printed in config words");
        let row = TensorType::f32([Dim::Tokens, Dim::Fixed(64)]);
        assert_eq!(row.rounded().elements(extents), 7 * 64, "rounded rows of few tokens");
        let many = Extents { tokens: 512, logit_rows: 1 };
        assert_eq!(row.rounded().elements(many), u64::from(FEW_ROWS) * 64, "nobody reads more of them");
    }
}
