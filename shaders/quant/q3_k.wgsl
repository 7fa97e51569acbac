// q3_k weights, a group of 32 a chunk, eight chunks a block. Interface: shaders/quant/README.md; twin:
// src/quant/q3_k.rs.
#import codes

@bind var<storage, read> quants: array<vec2<u32>>;  // (rows, groups of a row): 32 lower pairs of bits
@bind var<storage, read> scales: array<vec4<u32>>;  // (rows, blocks of a row): low nibbles, upper pairs, f16 scale
@bind var<storage, read> high_bits: array<u32>;     // (rows, groups of a row): 32 third bits

const CHUNK: u32 = 32u;

struct Chunk {
    quants: vec2<u32>,
    high_bits: u32,
    scales: vec2<f32>,  // of 16 weights each
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    let packed = scales[row * (COLS / 256u) + chunk / 8u];
    let group = chunk % 8u;
    let nibbles = select(packed.x, packed.y, group >= 4u) >> (group % 4u * 8u);
    let low = (vec2<u32>(nibbles) >> vec2<u32>(0u, 4u)) & vec2<u32>(15u);
    let high = (vec2<u32>(packed.z >> (group * 4u)) >> vec2<u32>(0u, 2u)) & vec2<u32>(3u);
    let units = vec2<f32>(low | (high << vec2<u32>(4u))) - 32.0;
    let at = row * (COLS / CHUNK) + chunk;
    return Chunk(quants[at], high_bits[at], units * unpack2x16float(packed.w).x);
}

fn chunk4(c: Chunk, i: u32) -> vec4<f32> {
    return numbers4(chunk_codes(c, i), 4.0) * half_scale(c, i / 4u).x;
}

fn chunk_codes(c: Chunk, i: u32) -> u32 {
    return pairs(c.quants, i) | (bits(c.high_bits, i) << 2u);
}

fn half_scale(c: Chunk, half: u32) -> vec2<f32> {
    return select(c.scales.x, c.scales.y, half == 1u) * vec2<f32>(1.0, 4.0);
}
