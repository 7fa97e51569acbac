// Rows of the embedding for token ids. One workgroup per token; lanes stride over the row's chunks. A row slice
// writes only the tokens whose rows it holds.
#import step
#import WEIGHTS

override COLS: u32;       // hidden_size
override ROWS: u32;       // rows of this slice
override FIRST_ROW: u32;  // the slice's first row in the embedding
override SCALE: f32;      // rows are multiplied by it

@bind var<storage, read> tokens: array<u32>;             // (tokens)
@bind var<storage, read_write> output: array<vec4<f32>>; // (tokens, hidden_size / 4)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let id = tokens[group.x];
    if id < FIRST_ROW || id - FIRST_ROW >= ROWS {
        return;
    }
    let row = id - FIRST_ROW;
    for (var at = lane; at < COLS / 4u; at += 64u) {
        let value = chunk4(load_chunk(row, at / (CHUNK / 4u)), at % (CHUNK / 4u));
        output[group.x * (COLS / 4u) + at] = SCALE * value;
    }
}
