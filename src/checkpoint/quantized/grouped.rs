//! GPTQ and AWQ: codes of 4 or 8 bits with an f16 scale and a zero point for every group of inputs of an output.
//!
//! Both keep `qweight`, `qzeros` and `scales` with the inputs down and the outputs across, the transpose of a weight.
//! GPTQ packs neighbouring inputs of an output into a word and adds `g_idx`, each input's group; AWQ packs eight
//! outputs of an input, in an order of its own. A weight is `(code - zero) * scale`.
//!
//! GPTQ's first layout stores zero points less one, subtracted from the whole word: where one is 0, the next lends it
//! a bit. Here the ones are added to the word again, as GPTQModel does; kernels that add them to each code find 16 for
//! such a 0. `gptq_v2` stores zero points as they are, AWQ too.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;

use super::parts::{Floats, Part, Parts, Words};
use super::{Composed, GptqLinear, Linear, Ordered, PlannedGptq, unsupported};
use crate::checkpoint::{CheckpointError, Config};
use crate::quant::{BlockFormat, Coded, F16, Q4_0, Q8_0, ZeroPoint};

/// What `quantization_config` says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    order: Order,
    bits: usize,
    /// Inputs of a group; None: all of them.
    group_size: Option<usize>,
    /// Added to words of stored zero points.
    zero_offset: u32,
}

/// How codes share words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Neighbouring inputs (of zero points: outputs), from the lowest bits up.
    Gptq,
    /// Eight outputs, in [`AWQ_PLACES`].
    Awq,
}

/// The nibble of a word that holds each of eight outputs.
const AWQ_PLACES: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Keys that say how the codes were found, or which kernels are to use them.
const HARMLESS: &[&str] = &[
    "act_group_aware",
    "backend",
    "batch_size",
    "block_name_to_quantize",
    "cache_block_outputs",
    "damp_auto_increment",
    "damp_percent",
    "dataset",
    "desc_act",
    "disable_exllama",
    "do_fuse",
    "exllama_config",
    "fuse_max_seq_len",
    "is_marlin_format",
    "lm_head",
    "max_input_length",
    "meta",
    "model_file_base_name",
    "model_name_or_path",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "modules_to_fuse",
    "modules_to_not_convert",
    "mse",
    "pad_token_id",
    "quantizer",
    "static_groups",
    "sym",
    "tokenizer",
    "true_sequential",
    "use_cuda_fp16",
    "use_exllama",
];

/// Group sizes the formats of `quant/` hold.
const GROUP_SIZES: &str = "multiples of 32, and -1 for one group";

impl Settings {
    pub(super) fn gptq(section: &Config) -> Result<Self, CheckpointError> {
        section.ignore(HARMLESS);
        let format = section.opt_any_str(&["checkpoint_format", "format"])?.unwrap_or("gptq");
        let first_layout = match format {
            "gptq" => true,
            "gptq_v2" => false,
            other => return Err(unsupported(section, "checkpoint_format", other, "gptq, gptq_v2")),
        };
        if section.bool_or("is_marlin_format", false)? {
            return Err(unsupported(section, "is_marlin_format", true, "false"));
        }
        if section.has("dynamic") {
            return Err(unsupported(section, "dynamic", "set", "one setting for all modules"));
        }
        match section.str_or("pack_dtype", "int32")? {
            "int32" => {}
            other => return Err(unsupported(section, "pack_dtype", other, "int32")),
        }
        let bits = match section.u32("bits")? {
            bits @ (4 | 8) => bits as usize,
            other => return Err(unsupported(section, "bits", other, "4, 8")),
        };
        let zero_offset = if first_layout { in_every_code(1, bits) } else { 0 };
        Ok(Self { order: Order::Gptq, bits, group_size: group_size(section)?, zero_offset })
    }

    pub(super) fn awq(section: &Config) -> Result<Self, CheckpointError> {
        section.ignore(HARMLESS);
        let version = section.opt_any_str(&["version", "format"])?.unwrap_or("gemm").to_lowercase();
        if version != "gemm" {
            return Err(unsupported(section, "version", version, "gemm"));
        }
        if !section.bool_or("zero_point", true)? {
            return Err(unsupported(section, "zero_point", false, "true"));
        }
        match section.any_u32(&["bits", "w_bit"])? {
            4 => {}
            other => return Err(unsupported(section, "bits", other, "4")),
        }
        Ok(Self { order: Order::Awq, bits: 4, group_size: group_size(section)?, zero_offset: 0 })
    }

