// Turns attention's result back, in place, where values were turned on their way into the cache. One invocation per
// quad; workgroups along x cover a token's row, along y tokens. Spans divide heads, so they never cross workgroups.
#import turn

override ROW_QUADS: u32;  // of a token's heads

@bind var<storage, read_write> output: array<vec4<f32>>;  // (tokens, row_quads)

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let at = id.y * ROW_QUADS + id.x;
    var values = vec4(0.0);
    if id.x < ROW_QUADS {
        values = output[at];
    }
    values = turned(values, lid);
    if id.x < ROW_QUADS {
        output[at] = values;
    }
}
