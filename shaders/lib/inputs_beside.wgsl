// Slot INPUTS of gemm_matrix: rows whose last columns are in a tensor of their own: the interface of lib/inputs_whole.
#import f16_scale

override FIRST_SLABS: u32;     // slabs of the first tensor's rows
override SCALED: bool;         // the first is divided by F16_SCALE
override SCALED_BESIDE: bool;  // the other is

@bind var<storage, read> narrowed: array<vec4<u32>>;         // (tokens, first slabs, octets)
@bind var<storage, read> narrowed_beside: array<vec4<u32>>;  // (tokens, slabs - first slabs, octets)

fn for_inputs(values: vec4<f32>, slab: u32) -> vec4<f32> {
    if SCALED | SCALED_BESIDE {
        return values * select(1.0, F16_SCALE, select(SCALED_BESIDE, SCALED, slab < FIRST_SLABS));
    }
    return values;
}

fn input_octet(token: u32, slab: u32, octet: u32) -> vec4<u32> {
    if slab < FIRST_SLABS {
        return narrowed[(token * FIRST_SLABS + slab) * OCTETS + octet];
    }
    return narrowed_beside[(token * (SLABS - FIRST_SLABS) + slab - FIRST_SLABS) * OCTETS + octet];
}
