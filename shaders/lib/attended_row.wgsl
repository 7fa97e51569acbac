// Attention's result, turned back where the cache is turned, and rounded
// as well where the slot QUANTIZED is filled. Depends on HEADS, HEAD_DIM and WORKGROUP.
#import turn

override COLS: u32;  // columns of the output: those of all heads

@bind var<storage, read_write> output: array<vec4<f32>>;  // (tokens, heads, head_dim / 4)

// Stores a head's quad `lid`. Called by the whole workgroup together.
fn store_head(token: u32, head: u32, stored: bool, value: vec4<f32>, lid: u32) {
    let quads = HEAD_DIM / 4u;
    let back = turned(value, lid);
    let live = stored & (lid < quads);
    let quad = head * quads + lid;
    if live {
        output[token * (COLS / 4u) + quad] = back;
    }
    store_quantized(token, select(COLS / 4u, quad, live), back, lid);
}
