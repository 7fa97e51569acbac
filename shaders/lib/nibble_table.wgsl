// What formats have in common whose 4-bit codes are places in a table of bytes: a group of 32 a chunk, one scale. Depends on
// `Chunk`, with `quants` (32 nibbles) and `scale`, and on `VALUES`, the table.
#import byte_table
#import codes

fn chunk4(c: Chunk, i: u32) -> vec4<f32> {
    return signed4(chunk_codes(c, i)) * c.scale;
}

fn chunk_codes(c: Chunk, i: u32) -> u32 {
    return look_up(VALUES, nibbles(c.quants, i));
}

fn half_scale(c: Chunk, half: u32) -> vec2<f32> {
    return vec2<f32>(c.scale, 0.0);
}

fn hold_values(lid: u32) {
    hold_bytes(VALUES, lid);
}

fn held4(c: Chunk, i: u32) -> vec4<f32> {
    return signed4(held_codes(c, i)) * c.scale;
}

fn held_codes(c: Chunk, i: u32) -> u32 {
    return look_up_held(nibbles(c.quants, i));
}

fn signed4(bytes: u32) -> vec4<f32> {
    return numbers4(bytes ^ 0x80808080u, 128.0);
}
