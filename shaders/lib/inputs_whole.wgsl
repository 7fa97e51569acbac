// Slot INPUTS of gemm_matrix: activation rows as f16 in one tensor. Depends on SLABS and OCTETS, slabs of a row and octets
// of one.
#import f16_scale

@bind var<storage, read> narrowed: array<vec4<u32>>;  // (tokens, slabs, octets): eight values each, zeros behind the last

override SCALED: bool;  // divided by F16_SCALE

// Weights of a slab's columns as its inputs need them.
fn for_inputs(values: vec4<f32>, slab: u32) -> vec4<f32> {
    if SCALED {
        return values * F16_SCALE;
    }
    return values;
}

fn input_octet(token: u32, slab: u32, octet: u32) -> vec4<u32> {
    return narrowed[(token * SLABS + slab) * OCTETS + octet];
}
