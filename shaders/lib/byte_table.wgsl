// A table of sixteen signed bytes, looked up by four codes at once; both are the bytes of words. Each level of choice is
// made in all four bytes together: an array that is indexed by a variable would go through memory.
fn look_up(table: vec4<u32>, codes: u32) -> u32 {
    // Bit k of every code, spread over its byte.
    let bit0 = (codes & 0x01010101u) * 255u;
    let bit1 = ((codes >> 1u) & 0x01010101u) * 255u;
    let bit2 = ((codes >> 2u) & 0x01010101u) * 255u;
    let bit3 = ((codes >> 3u) & 0x01010101u) * 255u;
    let low = choose(of_four(table.x, bit0, bit1), of_four(table.y, bit0, bit1), bit2);
    let high = choose(of_four(table.z, bit0, bit1), of_four(table.w, bit0, bit1), bit2);
    return choose(low, high, bit3);
}

fn of_four(word: u32, bit0: u32, bit1: u32) -> u32 {
    let each = vec4<u32>(word, word >> 8u, word >> 16u, word >> 24u) & vec4<u32>(255u);
    let every = each * 0x01010101u;
    return choose(choose(every.x, every.y, bit0), choose(every.z, every.w, bit0), bit1);
}

fn choose(zero: u32, one: u32, mask: u32) -> u32 {
    return (zero & ~mask) | (one & mask);
}

// The same table in workgroup memory, for kernels that look up many codes: sixteen neighbouring words lie in as many
// banks, so a look-up takes one load. `hold_bytes` comes first, then a barrier.
var<workgroup> held: array<u32, 16>;  // each byte four times

fn hold_bytes(table: vec4<u32>, lid: u32) {
    var words = table;
    if lid < 16u {
        held[lid] = ((words[lid / 4u] >> (lid % 4u * 8u)) & 255u) * 0x01010101u;
    }
}

fn look_up_held(codes: u32) -> u32 {
    let each = (vec4<u32>(codes) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(15u);
    let low = (held[each.x] & 0xffu) | (held[each.y] & 0xff00u);
    return low | (held[each.z] & 0xff0000u) | (held[each.w] & 0xff000000u);
}
