// iq4_xs weights, a group of 32 a chunk, eight chunks a block. Interface: shaders/quant/README.md; twin:
// src/quant/iq4_xs.rs.
#import iq4_values
#import nibble_table

@bind var<storage, read> quants: array<vec4<u32>>;  // (rows, groups of a row): 32 nibbles
@bind var<storage, read> scales: array<vec2<u32>>;  // (rows, blocks of a row): f16 scale, upper pairs; low nibbles

const CHUNK: u32 = 32u;

struct Chunk {
    quants: vec4<u32>,
    scale: f32,
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    let packed = scales[row * (COLS / 256u) + chunk / 8u];
    let group = chunk % 8u;
    let high = (packed.x >> (16u + 2u * group)) & 3u;
    let units = f32(((packed.y >> (4u * group)) & 15u) | (high << 4u)) - 32.0;
    return Chunk(quants[row * (COLS / CHUNK) + chunk], units * unpack2x16float(packed.x).x);
}
