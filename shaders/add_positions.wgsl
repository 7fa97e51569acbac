// Learned position embedding (GPT-2): each token's row plus the row of its position. One workgroup per token; lanes
// stride over the row's quads. A row slice writes only the tokens whose positions it holds.
#import step
#import WEIGHTS

override COLS: u32;       // hidden_size
override ROWS: u32;       // rows of this slice
override FIRST_ROW: u32;  // the slice's first row in the table

@bind var<storage, read> x: array<vec4<f32>>;             // (tokens, hidden_size / 4)
@bind var<storage, read_write> output: array<vec4<f32>>;  // (tokens, hidden_size / 4)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let position = step.position + group.x;
    if position < FIRST_ROW || position - FIRST_ROW >= ROWS {
        return;
    }
    let row = position - FIRST_ROW;
    for (var at = lane; at < COLS / 4u; at += 64u) {
        let learned = chunk4(load_chunk(row, at / (CHUNK / 4u)), at % (CHUNK / 4u));
        output[group.x * (COLS / 4u) + at] = x[group.x * (COLS / 4u) + at] + learned;
    }
}
