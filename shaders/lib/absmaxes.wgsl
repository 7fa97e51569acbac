// Absmaxes as they are.

@bind var<storage, read> scales: array<f32>;  // (rows, blocks of a row)

fn absmax(row: u32, block: u32) -> f32 {
    return scales[row * (COLS / 64u) + block];
}
