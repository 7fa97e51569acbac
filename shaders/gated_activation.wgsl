// Gated activation (Shazeer 2020: SwiGLU, GeGLU …): act(gate) · up. One invocation per output quad; workgroups
// along x cover a row, along y tokens.
#import activation

override COLS: u32;  // intermediate_size

@bind var<storage, read> x: array<vec4<f32>>;             // (tokens, [gate | up], intermediate_size / 4)
@bind var<storage, read_write> output: array<vec4<f32>>;  // (tokens, intermediate_size / 4)

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let quads = COLS / 4u;
    if id.x >= quads {
        return;
    }
    let row = id.y * 2u * quads;
    output[id.y * quads + id.x] = activate4(x[row + id.x]) * x[row + quads + id.x];
}
