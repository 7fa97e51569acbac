// Slot CODES_OF: signed bytes of a chunk as `chunk_codes` gives them.
fn prepare_codes(lid: u32) {}

fn codes4(c: Chunk, i: u32) -> u32 {
    return chunk_codes(c, i);
}
