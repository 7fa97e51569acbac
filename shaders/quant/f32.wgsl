// f32 weights, four a chunk. Interface: shaders/quant/README.md; twin: src/quant/dense.rs.

@bind var<storage, read> quants: array<vec4<u32>>;  // (rows, chunks of a row)

const CHUNK: u32 = 4u;

struct Chunk {
    quants: vec4<u32>,
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    return Chunk(quants[row * ((COLS + CHUNK - 1u) / CHUNK) + chunk]);
}

fn chunk4(c: Chunk, i: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(c.quants);
}
