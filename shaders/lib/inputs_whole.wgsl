// Slot INPUTS of gemm_matrix: activation rows as f16 in one tensor. Depends on SLABS and OCTETS, slabs of a row and octets
// of one.
@bind var<storage, read> narrowed: array<vec4<u32>>;  // (tokens, slabs, octets): eight values each, zeros behind the last

fn input_octet(token: u32, slab: u32, octet: u32) -> vec4<u32> {
    return narrowed[(token * SLABS + slab) * OCTETS + octet];
}
