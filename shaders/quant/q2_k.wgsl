// q2_k weights, a group of 32 a chunk, eight chunks a block. Interface: shaders/quant/README.md; twin:
// src/quant/q2_k.rs.
#import codes

@bind var<storage, read> quants: array<vec2<u32>>;  // (rows, groups of a row): 32 pairs of bits
@bind var<storage, read> scales: array<u32>;        // (rows, words of a row): two groups' bytes a word, then f16 pairs

const CHUNK: u32 = 32u;

struct Chunk {
    quants: vec2<u32>,
    scales: vec2<f32>,  // of 16 weights each
    mins: vec2<f32>,
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    let blocks = COLS / 256u;
    let first = row * (5u * blocks);
    let block = unpack2x16float(scales[first + 4u * blocks + chunk / 8u]);
    let bytes = scales[first + chunk / 2u] >> (chunk % 2u * 16u);
    let units = vec4<f32>((vec4<u32>(bytes) >> vec4<u32>(0u, 8u, 4u, 12u)) & vec4<u32>(15u));
    return Chunk(quants[row * (COLS / CHUNK) + chunk], units.xy * block.x, units.zw * block.y);
}

fn chunk4(c: Chunk, i: u32) -> vec4<f32> {
    let scale_min = half_scale(c, i / 4u);
    return numbers4(chunk_codes(c, i), 0.0) * scale_min.x - scale_min.y;
}

fn chunk_codes(c: Chunk, i: u32) -> u32 {
    return pairs(c.quants, i);
}

fn half_scale(c: Chunk, half: u32) -> vec2<f32> {
    return select(vec2<f32>(c.scales.x, c.mins.x), vec2<f32>(c.scales.y, c.mins.y), half == 1u);
}
