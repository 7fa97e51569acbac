// iq4_nl weights, one block of 32 a chunk. Interface: shaders/quant/README.md; twin: src/quant/iq4_nl.rs.
#import iq4_values
#import nibble_table

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