    /// Codes of a word.
    const fn per_word(&self) -> usize {
        32 / self.bits
    }

    /// A word of zero points as they are meant.
    const fn zeros(&self, stored: [u8; 4]) -> u32 {
        u32::from_le_bytes(stored).wrapping_add(self.zero_offset)
    }

    /// Where in its word the code of neighbour `at` begins.
    const fn shift(&self, at: usize) -> u32 {
        match self.order {
            Order::Gptq => (at % self.per_word() * self.bits) as u32,
            Order::Awq => AWQ_PLACES[at % 8] * 4,
        }
    }
}

/// A word of equal codes.
const fn in_every_code(value: u32, bits: usize) -> u32 {
    // One in every code: all bits by those of one code.
    u32::MAX / ((1 << bits) - 1) * value
}

fn group_size(section: &Config) -> Result<Option<usize>, CheckpointError> {
    // -1 is no u32, but a number.
    let key = if section.has("q_group_size") && !section.has("group_size") { "q_group_size" } else { "group_size" };
    match section.f32(key)? {
        -1.0 => Ok(None),
        _ => match section.u32(key)? as usize {
            size if size > 0 && size.is_multiple_of(32) => Ok(Some(size)),
            other => Err(unsupported(section, key, other, GROUP_SIZES)),
        },
    }
}

/// Puts every linear together.
pub(super) fn compose(parts: &mut Parts<'_>, settings: Settings) -> Result<(), CheckpointError> {
    for stem in parts.stems(".qweight") {
        let linear = linear(parts, settings, &stem)?;
        parts.put(format!("{stem}.weight"), linear)?;
    }
    Ok(())
}

fn linear(parts: &mut Parts<'_>, settings: Settings, stem: &str) -> Result<Linear, CheckpointError> {
    let Some(codes) = parts.take(&format!("{stem}.qweight")) else { unreachable!("its name was on the list") };
    let (zeros, scales) =
        (parts.need(&format!("{stem}.qzeros"), &codes)?, parts.need(&format!("{stem}.scales"), &codes)?);
    let &[down, across] = codes.shape() else {
        return Err(codes.bad(format!("expected two dimensions, found {:?}", codes.shape())));
    };
    let per_word = settings.per_word();
    let sizes = match settings.order {
        Order::Gptq => down.checked_mul(per_word).zip(Some(across)),
        Order::Awq => Some(down).zip(across.checked_mul(per_word)),
    };
    let (cols, rows) = sizes.ok_or_else(|| codes.bad(format!("shape {:?} is too large", codes.shape())))?;
    if cols == 0 || !cols.is_multiple_of(32) || rows == 0 || !rows.is_multiple_of(per_word) {
        return Err(codes
            .bad(format!("{cols} inputs by {rows} outputs: inputs must be a multiple of 32, outputs of {per_word}")));
    }
    let group_size = settings.group_size.unwrap_or(cols);
    let groups = cols.div_ceil(group_size);
    let why = format!("{rows} outputs, {groups} groups of {group_size} inputs, {} bits", settings.bits);
    let zeros = zeros.words([groups, rows / per_word], &why)?;
    let scales = scales.floats(&[&[groups, rows]], &why)?;
    let act_order = match parts.take(&format!("{stem}.g_idx")) {
        Some(index) => act_order(index, cols, group_size, groups)?,
        None => None,
    };
    let entry = codes.entry.clone();
    let codes = codes.words([down, across], "as it is")?;
    let parts = Contents { rows, cols, group_size, codes, zeros, scales };
    Ok(Linear { shape: [rows, cols], rows: parts.compose(settings, act_order), codes: entry })
}

