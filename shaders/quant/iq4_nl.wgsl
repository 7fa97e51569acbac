// iq4_nl weights, one block of 32 a chunk. Interface: shaders/quant/README.md; twin: src/quant/iq4_nl.rs.
#import byte_table
#import codes
#import iq4_values

@bind var<storage, read> quants: array<vec4<u32>>;  // (rows, blocks of a row): 32 nibbles
@bind var<storage, read> scales: array<u32>;        // (rows, words of a row): two f16 a word

const CHUNK: u32 = 32u;

struct Chunk {
    quants: vec4<u32>,
    scale: f32,
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    let pair = unpack2x16float(scales[row * ((COLS / CHUNK + 1u) / 2u) + chunk / 2u]);
    return Chunk(quants[row * (COLS / CHUNK) + chunk], select(pair.x, pair.y, chunk % 2u == 1u));
}

fn chunk4(c: Chunk, i: u32) -> vec4<f32> {
    return numbers4(chunk_codes(c, i) ^ 0x80808080u, 128.0) * c.scale;
}

fn chunk_codes(c: Chunk, i: u32) -> u32 {
    return look_up(IQ4_VALUES, nibbles(c.quants, i));
}

fn half_scale(c: Chunk, half: u32) -> vec2<f32> {
    return vec2<f32>(c.scale, 0.0);
}

fn hold_values(lid: u32) {
    hold_bytes(IQ4_VALUES, lid);
}

fn held_codes(c: Chunk, i: u32) -> u32 {
    return look_up_held(nibbles(c.quants, i));
}

fn held4(c: Chunk, i: u32) -> vec4<f32> {
    return numbers4(held_codes(c, i) ^ 0x80808080u, 128.0) * c.scale;
}
