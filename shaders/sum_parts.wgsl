// Adds what the workgroups of gemm_matrix that share columns found, in their order. An invocation an output.
#import step
#import epilogue

override ROWS: u32;          // rows of this slice
override FIRST_ROW: u32;     // the slice's first row in the weight
override LOGIT_ROWS: bool;   // as many rows as logits are wanted, else one per token
override PARTS: u32;
override PART_ROWS: u32;     // rows of a part: whole tiles

@bind var<storage, read> parts: array<f32>;  // (parts, whole tiles of tokens, whole tiles of rows)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let tokens = select(step.tokens, step.logit_rows, LOGIT_ROWS);
    let row = group.x * 256u + lid;
    let token = group.y;
    if row >= ROWS {
        return;
    }
    let part = (tokens + 127u) / 128u * 128u * PART_ROWS;
    var sum = 0.0;
    for (var n = 0u; n < PARTS; n++) {
        sum += parts[n * part + token * PART_ROWS + row];
    }
    finish(token, FIRST_ROW + row, sum);
}
