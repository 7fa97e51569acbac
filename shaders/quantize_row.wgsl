// Rows rounded to 8 bits for integer dot products: see lib/quantized_row. One invocation a quad; workgroups along x cover
// a row, along y rows.
#import QUANTIZED

override COLS: u32;  // a multiple of 32
override WORKGROUP: u32 = 64u;

@bind var<storage, read> x: array<vec4<f32>>;  // (rows, cols / 4)

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let quad = group.x * WORKGROUP + lid;
    store_quantized(group.y, quad, x[group.y * (COLS / 4u) + min(quad, COLS / 4u - 1u)], lid);
}
