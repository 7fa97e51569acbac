// nf4 weights, half a block of 64 a chunk. Interface: shaders/quant/README.md; twin: src/quant/absmax4.rs.
#import codes
#import float_table
#import nf4_values

@bind var<storage, read> quants: array<vec4<u32>>;  // (rows, half blocks of a row): 32 nibbles
@bind var<storage, read> scales: array<f32>;        // (rows, blocks of a row): absmaxes

const CHUNK: u32 = 32u;

struct Chunk {
    quants: vec4<u32>,
    scale: f32,
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    return Chunk(quants[row * (COLS / CHUNK) + chunk], scales[row * (COLS / 64u) + chunk / 2u]);
}

fn chunk4(c: Chunk, i: u32) -> vec4<f32> {
    return look_up_floats(VALUES, unpack4xU8(nibbles(c.quants, i))) * c.scale;
}

fn hold_values(lid: u32) {
    hold_table(VALUES, lid);
}

fn held4(c: Chunk, i: u32) -> vec4<f32> {
    return look_up_held(unpack4xU8(nibbles(c.quants, i))) * c.scale;
}
