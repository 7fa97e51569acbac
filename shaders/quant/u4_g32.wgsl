// u4_g32 weights, 32 a chunk. Interface: shaders/quant/README.md; twin: src/quant/zero_point.rs.
#import codes
#import zero_point

@bind var<storage, read> quants: array<vec4<u32>>;  // (rows, chunks of a row): 32 nibbles
@bind var<storage, read> scales: array<u32>;        // (rows, blocks of a row): f16 scale, 16-bit zero point

const CHUNK: u32 = 32u;

struct Chunk {
    quants: vec4<u32>,
    scale: f32,
    min: f32,
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    let scale = scale_min(scales[row * (COLS / 32u) + chunk]);
    return Chunk(quants[row * (COLS / CHUNK) + chunk], scale.x, scale.y);
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
