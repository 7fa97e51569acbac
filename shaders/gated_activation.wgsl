// Gated activation (Shazeer 2020: SwiGLU, GeGLU …): act(gate) · up. One invocation per output quad; workgroups
// along x cover a row, along y tokens, along z a token's rows where it has several (experts).
#import activation

override COLS: u32;          // intermediate_size
override GROUPS: u32;        // rows of a token
override INTERLEAVED: bool;  // (gate, up) pairs; otherwise all of gate, then all of up

@bind var<storage, read> x: array<vec4<f32>>;             // (tokens, groups, 2 intermediate_size / 4)
@bind var<storage, read_write> output: array<vec4<f32>>;  // (tokens, groups, intermediate_size / 4)

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let quads = COLS / 4u;
    if id.x >= quads {
        return;
    }
    let number = id.y * GROUPS + id.z;
    let row = number * 2u * quads;
    var gate: vec4<f32>;
    var up: vec4<f32>;
    if INTERLEAVED {
        let low = x[row + 2u * id.x];
        let high = x[row + 2u * id.x + 1u];
        gate = vec4(low.xz, high.xz);
        up = vec4(low.yw, high.yw);
    } else {
        gate = x[row + id.x];
        up = x[row + quads + id.x];
    }
    output[number * quads + id.x] = activate4(gate) * up;
}
