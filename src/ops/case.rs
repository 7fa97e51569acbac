//! Test and bench cases: an op with operand types, a step, and how close kernel and reference must be.

use half::f16;

use super::quantize_row::round_rows;
use super::{Call, Op, Operand, StateType, Step, WeightType};
use crate::quant::BlockFormat;
use crate::tensor::{DType, TensorType};

/// An operand that a case fills with seeded numbers.
#[derive(Debug, Clone)]
pub enum CaseInput {
    /// An activation; values around 1 with a few outliers. One of f16 is f32 where the op's kernels don't take it.
    Activation(TensorType),
    /// As [`Self::Activation`], values around this one.
    Large(TensorType, f32),
    /// Token ids below `vocab_size`.
    Tokens {
        /// Exclusive upper bound.
        vocab_size: u32,
    },
    /// A weight matrix, cut into slices of at most `slice_rows` rows.
    Weight {
        /// Its format.
        format: &'static dyn BlockFormat,
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
        /// Rows of a slice at most.
        slice_rows: usize,
    },
    /// An f32 vector.
    Vector(usize),
    /// Column numbers in some order, as an f32 vector.
    Order(usize),
    /// The cosine/sine table of RoPE, `(positions, rotary_dim / 2, 2)`.
    RopeTable {
        /// Positions.
        positions: usize,
        /// Rotated values of a head.
        rotary_dim: usize,
    },
    /// Which experts compute each token, `(tokens, top_k · 2)`.
    Selection {
        /// All experts.
        experts: u32,
        /// Experts of a token.
        top_k: u32,
    },
    /// A filled key or value cache.
    State(StateType),
    /// A key or value cache of these values, as its format rounds them.
    Cache(StateType, Vec<f32>),
    /// A vector of these values.
    Values(Vec<f32>),
    /// A vector of multiples of an eighth within ±4, so that many are equal.
    Eighths(usize),
}

/// One op with everything needed to run it.
#[derive(Debug)]
pub struct Case {
    /// What it shows, for messages.
    pub label: String,
    /// The op.
    pub op: Box<dyn Op>,
    /// Its inputs.
    pub inputs: Vec<CaseInput>,
    /// Its outputs; states are filled first and updated in place.
    pub outputs: Vec<CaseInput>,
    /// The forward.
    pub step: Step,
    /// Largest normalised mean squared error, Σ(a−b)²/Σa², of each output against the reference.
    pub max_nmse: f64,
}

impl Case {
    /// Has every f32 activation that it makes as f16.
    pub(super) fn halve_outputs(&mut self) {
        self.outputs.iter_mut().for_each(|output| halve(output, self.op.f16()));
        self.label.push_str(", to f16");
        self.max_nmse = self.max_nmse.max(1e-7);
    }

    /// Has an activation that it takes as f16, of either kind.
    pub(super) fn halve_input(&mut self, input: usize, dtype: DType) {
        halve(&mut self.inputs[input], dtype);
        self.label.push_str(&format!(", {input} of {dtype:?}"));
    }

    /// Has an activation that it takes be of values around this one.
    pub(super) fn enlarge_input(&mut self, input: usize, most: f32) {
        if let CaseInput::Activation(ty) = &self.inputs[input] {
            self.inputs[input] = CaseInput::Large(ty.clone(), most);
            self.label.push_str(&format!(", {input} around {most}"));
        }
    }

    /// The operands of a call, f16 only where the op's kernels take or make it: what a plan would give them.
    pub fn taken(&self, call: &Call<'_>) -> [Vec<Operand>; 2] {
        let wide = |operands: &[Operand]| -> Vec<Operand> {
            let of = |operand: &Operand| match operand {
                Operand::Activation(ty) if operand.is_f16() => Operand::Activation(ty.stored_as(DType::F32)),
                other => other.clone(),
            };
            operands.iter().map(of).collect()
        };
        let (inputs, outputs) = (wide(call.inputs), wide(call.outputs));
        let wide = Call { inputs: &inputs, outputs: &outputs, ..call.clone() };
        let take = |operands: &[Operand], wide: &[Operand], takes: &dyn Fn(usize) -> bool| -> Vec<Operand> {
            let pairs = operands.iter().zip(wide).enumerate();
            pairs.map(|(at, (operand, wide))| if takes(at) { operand } else { wide }.clone()).collect()
        };
        [
            take(call.inputs, &inputs, &|input| self.op.reads_f16(input, &wide)),
            take(call.outputs, &outputs, &|output| self.op.writes_f16(output, &wide)),
        ]
    }
}

