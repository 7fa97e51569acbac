//! Rows of a GPTQ or AWQ linear, put together from its codes, zero points and scales as they are read.

use std::ops::Range;
use std::sync::Arc;

use half::f16;

use super::settings::{Order, Settings, in_every_code};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::quantized::parts::{Floats, Words};
use crate::checkpoint::quantized::{Composed, Ordered};
use crate::quant::{BlockFormat, Coded, F16, Q4_0, Q8_0, ZeroPoint};

/// What a linear is made of.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) group_size: usize,
    pub(super) codes: Words,
    pub(super) zeros: Words,
    pub(super) scales: Floats,
}

impl Contents {
    /// The linear's rows; `group_of` says each input's group where they are scattered.
    pub(super) fn compose(self, settings: Settings, group_of: Option<Vec<u32>>) -> Arc<dyn Composed> {
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
pub(super) fn target(settings: Settings, cols: usize, group_size: usize, symmetric: bool) -> &'static dyn Coded {
    let long = cols.is_multiple_of(128) && group_size.is_multiple_of(128);
    match (settings.bits, symmetric) {
        (4, true) => &Q4_0,
        (8, true) => &Q8_0,
        (4, false) if long => &ZeroPoint::<4, 128>,
        (4, false) => &ZeroPoint::<4, 32>,
        _ => &ZeroPoint::<8, 32>,
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
