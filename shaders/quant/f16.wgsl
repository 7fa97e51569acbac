// f16 weights, eight a chunk. Interface: shaders/quant/README.md; twin: src/quant/dense.rs.

@bind var<storage, read> quants: array<vec4<u32>>;  // (rows, chunks of a row)

const CHUNK: u32 = 8u;

struct Chunk {
    quants: vec4<u32>,
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    return Chunk(quants[row * ((COLS + CHUNK - 1u) / CHUNK) + chunk]);
}

fn chunk4(c: Chunk, i: u32) -> vec4<f32> {
    let words = select(c.quants.xy, c.quants.zw, i == 1u);
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