fn halve(operand: &mut CaseInput, dtype: DType) {
    if let CaseInput::Activation(ty) | CaseInput::Large(ty, _) = operand
        && ty.dtype == DType::F32
    {
        *ty = ty.stored_as(dtype);
    }
}

/// Every case of every op.
pub fn all_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(super::choose::cases());
    cases.extend(super::embed::cases());
    cases.extend(super::norm::cases());
    cases.extend(super::matmul::cases());
    cases.extend(super::rope::cases());
    cases.extend(super::attention::cases());
    cases.extend(super::rope_attention::cases());
    cases.extend(super::activation::cases());
    cases.extend(super::gather::cases());
    cases.extend(super::positions::cases());
    cases.extend(super::qk_norm::cases());
    cases.extend(super::softcap::cases());
    cases.extend(super::route::cases());
    cases.extend(super::experts::cases());
    cases.extend(super::quantize_row::cases());
    cases
}

/// An operand's numbers.
#[derive(Debug, Clone)]
pub enum CaseValue {
    /// An activation or vector.
    F32(Vec<f32>),
    /// Token ids.
    U32(Vec<u32>),
    /// An activation of f16, its values rounded, and what they are divided by.
    F16(Vec<f32>, f32),
    /// An activation of 8-bit blocks, its values rounded, and their number in a row.
    Q8(Vec<f32>, usize),
    /// A weight: its type and each slice's packed bytes.
    Weight(WeightType, Vec<Vec<u8>>),
    /// A key or value cache, its values as its format rounds them.
    State(StateType, Vec<f32>),
}

impl CaseValue {
    /// Part `at` of `of` equal ones, rows of activations.
    ///
    /// # Panics
    /// If it is no activation: a caller's mistake.
    pub fn nth_of(&self, at: usize, of: usize) -> Self {
        fn part<T: Copy>(values: &[T], at: usize, of: usize) -> Vec<T> {
            let length = values.len() / of;
            values[at * length..][..length].to_vec()
        }
        match self {
            Self::F32(values) => Self::F32(part(values, at, of)),
            Self::F16(values, scale) => Self::F16(part(values, at, of), *scale),
            Self::U32(ids) => Self::U32(part(ids, at, of)),
            Self::Q8(values, cols) => Self::Q8(part(values, at, of), *cols),
            other => panic!("not an activation: {other:?}"),
        }
    }
}

impl CaseInput {
    /// The type of an activation, and what its values are around.
    pub const fn activation(&self) -> Option<(&TensorType, f32)> {
        match self {
            Self::Activation(ty) => Some((ty, 1.0)),
            Self::Large(ty, most) => Some((ty, *most)),
            _ => None,
        }
    }