/// The rows of a linear that was quantized in this process.
pub(super) fn in_memory(linear: &GptqLinear) -> Arc<dyn Composed> {
    let settings = Settings {
        order: Order::Gptq,
        bits: 4,
        group_size: linear.group_size,
        zero_offset: in_every_code(GptqLinear::ZERO_OFFSET, 4),
    };
    let group_size = linear.group_size.unwrap_or(linear.cols);
    let contents = Contents {
        rows: linear.rows,
        cols: linear.cols,
        group_size,
        codes: Words::owned(Arc::clone(&linear.qweight)),
        zeros: Words::owned(Arc::clone(&linear.qzeros)),
        scales: Floats::halves(Arc::clone(&linear.scales)),
    };
    contents.compose(settings, scattered(&linear.g_idx, group_size))
}

/// A linear that is yet to be quantized: what its rows will be, and none of them.
#[derive(Debug)]
struct Planned {
    file: PathBuf,
    tensor: String,
    format: &'static dyn BlockFormat,
    ordered: Option<Ordered>,
}

/// What [`in_memory`] will make of a linear whose zero points are not all the same; with `act_order` its groups will be of
/// inputs in some order that is another one for every input.
pub(super) fn planned(
    file: &Path,
    linear: &PlannedGptq<'_>,
    group_size: Option<usize>,
    act_order: bool,
) -> Arc<dyn Composed> {
    let PlannedGptq { tensor, cols, input, .. } = *linear;
    let settings = Settings { order: Order::Gptq, bits: 4, group_size, zero_offset: 0 };
    let group_size = group_size.unwrap_or(cols);
    let format: &'static dyn BlockFormat = target(settings, cols, group_size, false);
    let planned = |format, ordered| Planned { file: file.into(), tensor: tensor.into(), format, ordered };
    if !act_order || group_size >= cols {
        return Arc::new(planned(format, None));
    }
    let order = (0..cols).map(|at| ((input + cols - at) % cols) as u32).collect();
    let ordered = Ordered { rows: Arc::new(planned(format, None)), order };
    Arc::new(planned(&F16, Some(ordered)))
}

impl Composed for Planned {
    fn format(&self) -> &'static dyn BlockFormat {
        self.format
    }

    fn ordered(&self) -> Option<&Ordered> {
        self.ordered.as_ref()
    }

    fn write_rows(&self, _: Range<usize>, _: &mut [u8]) -> Result<(), CheckpointError> {
        let reason = "is only planned to be quantized: there are no rows to read yet".to_owned();
        Err(CheckpointError::BadTensor { file: self.file.clone(), tensor: self.tensor.clone(), reason })
    }
}

/// The inputs' groups, unless those are neighbours, as without an index.
fn act_order(index: Part, cols: usize, group_size: usize, groups: usize) -> Result<Option<Vec<u32>>, CheckpointError> {
    index.expect(&["I32", "U32"])?;
    index.expect_shape(&[&[cols]], "a group for each input")?;
    let group_of = words(&index.bytes);
    if let Some(input) = group_of.iter().position(|group| *group as usize >= groups) {
        let group = group_of[input] as i32;
        return Err(index.bad(format!("input {input} is in group {group}, expected 0 to {}", groups - 1)));
    }
    Ok(scattered(&index.bytes, group_size))
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// The inputs' groups, where they are not what they would be without an index.
fn scattered(index: &[u8], group_size: usize) -> Option<Vec<u32>> {
    let group_of = words(index);
    let neighbours = group_of.iter().enumerate().all(|(input, group)| input / group_size == *group as usize);
    (!neighbours).then_some(group_of)
}

/// The inputs sorted by their groups; none where that would not give whole groups.
fn sorted_inputs(group_of: &[u32], group_size: usize) -> Option<Arc<[u32]>> {
    let mut order: Vec<u32> = (0..group_of.len() as u32).collect();
    order.sort_by_key(|input| group_of[*input as usize]);
    let whole = order.iter().enumerate().all(|(place, input)| group_of[*input as usize] as usize == place / group_size);
    whole.then(|| order.into())
}

/// Whether every zero point is the middle code, which some formats take for granted.
fn is_symmetric(settings: Settings, zeros: &Words) -> bool {
    let middle = in_every_code(1 << (settings.bits - 1), settings.bits);
    zeros.all().iter().all(|stored| settings.zeros(*stored) == middle)
}

/// The smallest format that holds such weights exactly, where groups are neighbours.
fn target(settings: Settings, cols: usize, group_size: usize, symmetric: bool) -> &'static dyn Coded {
    let long = cols.is_multiple_of(128) && group_size.is_multiple_of(128);
    match (settings.bits, symmetric) {
        (4, true) => &Q4_0,
        (8, true) => &Q8_0,
        (4, false) if long => &ZeroPoint::<4, 128>,
        (4, false) => &ZeroPoint::<4, 32>,
        _ => &ZeroPoint::<8, 32>,
    }
}

