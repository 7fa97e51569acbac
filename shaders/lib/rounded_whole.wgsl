// Slot ROW of integer dot products: rounded rows (lib/quantized_row) in one tensor. Depends on COLS.
@bind var<storage, read> input: array<vec4<u32>>;  // (tokens, 3 cols / 32): (cols / 16) codes, then (cols / 32) pairs of scale and sum

// The sixteen codes of a block.
fn row_codes(token: u32, block: u32) -> vec4<u32> {
    return input[token * (COLS / 32u * 3u) + block];
}

// Scale and sum of blocks 2 `pair` and 2 `pair` + 1.
fn row_sides(token: u32, pair: u32) -> vec4<u32> {
    return input[token * (COLS / 32u * 3u) + COLS / 16u + pair];
}
