// Slot ROW of integer dot products: rounded rows whose last columns are in a tensor of their own: the interface of
// lib/rounded_whole.
override FIRST_COLS: u32;  // columns of the first tensor, a multiple of 32
override BESIDE_COLS: u32 = COLS - FIRST_COLS;

@bind var<storage, read> input: array<vec4<u32>>;   // (tokens, 3 first_cols / 32)
@bind var<storage, read> beside: array<vec4<u32>>;  // (tokens, 3 beside_cols / 32)

fn row_codes(token: u32, block: u32) -> vec4<u32> {
    if block < FIRST_COLS / 16u {
        return input[token * (FIRST_COLS / 32u * 3u) + block];
    }
    return beside[token * (BESIDE_COLS / 32u * 3u) + block - FIRST_COLS / 16u];
}

fn row_sides(token: u32, pair: u32) -> vec4<u32> {
    if pair < FIRST_COLS / 32u {
        return input[token * (FIRST_COLS / 32u * 3u) + FIRST_COLS / 16u + pair];
    }
    return beside[token * (BESIDE_COLS / 32u * 3u) + BESIDE_COLS / 16u + pair - FIRST_COLS / 32u];
}
