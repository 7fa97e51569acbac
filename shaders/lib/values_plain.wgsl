// Slot VALUES_OF: weights of a chunk as `chunk4` gives them.
fn prepare_values(lid: u32) {}

fn values4(c: Chunk, i: u32) -> vec4<f32> {
    return chunk4(c, i);
}
