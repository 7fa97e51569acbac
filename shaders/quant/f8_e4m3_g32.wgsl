// f8_e4m3_g32 weights, 16 a chunk, 2 chunks a block. Interface: shaders/quant/README.md; twin: src/quant/f8_e4m3.rs.
#import f8_e4m3

@bind var<storage, read> quants: array<vec4<u32>>;  // (rows, chunks of a row): 16 bytes
@bind var<storage, read> scales: array<f32>;        // (rows, blocks of a row)

const CHUNK: u32 = 16u;

struct Chunk {
    quants: vec4<u32>,
    scale: f32,  // in units of F8_UNIT
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    return Chunk(quants[row * (COLS / CHUNK) + chunk], scales[row * (COLS / 32u) + chunk / 2u] * F8_UNIT);
}

fn chunk4(c: Chunk, i: u32) -> vec4<f32> {
    return f8_e4m3(c.quants[i]) * c.scale;
}
