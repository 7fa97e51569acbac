// Slot ROW: activation rows in one tensor. Depends on COLS.
@bind var<storage, read> input: array<vec4<f32>>;  // (tokens, cols / 4)

fn row4(token: u32, at: u32) -> vec4<f32> {
    return input[token * (COLS / 4u) + at];
}
