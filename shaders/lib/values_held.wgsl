// Slot VALUES_OF: weights of a chunk through a table of floats in workgroup memory (lib/float_table). `prepare_values` is
// called by the whole workgroup; a barrier follows before the first `values4`.
fn prepare_values(lid: u32) {
    hold_values(lid);
}

fn values4(c: Chunk, i: u32) -> vec4<f32> {
    return held4(c, i);
}
