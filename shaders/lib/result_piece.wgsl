// Slot RESULT: a piece of the context, which attention_combine joins with the others.
override PIECES: u32;  // pieces of a head there is room for

@bind var<storage, read_write> partials: array<vec4<f32>>;  // (tokens, heads, pieces, 1 + head_dim / 4): maximum, sum; values

const WHOLE = false;

fn finish(part: Part, head: u32, stored: bool, maximum: f32, sum: f32, total: vec4<f32>, lid: u32) {
    let quads = HEAD_DIM / 4u;
    let row = ((part.token * HEADS + head) * PIECES + part.piece) * (1u + quads);
    if stored && lid == 0u {
        partials[row] = vec4(maximum, sum, 0.0, 0.0);
    }
    if stored && lid < quads {
        partials[row + 1u + lid] = total;
    }
}
