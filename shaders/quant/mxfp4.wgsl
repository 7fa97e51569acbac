// mxfp4 weights, one block of 32 a chunk. Interface: shaders/quant/README.md; twin: src/quant/mxfp4.rs.
#import nibble_table

@bind var<storage, read> quants: array<vec4<u32>>;  // (rows, blocks of a row): 32 nibbles
@bind var<storage, read> scales: array<u32>;        // (rows, words of a row): four exponents a word

const CHUNK: u32 = 32u;
// 0 1 2 3, 4 6 8 12, then the same below zero, four bytes a word.
const VALUES: vec4<u32> = vec4<u32>(0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu);

struct Chunk {
    quants: vec4<u32>,
    scale: f32,  // for values counted in halves
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    let exponents = scales[row * ((COLS / CHUNK + 3u) / 4u) + chunk / 4u];
    let exponent = (exponents >> (chunk % 4u * 8u)) & 255u;
    // The lowest two are subnormal, which an adapter may read as zero.
    let bits = select((exponent - 1u) << 23u, 0x00200000u << (exponent & 1u), exponent < 2u);
    return Chunk(quants[row * (COLS / CHUNK) + chunk], bitcast<f32>(bits));
}
