//! From a Hessian to the matrix that errors are spread by: `U`, upper triangular, with `UᵀU` the inverse of the damped
//! Hessian (the "Cholesky reformulation" of Frantar et al. 2022, section 3.3).
//!
//! The Hessian with its rows and columns reversed is `L Lᵀ`; the inverse of `L`, reversed again, is `U`. That is one
//! factorization and one triangular inverse, two thirds of n³ multiplications. In f64: the damping keeps condition
//! numbers near 10⁵, but nobody promises it. Invariant: columns that no input ever touches have an inverse too.

use rayon::prelude::*;

use super::GptqOptions;

/// What a sweep needs of a Hessian.
#[derive(Debug)]
pub(super) struct Factor {
    pub(super) cols: usize,
    /// `(cols, cols)`, rows and columns in the order of the sweep.
    pub(super) upper: Vec<f32>,
    /// The input of each place in that order; none as they are.
    pub(super) order: Option<Vec<u32>>,
    /// By place: no input was ever other than zero, so that any weight is as good as zero.
    pub(super) dead: Vec<bool>,
}

/// How much more damping is tried where a Hessian is singular, and how often.
const DAMP_MORE: f64 = 10.0;
const ATTEMPTS: usize = 3;

impl Factor {
    /// Factorizes a Hessian `(cols, cols)`; none where it has no inverse even with more damping.
    pub(super) fn new(hessian: &[f32], cols: usize, options: &GptqOptions) -> Option<Self> {
        let diagonal = |input: usize| hessian[input * cols + input];
        // As in the paper's code: a column without inputs counts as one of inputs of one.
        let counted = |input: usize| if diagonal(input) == 0.0 { 1.0 } else { diagonal(input) };
        let mut order: Vec<u32> = (0..cols as u32).collect();
        if options.act_order {
            order.sort_by(|a, b| counted(*b as usize).total_cmp(&counted(*a as usize)));
        }
        let mean = (0..cols).map(|input| f64::from(counted(input))).sum::<f64>() / cols as f64;
        let mut damp = options.damp * mean;
        let upper = (0..ATTEMPTS).find_map(|_| {
            let reversed = |place: usize| order[cols - 1 - place] as usize;
            let mut lower = vec![0.0f64; cols * cols];
            lower.par_chunks_mut(cols).enumerate().for_each(|(row, values)| {
                let input = reversed(row);
                let line = &hessian[input * cols..][..cols];
                values[..=row].iter_mut().enumerate().for_each(|(at, value)| *value = line[reversed(at)].into());
                values[row] = f64::from(counted(input)) + damp;
            });
            damp *= DAMP_MORE;
            cholesky(&mut lower, cols)?;
            Some(reversed_inverse(&lower, cols))
        })?;
        let dead = order.iter().map(|input| diagonal(*input as usize) == 0.0).collect();
        Some(Self { cols, upper, order: options.act_order.then_some(order), dead })
    }
}

/// Columns that are finished at a time.
const BLOCK: usize = 64;

/// Rows that a thread takes at once.
const ROWS: usize = 16;

/// `L` of `L Lᵀ` in place of the lower half of a symmetric matrix; none where it is not positive definite.
fn cholesky(matrix: &mut [f64], size: usize) -> Option<()> {
    for start in (0..size).step_by(BLOCK) {
        let end = (start + BLOCK).min(size);
        let (above, below) = matrix.split_at_mut(end * size);
        for column in start..end {
            let pivot = above[column * size + column] - dot_of_rows(above, size, column, column, start);
            // Also false for NaN.
            if pivot.partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater) || !pivot.is_finite() {
                return None;
            }
            above[column * size + column] = pivot.sqrt();
            for row in column + 1..end {
                let value = above[row * size + column] - dot_of_rows(above, size, row, column, start);
                above[row * size + column] = value / above[column * size + column];
            }
        }
        below.par_chunks_mut(size).for_each(|row| {
            for column in start..end {
                let done = &above[column * size..];
                row[column] = (row[column] - dot(&row[start..column], &done[start..column])) / done[column];
            }
        });
        let width = end - start;
        let panel: Vec<f64> = below.chunks_exact(size).flat_map(|row| &row[start..end]).copied().collect();
        below.par_chunks_mut(size * ROWS).enumerate().for_each(|(block, rows)| {
            let first = block * ROWS;
            let count = rows.len() / size;
            for other in 0..first + count {
                for row in other.saturating_sub(first)..count {
                    let product = dot(&panel[(first + row) * width..][..width], &panel[other * width..][..width]);
                    rows[row * size + end + other] -= product;
                }
            }
        });
    }
    Some(())
}

/// Over columns `start` to before `end` of two rows, where `end` is the second's number.
fn dot_of_rows(matrix: &[f64], size: usize, a: usize, b: usize, start: usize) -> f64 {
    dot(&matrix[a * size + start..a * size + b], &matrix[b * size + start..b * size + b])
}

