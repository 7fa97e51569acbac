// Slot ROW: activation rows whose last columns are in a tensor of their own: the interface of lib/row_whole.
override FIRST_COLS: u32;  // columns of the first tensor, a multiple of 4

@bind var<storage, read> input: array<vec4<f32>>;   // (tokens, first_cols / 4)
@bind var<storage, read> beside: array<vec4<f32>>;  // (tokens, (cols - first_cols) / 4)

fn row4(token: u32, at: u32) -> vec4<f32> {
    if at < FIRST_COLS / 4u {
        return input[token * (FIRST_COLS / 4u) + at];
    }
    return beside[token * ((COLS - FIRST_COLS) / 4u) + at - FIRST_COLS / 4u];
}
