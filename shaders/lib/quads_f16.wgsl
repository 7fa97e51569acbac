// Rows of f16 caches by quads, 8 bytes: heads of any multiple of four values. Depends on the bindings key_cache and
// value_cache, (kv_heads, context_length, head_dim / 4) of vec2<u32>.
#import packed_f16

const RUN_QUADS: u32 = 1u;

fn key_run(row: u32, run: u32) -> array<vec4<f32>, RUN_QUADS> {
    return array(unpacked(key_cache[row * (HEAD_DIM / 4u) + run]));
}

fn value_run(row: u32, run: u32) -> array<vec4<f32>, RUN_QUADS> {
    return array(unpacked(value_cache[row * (HEAD_DIM / 4u) + run]));
}
