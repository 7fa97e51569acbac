// Slot CODES_OF: signed bytes of a chunk through a table in workgroup memory (lib/byte_table). `prepare_codes` is called by
// the whole workgroup together, before the first `codes4`.
fn prepare_codes(lid: u32) {
    hold_values(lid);
    workgroupBarrier();
}

fn codes4(c: Chunk, i: u32) -> u32 {
    return held_codes(c, i);
}