/// Over eight running sums, so that the compiler can use vector registers.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    const WIDTH: usize = 8;
    let mut sums = [0.0f64; WIDTH];
    let (a, a_rest) = a.as_chunks::<WIDTH>();
    let (b, b_rest) = b.as_chunks::<WIDTH>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..WIDTH {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

/// `L⁻¹` with rows and columns reversed: columns are independent, so that each thread solves for some.
fn reversed_inverse(lower: &[f64], size: usize) -> Vec<f32> {
    let mut upper = vec![0.0f32; size * size];
    let starts: Vec<usize> = (0..size).step_by(BLOCK).collect();
    for some in starts.chunks(rayon::current_num_threads().max(1)) {
        let tiles: Vec<(usize, Vec<f64>)> =
            some.par_iter().map(|start| (*start, inverse_columns(lower, size, *start))).collect();
        for (start, tile) in tiles {
            let width = BLOCK.min(size - start);
            for (row, values) in (start..size).zip(tile.chunks_exact(width)) {
                for (column, value) in (start..).zip(values) {
                    upper[(size - 1 - row) * size + size - 1 - column] = *value as f32;
                }
            }
        }
    }
    upper
}

/// Columns `start` and following of `L⁻¹`, from row `start` on: forward substitution, block by block.
fn inverse_columns(lower: &[f64], size: usize, start: usize) -> Vec<f64> {
    let width = BLOCK.min(size - start);
    let mut tile = vec![0.0f64; (size - start) * width];
    for first in (start..size).step_by(BLOCK) {
        let end = (first + BLOCK).min(size);
        let (done, rest) = tile.split_at_mut((first - start) * width);
        let rows = &mut rest[..(end - first) * width];
        for known in (start..first).step_by(BLOCK) {
            for (row, values) in (first..end).zip(rows.chunks_exact_mut(width)) {
                for other in known..known + BLOCK {
                    subtract(values, lower[row * size + other], &done[(other - start) * width..][..width]);
                }
            }
        }
        for row in first..end {
            let (solved, rest) = rows.split_at_mut((row - first) * width);
            let values = &mut rest[..width];
            for other in first..row {
                subtract(values, lower[row * size + other], &solved[(other - first) * width..][..width]);
            }
            if row - start < width {
                values[row - start] += 1.0;
            }
            let diagonal = lower[row * size + row];
            values.iter_mut().for_each(|value| *value /= diagonal);
        }
    }
    tile
}

/// `values -= factor · other`.
fn subtract(values: &mut [f64], factor: f64, other: &[f64]) {
    values.iter_mut().zip(other).for_each(|(value, other)| *value -= factor * other);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A symmetric matrix that is well away from singular.
    fn hessian(size: usize) -> Vec<f32> {
        let value = |row: usize, at: usize| ((row * 31 + at * 17 + row * at % 7) % 23) as f32 / 23.0 - 0.5;
        let mut matrix = vec![0.0; size * size];
        for i in 0..size {
            for j in 0..size {
                matrix[i * size + j] = (0..40).map(|row| value(row, i) * value(row, j)).sum::<f32>();
            }
        }
        matrix
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        // More than two blocks, the last one short.
        const SIZE: usize = 150;
        let hessian = hessian(SIZE);
        let options = GptqOptions { damp: 0.05, ..GptqOptions::default() };
        let factor = Factor::new(&hessian, SIZE, &options).expect("it has an inverse");
        let mean = (0..SIZE).map(|i| f64::from(hessian[i * SIZE + i])).sum::<f64>() / SIZE as f64;
        let damped = |i: usize, j: usize| f64::from(hessian[i * SIZE + j]) + if i == j { 0.05 * mean } else { 0.0 };
        let upper = |i: usize, j: usize| f64::from(factor.upper[i * SIZE + j]);
        // (UᵀU) H = 1
        let inverse: Vec<f64> =
            (0..SIZE * SIZE).map(|at| (0..SIZE).map(|k| upper(k, at / SIZE) * upper(k, at % SIZE)).sum()).collect();
        for i in 0..SIZE {
            for j in 0..SIZE {
                let product: f64 = (0..SIZE).map(|k| inverse[i * SIZE + k] * damped(k, j)).sum();
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 1e-3, "({i}, {j}): {product}");
                assert!(i <= j || upper(i, j) == 0.0, "({i}, {j}) is below the diagonal");
            }
        }
    }

    #[test]
    fn columns_without_inputs_have_an_inverse_and_are_known() {
        let mut hessian = hessian(40);
        for other in 0..40 {
            hessian[7 * 40 + other] = 0.0;
            hessian[other * 40 + 7] = 0.0;
        }
        for act_order in [false, true] {
            let options = GptqOptions { act_order, ..GptqOptions::default() };
            let factor = Factor::new(&hessian, 40, &options).expect("damped it has an inverse");
            let place = factor.order.as_ref().map_or(7, |order| order.iter().position(|i| *i == 7).expect("there"));
            let dead: Vec<usize> = (0..40).filter(|place| factor.dead[*place]).collect();
            assert_eq!(dead, [place], "the one column, act_order {act_order}");
            assert!(factor.upper.iter().all(|value| value.is_finite()), "numbers");
        }
    }

    #[test]
    fn what_is_not_positive_definite_is_refused() {
        let negative = [1.0, 50.0, 50.0, 1.0];
        assert!(Factor::new(&negative, 2, &GptqOptions::default()).is_none(), "no damping helps");
        let unknown = [f32::NAN, 0.0, 0.0, 1.0];
        assert!(Factor::new(&unknown, 2, &GptqOptions::default()).is_none(), "no number");
    }
}
