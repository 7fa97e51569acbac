// q4_k weights, a group of 32 a chunk, eight chunks a block. Interface: shaders/quant/README.md; twin:
// src/quant/q4_k.rs.
#import codes
#import group_scales

@bind var<storage, read> quants: array<vec4<u32>>;  // (rows, groups of a row): 32 nibbles
@bind var<storage, read> scales: array<vec4<u32>>;  // (rows, blocks of a row): see group_scales

const CHUNK: u32 = 32u;

struct Chunk {
    quants: vec4<u32>,
    scale: f32,
    min: f32,
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    let scale_min = group_scales(scales[row * (COLS / 256u) + chunk / 8u], chunk % 8u);
    return Chunk(quants[row * (COLS / CHUNK) + chunk], scale_min.x, scale_min.y);
}

fn chunk4(c: Chunk, i: u32) -> vec4<f32> {
    return numbers4(chunk_codes(c, i), 0.0) * c.scale - c.min;
}

fn chunk_codes(c: Chunk, i: u32) -> u32 {
    return nibbles(c.quants, i);
}

fn half_scale(c: Chunk, half: u32) -> vec2<f32> {
    return vec2<f32>(c.scale, c.min);
}
