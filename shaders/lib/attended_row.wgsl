// Attention's result, turned back where the cache is turned, and rounded
// as well where the slot QUANTIZED is filled. Depends on HEADS, HEAD_DIM and WORKGROUP. Rows are rounded whole: what
// other columns hold behind those of the heads is rounded by workgroups that do nothing else.
#import turn

override FIRST_COLUMN: u32;  // where the heads begin in a row of the output
override COLS: u32;          // columns of the output

@bind var<storage, read_write> output: array<vec4<f32>>;  // (tokens, cols / 4), of which (heads, head_dim / 4) are the result

// Stores a head's quad `lid`. Called by the whole workgroup together.
fn store_head(token: u32, head: u32, stored: bool, value: vec4<f32>, lid: u32) {
    let quads = HEAD_DIM / 4u;
    let back = turned(value, lid);
    let live = stored & (lid < quads);
    let quad = FIRST_COLUMN / 4u + head * quads + lid;
    if live {
        output[token * (COLS / 4u) + quad] = back;
    }
    store_quantized(token, select(COLS / 4u, quad, live), back, lid);
}

// Rounds the `index`-th WORKGROUP quads behind the heads, which are first in the row.
fn round_rest(token: u32, index: u32, lid: u32) {
    let quad = HEADS * (HEAD_DIM / 4u) + index * WORKGROUP + lid;
    store_quantized(token, quad, output[token * (COLS / 4u) + min(quad, COLS / 4u - 1u)], lid);
}
