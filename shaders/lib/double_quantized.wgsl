// Absmaxes that are rounded to 8-bit steps around the mean of 256 of them. A row's scales are words: the mean and the
// step of every 256 blocks, then the steps of all its blocks, four a word.

// Where the mean (x; the step is behind it) and the steps (y) of a block are.
fn place_of_scale(row: u32, block: u32, blocks: u32) -> vec2<u32> {
    let pairs = 2u * ((blocks + 255u) / 256u);
    let start = row * (pairs + (blocks + 3u) / 4u);
    return vec2<u32>(start + block / 256u * 2u, start + pairs + block / 4u);
}

fn double_quantized(mean: u32, step: u32, steps: u32, block: u32) -> f32 {
    // The block's byte to the top, then down again with its sign.
    let count = bitcast<i32>(steps << (24u - block % 4u * 8u)) >> 24u;
    return f32(count) * bitcast<f32>(step) + bitcast<f32>(mean);
}
