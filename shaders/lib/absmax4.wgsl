// What formats have in common whose 4-bit codes are places in a table of floats: half a block of 64 a chunk. Depends on
// `VALUES`, the table, and on `absmax`, what a row's block is to be multiplied by.
#import codes
#import float_table

@bind var<storage, read> quants: array<vec4<u32>>;  // (rows, half blocks of a row): 32 nibbles

struct Chunk {
    quants: vec4<u32>,
    scale: f32,
}

fn load_chunk(row: u32, chunk: u32) -> Chunk {
    return Chunk(quants[row * (COLS / 32u) + chunk], absmax(row, chunk / 2u));
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