/// What a linear is made of.
#[derive(Debug, Clone)]
struct Contents {
    rows: usize,
    cols: usize,
    group_size: usize,
    codes: Words,
    zeros: Words,
    scales: Floats,
}

impl Contents {
    /// The linear's rows; `group_of` says each input's group where they are scattered.
    fn compose(self, settings: Settings, group_of: Option<Vec<u32>>) -> Arc<dyn Composed> {
        let target = target(settings, self.cols, self.group_size, is_symmetric(settings, &self.zeros));
        let Some(group_of) = group_of else {
            return Arc::new(Grouped { settings, contents: self, columns: Columns::AsStored, target });
        };
        let ordered = sorted_inputs(&group_of, self.group_size).map(|order| {
            let columns = Columns::Sorted(Arc::clone(&order));
            Ordered { rows: Arc::new(Grouped { settings, contents: self.clone(), columns, target }), order }
        });
        Arc::new(Grouped { settings, contents: self, columns: Columns::Scattered(group_of, ordered), target: &F16 })
    }

    /// Some rows, whole words of them, read into memory.
    fn rows(&self, settings: Settings, rows: &Range<usize>) -> Result<Self, CheckpointError> {
        let in_words = |count: usize| rows.start / count..rows.end / count;
        let codes = match settings.order {
            Order::Gptq => self.codes.lines(self.rows, rows.clone()),
            Order::Awq => self.codes.lines(self.rows / settings.per_word(), in_words(settings.per_word())),
        };
        Ok(Self {
            rows: rows.len(),
            codes: codes?,
            zeros: self.zeros.lines(self.rows / settings.per_word(), in_words(settings.per_word()))?,
            scales: self.scales.lines(self.rows, rows)?,
            ..*self
        })
    }
}

/// Where a row's columns are.
#[derive(Debug)]
enum Columns {
    /// In the order of the inputs, their groups next to each other.
    AsStored,
    /// Column `i` is input `order[i]`, so that groups are next to each other.
    Sorted(Arc<[u32]>),
    /// In the order of the inputs, each with the group that it is in; and the same linear sorted, if it can be.
    Scattered(Vec<u32>, Option<Ordered>),
}

/// A GPTQ or AWQ linear.
#[derive(Debug)]
struct Grouped {
    settings: Settings,
    contents: Contents,
    columns: Columns,
    target: &'static dyn Coded,
}

/// Rows put together at once: their codes share cache lines in the file, and words in AWQ's.
const TILE: usize = 16;

impl Composed for Grouped {
    fn format(&self) -> &'static dyn BlockFormat {
        self.target
    }

    fn ordered(&self) -> Option<&Ordered> {
        match &self.columns {
            Columns::Scattered(_, ordered) => ordered.as_ref(),
            _ => None,
        }
    }

    fn write_rows(&self, rows: Range<usize>, stored: &mut [u8]) -> Result<(), CheckpointError> {
        let per_word = self.settings.per_word();
        let whole = rows.start / per_word * per_word..rows.end.next_multiple_of(per_word);
        let Self { settings, columns, target, .. } = self;
        let contents = self.contents.rows(*settings, &whole)?;
        let read = Read { settings: *settings, contents, columns, target: *target };
        read.write_rows(rows.start - whole.start..rows.end - whole.start, stored);
        Ok(())
    }
}

/// Rows of a linear, in memory.
struct Read<'a> {
    settings: Settings,
    contents: Contents,
    columns: &'a Columns,
    target: &'static dyn Coded,
}

