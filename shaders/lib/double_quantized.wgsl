// Absmaxes that are rounded to 8-bit steps around the mean of 256 of them. A row's scales are words: the mean and the
// step of every 256 blocks, then the steps of all its blocks, four a word.

@bind var<storage, read> scales: array<u32>;  // (rows, words of a row)

fn absmax(row: u32, block: u32) -> f32 {
    let blocks = COLS / 64u;
    let pairs = 2u * ((blocks + 255u) / 256u);
    let start = row * (pairs + (blocks + 3u) / 4u);
    let mean = start + block / 256u * 2u;
    let steps = scales[start + pairs + block / 4u];
    // The block's byte to the top, then down again with its sign.
    let count = bitcast<i32>(steps << (24u - block % 4u * 8u)) >> 24u;
    return f32(count) * bitcast<f32>(scales[mean + 1u]) + bitcast<f32>(scales[mean]);
}
