// nf4_dq weights, half a block of 64 a chunk. Interface: shaders/quant/README.md; twin: src/quant/absmax4.rs.
#import codes
#import double_quantized
#import float_table
#import nf4_values

@bind var<storage, read> quants: array<vec4<u32>>;  // (rows, half blocks of a row): 32 nibbles
@bind var<storage, read> scales: array<u32>;        // (rows, words of a row): see double_quantized

const CHUNK: u32 = 32u;

struct Chunk {
    quants: vec4<u32>,
    scale: f32,
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    let at = place_of_scale(row, chunk / 2u, COLS / 64u);
    let scale = double_quantized(scales[at.x], scales[at.x + 1u], scales[at.y], chunk / 2u);
    return Chunk(quants[row * (COLS / CHUNK) + chunk], scale);
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
