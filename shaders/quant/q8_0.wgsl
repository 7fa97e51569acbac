// q8_0 weights, 16 a chunk, two chunks a block. Interface: shaders/quant/README.md; twin: src/quant/q8_0.rs.
#import codes

@bind var<storage, read> quants: array<vec4<u32>>;  // (rows, chunks of a row): 16 signed bytes
@bind var<storage, read> scales: array<u32>;        // (rows, words of a row): two f16 a word

const CHUNK: u32 = 16u;

struct Chunk {
    quants: vec4<u32>,
    scale: f32,
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    let block = chunk / 2u;
    let pair = unpack2x16float(scales[row * ((COLS / 32u + 1u) / 2u) + block / 2u]);
    return Chunk(quants[row * (COLS / CHUNK) + chunk], select(pair.x, pair.y, block % 2u == 1u));
}

fn chunk4(c: Chunk, i: u32) -> vec4<f32> {
    // Signed bytes, 128 higher: without their sign they are codes like any other.
    return numbers4(c.quants[i] ^ 0x80808080u, 128.0) * c.scale;
}

fn chunk_codes(c: Chunk, i: u32) -> u32 {
    return c.quants[i];
}

fn half_scale(c: Chunk, half: u32) -> vec2<f32> {
    return vec2<f32>(c.scale, 0.0);
}
