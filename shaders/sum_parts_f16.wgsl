// As sum_parts, to rows of f16 for another gemm_matrix. An invocation makes eight values.
#import step
#import activation
#import stored_f16

override ROWS: u32;          // rows of this slice, a multiple of 8
override FIRST_ROW: u32;     // the slice's first row in the weight, a multiple of 8
override COLUMNS: u32;       // columns of the output
override LOGIT_ROWS: bool;   // as many rows as logits are wanted, else one per token
override PARTS: u32;
override PART_ROWS: u32;     // rows of a part: whole tiles
override BIAS: bool;

@bind var<storage, read> parts: array<vec4<f32>>;         // (parts, whole tiles of tokens, whole tiles of rows / 4)
@bind var<storage, read> bias: array<vec4<f32>>;          // (rows of the weight / 4)
@bind var<storage, read_write> output: array<vec4<u32>>;  // (tokens, columns / 8)

// Quad `quad` of the slice's rows, added up.
fn summed(token: u32, tokens: u32, quad: u32) -> Stored {
    let part = (tokens + 127u) / 128u * 128u * (PART_ROWS / 4u);
    var sum = vec4<f32>();
    for (var n = 0u; n < PARTS; n++) {
        sum += parts[n * part + token * (PART_ROWS / 4u) + quad];
    }
    if BIAS {
        sum += bias[FIRST_ROW / 4u + quad];
    }
    return stored(activate4(sum));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let tokens = select(step.tokens, step.logit_rows, LOGIT_ROWS);
    let octet = group.x * 256u + lid;
    let token = group.y;
    if octet < ROWS / 8u {
        let place = token * (COLUMNS / 8u) + FIRST_ROW / 8u + octet;
        output[place] = vec4(summed(token, tokens, 2u * octet), summed(token, tokens, 2u * octet + 1u));
    }
}
