// Slot INPUTS of gemm_matrix: rows whose last columns are in a tensor of their own: the interface of lib/inputs_whole.
override FIRST_SLABS: u32;  // slabs of the first tensor's rows

@bind var<storage, read> narrowed: array<vec4<u32>>;         // (tokens, first slabs, octets)
@bind var<storage, read> narrowed_beside: array<vec4<u32>>;  // (tokens, slabs - first slabs, octets)

fn input_octet(token: u32, slab: u32, octet: u32) -> vec4<u32> {
    if slab < FIRST_SLABS {
        return narrowed[(token * FIRST_SLABS + slab) * OCTETS + octet];
    }
    return narrowed_beside[(token * (SLABS - FIRST_SLABS) + slab - FIRST_SLABS) * OCTETS + octet];
}