    /// Seeded numbers for this operand.
    pub fn fill(&self, step: Step, numbers: &mut Numbers) -> CaseValue {
        match self {
            Self::Activation(_) | Self::Large(..) => {
                let (ty, most) = self.activation().expect("it is one of the two");
                let mut values = numbers.values(ty.elements(step.extents()) as usize);
                values.iter_mut().for_each(|value| *value *= most);
                match ty.dtype {
                    DType::Q8 => {
                        round_rows(&mut values);
                        let cols = ty.columns().expect("rows of 8-bit blocks have a fixed length");
                        CaseValue::Q8(values, cols as usize)
                    }
                    DType::F16 | DType::F16Scaled => {
                        let scale = ty.dtype.scale();
                        values.iter_mut().for_each(|value| *value = f16::from_f32(*value / scale).to_f32() * scale);
                        CaseValue::F16(values, scale)
                    }
                    DType::F32 | DType::U32 => CaseValue::F32(values),
                }
            }
            Self::Vector(len) => CaseValue::F32(numbers.values(*len)),
            Self::Values(values) => CaseValue::F32(values.clone()),
            Self::Eighths(len) => {
                let values = (0..*len).map(|_| (numbers.next() % 65) as f32 / 8.0 - 4.0);
                CaseValue::F32(values.collect())
            }
            Self::Order(len) => {
                let mut order: Vec<u32> = (0..*len as u32).collect();
                order.sort_by_cached_key(|_| numbers.next());
                CaseValue::F32(order.into_iter().map(|column| column as f32).collect())
            }
            Self::Tokens { vocab_size } => {
                CaseValue::U32((0..step.tokens).map(|_| numbers.next() % vocab_size).collect())
            }
            Self::RopeTable { positions, rotary_dim } => {
                let frequencies: Vec<f32> =
                    (0..rotary_dim / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / *rotary_dim as f32)).collect();
                let angles = (0..*positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
                CaseValue::F32(angles.flat_map(|angle| [angle.cos(), angle.sin()]).collect())
            }
            Self::Selection { experts, top_k } => {
                let mut pairs = Vec::new();
                for _ in 0..step.tokens {
                    // Neighbours of a random one: distinct, and every expert has its turn.
                    let first = numbers.next();
                    for k in 0..*top_k {
                        pairs.extend([((first % experts + k) % experts) as f32, numbers.values(1)[0]]);
                    }
                }
                CaseValue::F32(pairs)
            }
            Self::State(ty) => {
                let mut values = numbers.values(ty.elements() as usize);
                values.chunks_exact_mut(ty.head_dim as usize).for_each(|row| ty.format.round_row(row));
                CaseValue::State(*ty, values)
            }
            Self::Cache(ty, values) => CaseValue::State(*ty, values.clone()),
            Self::Weight { format, rows, cols, slice_rows } => {
                let starts = (0..*rows).step_by(*slice_rows);
                let slices: Vec<_> =
                    starts.map(|first| (first, format.layout((*slice_rows).min(rows - first), *cols))).collect();
                let pool = numbers.blocks(*format);
                let pool: Vec<&[u8]> = pool.chunks_exact(format.block_bytes()).collect();
                let packed = slices.iter().map(|(_, layout)| {
                    let mut bytes = vec![0; layout.bytes as usize];
                    let mut stored = vec![0; format.row_bytes(*cols)];
                    for row in 0..layout.rows {
                        for block in stored.chunks_exact_mut(format.block_bytes()) {
                            block.copy_from_slice(pool[numbers.next() as usize % pool.len()]);
                        }
                        format.repack_row(&stored, layout, row, &mut bytes);
                    }
                    bytes
                });
                let packed = packed.collect();
                CaseValue::Weight(WeightType { format: *format, rows: *rows, cols: *cols, slices }, packed)
            }
        }
    }
}

/// A repeatable stream of test numbers (xorshift, Marsaglia 2003).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// The stream of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    /// Stored blocks that weights are put together from: quantizing each weight would take minutes, since formats
    /// search for their scales.
    fn blocks(&mut self, format: &dyn BlockFormat) -> Vec<u8> {
        const WEIGHTS: usize = 1 << 14;
        let mut stored = vec![0; WEIGHTS / format.block_len() * format.block_bytes()];
        format.quantize(&self.values(WEIGHTS), &mut stored);
        stored
    }

    /// Values within ±1, every 97th an outlier within ±16.
    fn values(&mut self, count: usize) -> Vec<f32> {
        let scaled = |index: usize, bits: u32| {
            let unit = bits as f32 / u32::MAX as f32 * 2.0 - 1.0;
            if index % 97 == 96 { unit * 16.0 } else { unit }
        };
        (0..count).map(|index| scaled(index, self.next())).collect()
    }
}
