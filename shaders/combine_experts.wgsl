// A token's experts joined: residual + Σ weight · expert, and where there is one the shared expert, scaled by the
// sigmoid of its gate. One invocation per quad; workgroups along x cover a row, along y tokens.
#import step

override COLS: u32;    // hidden_size
override TOP_K: u32;
override SHARED: bool;  // there is a shared expert
override GATED: bool;   // and it has a gate

@bind var<storage, read> experts: array<vec4<f32>>;       // (tokens, top_k, hidden_size / 4)
@bind var<storage, read> selection: array<vec2<f32>>;     // (tokens, top_k): expert, weight
@bind var<storage, read> residual: array<vec4<f32>>;      // (tokens, hidden_size / 4)
@bind var<storage, read> shared_expert: array<vec4<f32>>;  // (tokens, hidden_size / 4)
@bind var<storage, read> gate: array<f32>;                // (tokens)
@bind var<storage, read_write> output: array<vec4<f32>>;  // (tokens, hidden_size / 4)

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let quads = COLS / 4u;
    if id.x >= quads {
        return;
    }
    let at = id.y * quads + id.x;
    var sum = residual[at];
    for (var k = 0u; k < TOP_K; k++) {
        let choice = id.y * TOP_K + k;
        sum += selection[choice].y * experts[choice * quads + id.x];
    }
    if SHARED {
        var weight = 1.0;
        if GATED {
            weight = 1.0 / (1.0 + exp(-max(gate[id.y], -80.0)));  // exp(88) overflows
        }
        sum += weight * shared_expert[at];
    }
    output[at] = sum;
}
