//! The sweep over a linear's columns: each is rounded, and what that does to the outputs is taken back by the columns
//! that are still to come (Frantar et al. 2022, algorithm 1).
//!
//! Outputs are independent of each other, so threads take some each. Columns go in blocks: within one, each error is
//! spread at once; on all after it, a block's errors together. Scales and zero points of a group are found when the
//! sweep reaches it, from the weights as they are then. Invariant: codes are 0 to 15, zero points 1 to 15.

use half::f16;
use rayon::prelude::*;

use super::factor::Factor;
use super::{GptqOptions, targets};

/// A linear's codes, `value = (code - zero) · scale`.
#[derive(Debug, Clone)]
pub struct Rounded {
    /// `(rows, cols)`, 0 to 15.
    pub codes: Vec<u8>,
    /// `(rows, groups)`.
    pub scales: Vec<f16>,
    /// `(rows, groups)`, 1 to 15.
    pub zeros: Vec<u8>,
    /// `(cols)`: the group of each input.
    pub group_of: Vec<u32>,
}

/// Columns whose errors are spread together.
const BLOCK: usize = 128;

/// Rows that share what a thread reads of the factor.
const ROWS: usize = 32;

/// Columns of the factor that stay in a core's cache while [`ROWS`] rows go over them.
const TILE: usize = 256;

/// The largest code.
const MOST: f32 = 15.0;

/// Rounds one linear, `(rows, cols)`, whose inputs have this Hessian, `(cols, cols)`; none where that has no inverse.
///
/// # Panics
/// If the lengths disagree.
pub fn round_linear(weights: &[f32], hessian: &[f32], cols: usize, options: &GptqOptions) -> Option<Rounded> {
    assert!(hessian.len() == cols * cols && weights.len().is_multiple_of(cols), "a Hessian of {cols} columns");
    let factor = Factor::new(hessian, cols, options)?;
    Some(sweep(weights, &factor, options.group_size))
}

/// Rounds a linear's weights.
pub(super) fn sweep(weights: &[f32], factor: &Factor, group_size: Option<usize>) -> Rounded {
    let cols = factor.cols;
    let (rows, group_size) = (weights.len() / cols, group_size.unwrap_or(cols));
    let groups = cols.div_ceil(group_size);
    let mut rounded = Rounded {
        codes: vec![0; weights.len()],
        scales: vec![f16::ZERO; rows * groups],
        zeros: vec![0; rows * groups],
        group_of: targets::groups_of(factor.order.as_deref(), cols, group_size),
    };
    let codes = rounded.codes.par_chunks_mut(ROWS * cols);
    let grids = rounded.scales.par_chunks_mut(ROWS * groups).zip(rounded.zeros.par_chunks_mut(ROWS * groups));
    codes.zip(grids).zip(weights.par_chunks(ROWS * cols)).for_each(|((codes, (scales, zeros)), weights)| {
        let mut rows = Rows { factor, group_size, weights: in_order(weights, factor), codes, scales, zeros };
        let mut start = 0;
        while start < cols {
            let end = block_end(start, group_size).min(cols);
            rows.block(start..end);
            start = end;
        }
    });
    rounded
}

/// Where the block that begins at `start` ends: no group begins within it whose weights it does not hold all, since those
/// behind it have not heard of its errors.
fn block_end(start: usize, group_size: usize) -> usize {
    let whole = BLOCK / group_size * group_size;
    if whole > 0 { start + whole } else { (start + BLOCK).min((start / group_size + 1) * group_size) }
}

/// Rows with their columns in the order of the sweep; those without inputs are zero.
fn in_order(weights: &[f32], factor: &Factor) -> Vec<f32> {
    let input = |place: usize| factor.order.as_ref().map_or(place, |order| order[place] as usize);
    let value = |row: &[f32], place: usize| if factor.dead[place] { 0.0 } else { row[input(place)] };
    weights.chunks_exact(factor.cols).flat_map(|row| (0..factor.cols).map(move |place| value(row, place))).collect()
}

/// Some rows on their way through the sweep.
struct Rows<'a> {
    factor: &'a Factor,
    group_size: usize,
    /// `(rows, cols)`, in the order of the sweep.
    weights: Vec<f32>,
    /// In the order of the inputs.
    codes: &'a mut [u8],
    scales: &'a mut [f16],
    zeros: &'a mut [u8],
}

