//! Which scale (and min) represents some weights best: the searches of ggml's reference quantizers.
//!
//! Every sum is in f32 and in the order of the weights, as theirs is, so that ties fall the same way and the bytes
//! are the same. No search looks at more than one group.

/// Weights no larger than this count as zeros.
pub(super) const EPSILON: f32 = 1e-15;

/// To the nearest integer, ties to even.
pub(super) fn nearest(value: f32) -> i32 {
    value.round_ties_even() as i32
}

/// The weight farthest from zero, with its sign: the first of several.
pub(super) fn farthest(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |far, weight| if weight.abs() > far.abs() { *weight } else { far })
}

/// Smallest and largest weight, each the first of several: 0 after -0 does not replace it.
pub(super) fn extremes(weights: &[f32]) -> (f32, f32) {
    let min = weights.iter().fold(f32::MAX, |min, weight| if *weight < min { *weight } else { min });
    let max = weights.iter().fold(f32::MIN, |max, weight| if *weight > max { *weight } else { max });
    (min, max)
}

/// 1 / x, and 0 for 0.
pub(super) fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Which steps [`scale_and_min`] tries: `first + step * i` more steps than codes, for `i` in `0..=tries`.
pub(super) struct Tries {
    pub(super) first: f32,
    pub(super) step: f32,
    pub(super) tries: u8,
}

/// Scale and min (its magnitude: it is subtracted) that bring `code * scale - min` closest to the weights, with codes
/// `0..=most`. `importance` weighs the errors, `error` makes one of a difference.
pub(super) fn scale_and_min(
    weights: &[f32],
    importance: &[f32],
    most: u8,
    tries: &Tries,
    error: fn(f32) -> f32,
    codes: &mut [u8],
) -> (f32, f32) {
    let (smallest, max) = extremes(weights);
    let mut min = if smallest > 0.0 { 0.0 } else { smallest };
    if max == min {
        codes.fill(0);
        return (0.0, -min);
    }
    let pairs = || weights.iter().copied().zip(importance.iter().copied());
    let sum_w = importance.iter().fold(0.0, |sum, w| sum + w);
    let sum_x = pairs().fold(0.0, |sum, (x, w)| sum + w * x);
    let code = |x: f32, inverse: f32, min: f32| nearest(inverse * (x - min)).clamp(0, most.into()) as u8;
    let total_error = |codes: &[u8], scale: f32, min: f32| {
        pairs().zip(codes).fold(0.0, |sum, ((x, w), code)| sum + w * error(scale * f32::from(*code) + min - x))
    };
    let inverse = f32::from(most) / (max - min);
    let mut scale = 1.0 / inverse;
    codes.iter_mut().zip(weights).for_each(|(to, x)| *to = code(*x, inverse, min));
    let mut best = total_error(codes, scale, min);
    let mut tried = [0u8; 32];
    let tried = &mut tried[..weights.len()];
    for i in 0..=tries.tries {
        // From the min found so far, not from the smallest weight.
        let inverse = (tries.first + tries.step * f32::from(i) + f32::from(most)) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0, 0.0, 0.0);
        for ((x, w), to) in pairs().zip(tried.iter_mut()) {
            *to = code(x, inverse, min);
            let l = f32::from(*to);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        // Least squares for these codes.
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut fit = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut fit_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if fit_min > 0.0 {
                (fit, fit_min) = (sum_xl / sum_l2, 0.0);
            }
            let found = total_error(tried, fit, fit_min);
            if found < best {
                codes.copy_from_slice(tried);
                (best, scale, min) = (found, fit, fit_min);
            }
        }
    }
    (scale, -min)
}

/// The scale that brings `(code - most) * scale` closest to the weights, codes `0..2 * most`, errors weighted by
/// the squares of the weights.
pub(super) fn scale_of(weights: &[f32], most: i32, codes: &mut [u8]) -> f32 {
    let max = farthest(weights);
    if max.abs() < EPSILON {
        codes.fill(0);
        return 0.0;
    }
    let code = |x: f32, inverse: f32| nearest(inverse * x).clamp(-most, most - 1);
    let fit = |inverse: f32| {
        weights.iter().fold((0.0, 0.0), |(sum_xl, sum_l2), x| {
            let (l, w) = (code(*x, inverse) as f32, x * x);
            (sum_xl + w * x * l, sum_l2 + w * l * l)
        })
    };
    let mut inverse = -(most as f32) / max;
    let (sum_xl, sum_l2) = fit(inverse);
    let mut scale = if sum_l2 == 0.0 { 0.0 } else { sum_xl / sum_l2 };
    let mut best = scale * sum_xl;
    for i in (-9i8..=9).filter(|i| *i != 0) {
        let tried = -(most as f32 + 0.1 * f32::from(i)) / max;
        let (sum_xl, sum_l2) = fit(tried);
        if sum_l2 > 0.0 && sum_xl * sum_xl > best * sum_l2 {
            inverse = tried;
            scale = sum_xl / sum_l2;
            best = scale * sum_xl;
        }
    }
    codes.iter_mut().zip(weights).for_each(|(to, x)| *to = (code(*x, inverse) + most) as u8);
    scale
}

/// As [`scale_of`], but moving one code at a time while the scale that fits all of them gets better.
pub(super) fn scale_by_exchange(weights: &[f32], most: i32, codes: &mut [u8]) -> f32 {
    let max = farthest(weights);
    if max.abs() < EPSILON {
        codes.fill(0);
        return 0.0;
    }
    let inverse = -(most as f32) / max;
    let mut levels = [0i32; 16];
    let levels = &mut levels[..weights.len()];
    let (mut sum_xl, mut sum_l2) = (0.0, 0.0);
    for (level, x) in levels.iter_mut().zip(weights) {
        *level = nearest(inverse * x).clamp(-most, most - 1);
        let (l, w) = (*level as f32, x * x);
        sum_xl += w * x * l;
        sum_l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (level, x) in levels.iter_mut().zip(weights) {
            let (l, w) = (*level as f32, x * x);
            let (others_xl, others_l2) = (sum_xl - w * x * l, sum_l2 - w * l * l);
            // Where the others call for no positive scale, the code stays.
            let best = if others_xl > 0.0 { nearest(x * others_l2 / others_xl) } else { *level };
            let moved = best.clamp(-most, most - 1);
            let m = moved as f32;
            let (with_xl, with_l2) = (others_xl + w * x * m, others_l2 + w * m * m);
            let better = with_l2 > 0.0 && with_xl * with_xl * sum_l2 > sum_xl * sum_xl * with_l2;
            if moved != *level && better {
                (*level, sum_xl, sum_l2) = (moved, with_xl, with_l2);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    codes.iter_mut().zip(levels).for_each(|(to, level)| *to = (*level + most) as u8);
    if sum_l2 > 0.0 { sum_xl / sum_l2 } else { 0.0 }
}
