// Gated activation (Shazeer 2020: SwiGLU, GeGLU …): act(gate) · up. One invocation per output quad; workgroups
// along x cover a row, along y tokens, along z a token's rows where it has several (experts).
#import activation
#import QUANTIZED
#import STORED

override COLS: u32;          // intermediate_size
override GROUPS: u32;        // rows of a token
override WORKGROUP: u32 = 64u;
override INTERLEAVED: bool;  // (gate, up) pairs; otherwise all of gate, then all of up

@bind var<storage, read> x: array<vec4<f32>>;             // (tokens, groups, 2 intermediate_size / 4)
@bind var<storage, read_write> output: array<Stored>;     // (tokens, groups, intermediate_size / 4)

fn gated(number: u32, at: u32) -> vec4<f32> {
    let quads = COLS / 4u;
    let row = number * 2u * quads;
    if INTERLEAVED {
        let low = x[row + 2u * at];
        let high = x[row + 2u * at + 1u];
        return activate4(vec4(low.xz, high.xz)) * vec4(low.yw, high.yw);
    }
    return activate4(x[row + at]) * x[row + quads + at];
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let quads = COLS / 4u;
    let number = id.y * GROUPS + id.z;
    var value = vec4<f32>();
    if id.x < quads {
        value = gated(number, id.x);
        output[number * quads + id.x] = stored(value);
    }
    store_quantized(number, id.x, value, lid);
}
