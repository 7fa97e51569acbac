// Rows as f16 for gemm_matrix, divided by F16_SCALE and padded with zeros to whole slabs of 32 columns. An invocation writes eight values.
#import step
#import ROW
#import stored_f16_scaled

override COLS: u32;        // a multiple of 4
override LOGIT_ROWS: bool; // as many rows as logits are wanted, else one per token
override OCTETS: u32 = (COLS + 31u) / 32u * 4u;

@bind var<storage, read_write> narrowed: array<vec4<u32>>;  // (tokens, octets)

fn halves(token: u32, at: u32) -> Stored {
    if at >= COLS / 4u {
        return Stored();
    }
    return stored(row4(token, at));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let octet = group.x * 64u + lid;
    let token = group.y;
    if octet < OCTETS {
        narrowed[token * OCTETS + octet] = vec4<u32>(halves(token, 2u * octet), halves(token, 2u * octet + 1u));
    }
}