impl Rows<'_> {
    fn block(&mut self, columns: std::ops::Range<usize>) {
        let Factor { cols, upper, .. } = self.factor;
        let (cols, width) = (*cols, columns.len());
        let rows = self.weights.len() / cols;
        let mut errors = vec![0.0f32; rows * width];
        for (row, errors) in errors.chunks_exact_mut(width).enumerate() {
            for (column, error) in columns.clone().zip(errors) {
                *error = self.round(row, column) / upper[column * cols + column];
                let spread = &upper[column * cols + column + 1..column * cols + columns.end];
                subtract(&mut self.weights[row * cols + column + 1..][..spread.len()], *error, spread);
            }
        }
        for start in (columns.end..cols).step_by(TILE) {
            let tile = start..(start + TILE).min(cols);
            for (row, errors) in errors.chunks_exact(width).enumerate() {
                let weights = &mut self.weights[row * cols..][tile.clone()];
                for (column, error) in columns.clone().zip(errors) {
                    subtract(weights, *error, &upper[column * cols..][tile.clone()]);
                }
            }
        }
    }

    /// Rounds one weight; the result is what it lost.
    fn round(&mut self, row: usize, place: usize) -> f32 {
        let cols = self.factor.cols;
        let at = row * cols.div_ceil(self.group_size) + place / self.group_size;
        let weights = &self.weights[row * cols..][..cols];
        if place.is_multiple_of(self.group_size) {
            (self.scales[at], self.zeros[at]) = grid(&weights[place..(place + self.group_size).min(cols)]);
        }
        let (scale, zero) = (self.scales[at].to_f32(), f32::from(self.zeros[at]));
        let code = ((weights[place] / scale).round_ties_even() + zero).clamp(0.0, MOST);
        let input = self.factor.order.as_ref().map_or(place, |order| order[place] as usize);
        self.codes[row * cols + input] = code as u8;
        weights[place] - (code - zero) * scale
    }
}

/// Scale and zero point of a group: the 16 codes span its weights and zero.
fn grid(weights: &[f32]) -> (f16, u8) {
    let (min, max) = weights.iter().fold((0.0f32, 0.0f32), |(min, max), weight| (min.min(*weight), max.max(*weight)));
    if min == max {
        return (f16::ONE, 8);
    }
    // What rounds to no scale at all would divide by zero.
    let scale = |range: f32| f16::from_f32(range).max(f16::from_bits(1));
    let all = scale((max - min) / MOST);
    match (-min / all.to_f32()).round_ties_even() {
        // Layouts store zero points less one, and engines disagree on what a zero becomes by that.
        zero if zero < 1.0 => (scale((max / (MOST - 1.0)).max(-min)), 1),
        zero => (all, zero.min(MOST) as u8),
    }
}

/// `values -= factor · other`.
fn subtract(values: &mut [f32], factor: f32, other: &[f32]) {
    values.iter_mut().zip(other).for_each(|(value, other)| *value -= factor * other);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_span_the_weights_and_zero() {
        assert_eq!(grid(&[-5.0, 2.0, 10.0]), (f16::ONE, 5), "a step is (10 + 5) / 15");
        assert_eq!(grid(&[3.0, 14.0]), (f16::ONE, 1), "codes 1 to 15: no zero point is 0");
        assert_eq!(grid(&[-15.0, -3.0]), (f16::ONE, 15), "codes 0 to 15");
        assert_eq!(grid(&[0.0, 0.0]), (f16::ONE, 8), "nothing to span");
        let (scale, zero) = grid(&[1e-30, -2e-30]);
        assert!(scale > f16::ZERO && (1..=15).contains(&zero), "a scale to divide by: {scale} {zero}");
        assert!(grid(&[1e30]).0.is_infinite(), "beyond f16, which the caller refuses");
    }

    #[test]
    fn groups_begin_only_where_all_errors_before_them_are_spread() {
        assert_eq!((block_end(0, 32), block_end(128, 128)), (128, 256), "whole groups");
        assert_eq!((block_end(0, 96), block_end(96, 96)), (96, 192), "one group, two would be too many");
        assert_eq!((block_end(0, 192), block_end(128, 192), block_end(192, 192)), (128, 192, 320), "parts of a group");
    }

    #[test]
    fn with_independent_inputs_it_is_plain_rounding() {
        const COLS: usize = 64;
        let mut hessian = vec![0.0; COLS * COLS];
        (0..COLS).for_each(|i| hessian[i * COLS + i] = 1.0 + i as f32);
        let weights: Vec<f32> = (0..8 * COLS).map(|at| ((at * 37 + 5) % 101) as f32 / 101.0 - 0.4).collect();
        for act_order in [false, true] {
            let options = GptqOptions { group_size: None, act_order, ..GptqOptions::default() };
            let rounded = round_linear(&weights, &hessian, COLS, &options).expect("it has an inverse");
            for (row, weights) in weights.chunks_exact(COLS).enumerate() {
                let (scale, zero) = grid(weights);
                assert_eq!((rounded.scales[row], rounded.zeros[row]), (scale, zero), "row {row}");
                for (column, weight) in weights.iter().enumerate() {
                    let code = ((weight / scale.to_f32()).round_ties_even() + f32::from(zero)).clamp(0.0, MOST);
                    assert_eq!(rounded.codes[row * COLS + column], code as u8, "row {row}, column {column}");
                }
            }
        }
    }
}
