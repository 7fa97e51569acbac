// q6_k weights, a group of 32 a chunk, eight chunks a block. Interface: shaders/quant/README.md; twin:
// src/quant/q6_k.rs.
#import codes

@bind var<storage, read> quants: array<vec4<u32>>;     // (rows, groups of a row): 32 nibbles
@bind var<storage, read> scales: array<u32>;           // (rows, words of a row): two groups' bytes a word, then f16s
@bind var<storage, read> high_bits: array<vec2<u32>>;  // (rows, groups of a row): 32 upper pairs of bits

const CHUNK: u32 = 32u;

struct Chunk {
    quants: vec4<u32>,
    high_bits: vec2<u32>,
    scales: vec2<f32>,  // of 16 weights each
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    let blocks = COLS / 256u;
    let first = row * (4u * blocks + (blocks + 1u) / 2u);
    let block = chunk / 8u;
    let pair = unpack2x16float(scales[first + 4u * blocks + block / 2u]);
    let units = vec4<f32>(unpack4xI8(scales[first + chunk / 2u]));
    let group = select(units.xy, units.zw, chunk % 2u == 1u);
    let at = row * (COLS / CHUNK) + chunk;
    return Chunk(quants[at], high_bits[at], group * select(pair.x, pair.y, block % 2u == 1u));
}

fn chunk4(c: Chunk, i: u32) -> vec4<f32> {
    return numbers4(chunk_codes(c, i), 32.0) * half_scale(c, i / 4u).x;
}

fn chunk_codes(c: Chunk, i: u32) -> u32 {
    return nibbles(c.quants, i) | (pairs(c.high_bits, i) << 4u);
}

fn half_scale(c: Chunk, half: u32) -> vec2<f32> {
    return select(c.scales.x, c.scales.y, half == 1u) * vec2<f32>(1.0, 32.0);
}
