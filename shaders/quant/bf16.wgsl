// bf16 weights, eight a chunk: each is the upper half of an f32. Interface: shaders/quant/README.md; twin:
// src/quant/dense.rs.

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
    return bitcast<vec4<f32>>(vec4<u32>(
        words.x << 16u,
        words.x & 0xffff0000u,
        words.y << 16u,
        words.y & 0xffff0000u,
    ));
}