impl Read<'_> {
    fn write_rows(&self, rows: Range<usize>, stored: &mut [u8]) {
        let cols = self.contents.cols;
        let row_bytes = self.target.row_bytes(cols);
        let mut codes = vec![0; TILE * cols];
        for (first, stored) in rows.clone().step_by(TILE).zip(stored.chunks_mut(TILE * row_bytes)) {
            let tile = first..(first + TILE).min(rows.end);
            self.read_codes(tile.clone(), &mut codes);
            let rows = tile.zip(codes.chunks_exact(cols)).zip(stored.chunks_exact_mut(row_bytes));
            rows.for_each(|((row, codes), stored)| self.write_row(row, codes, stored));
        }
    }

    /// The codes of some rows, one row after the other.
    fn read_codes(&self, rows: Range<usize>, codes: &mut [u8]) {
        match (self.settings.order, self.settings.bits) {
            (Order::Gptq, 4) => self.read_down::<4, 8>(rows, codes),
            (Order::Gptq, _) => self.read_down::<8, 4>(rows, codes),
            (Order::Awq, _) => self.read_across(rows, codes),
        }
    }

    /// GPTQ: a word holds `PER_WORD` inputs of a row.
    fn read_down<const BITS: usize, const PER_WORD: usize>(&self, rows: Range<usize>, codes: &mut [u8]) {
        let cols = self.contents.cols;
        for (at, line) in self.contents.codes.all().chunks_exact(self.contents.rows).enumerate() {
            for (row, word) in line[rows.clone()].iter().enumerate() {
                let word = u32::from_le_bytes(*word);
                let unpacked: [u8; PER_WORD] =
                    std::array::from_fn(|place| (word >> (place * BITS) & ((1 << BITS) - 1)) as u8);
                codes[row * cols + at * PER_WORD..][..PER_WORD].copy_from_slice(&unpacked);
            }
        }
    }

    /// AWQ: a word holds an input of eight rows; so many words are read at once that a row gets eight codes.
    fn read_across(&self, rows: Range<usize>, codes: &mut [u8]) {
        let Contents { rows: outputs, cols, codes: words, .. } = &self.contents;
        let (words, width) = (words.all(), outputs / 8);
        for input in (0..*cols).step_by(8) {
            let (mut column, mut eight) = (usize::MAX, [0u32; 8]);
            for (at, row) in rows.clone().enumerate() {
                if row / 8 != column {
                    column = row / 8;
                    eight = std::array::from_fn(|i| u32::from_le_bytes(words[(input + i) * width + column]));
                }
                let shift = self.settings.shift(row);
                let unpacked = eight.map(|word| (word >> shift & 15) as u8);
                codes[at * cols + input..][..8].copy_from_slice(&unpacked);
            }
        }
    }

    fn write_row(&self, row: usize, codes: &[u8], stored: &mut [u8]) {
        match self.columns {
            Columns::AsStored => self.write_groups(row, codes, stored),
            Columns::Sorted(order) => {
                let sorted: Vec<u8> = order.iter().map(|input| codes[*input as usize]).collect();
                self.write_groups(row, &sorted, stored);
            }
            Columns::Scattered(group_of, _) => {
                for ((code, group), stored) in codes.iter().zip(group_of).zip(stored.chunks_exact_mut(2)) {
                    let (scale, zero) = self.scale_and_zero(*group as usize, row);
                    self.target.write(&[*code], scale, zero, stored);
                }
            }
        }
    }

    fn write_groups(&self, row: usize, codes: &[u8], stored: &mut [u8]) {
        let group_size = self.contents.group_size;
        let stored = stored.chunks_mut(self.target.row_bytes(group_size));
        for (group, (codes, stored)) in codes.chunks(group_size).zip(stored).enumerate() {
            let (scale, zero) = self.scale_and_zero(group, row);
            self.target.write(codes, scale, zero, stored);
        }
    }

    fn scale_and_zero(&self, group: usize, row: usize) -> (f16, u16) {
        let (per_word, Contents { rows, zeros, scales, .. }) = (self.settings.per_word(), &self.contents);
        let word = self.settings.zeros(zeros.all()[group * (rows / per_word) + row / per_word]);
        let zero = word >> self.settings.shift(row) & ((1 << self.settings.bits) - 1);
        // Scales of f32 and bf16 are rounded to the f16 that the libraries compute in.
        (f16::from_f32(scales.at(group * rows + row)), zero as u16)
    }
}
