// Rows of f32 caches by quads, 16 bytes. Depends on the bindings key_cache and value_cache, (kv_heads, context_length,
// head_dim / 4) of vec4<f32>.
const RUN_QUADS: u32 = 1u;

fn key_run(row: u32, run: u32) -> array<vec4<f32>, RUN_QUADS> {
    return array(key_cache[row * (HEAD_DIM / 4u) + run]);
}

fn value_run(row: u32, run: u32) -> array<vec4<f32>, RUN_QUADS> {
    return array(value_cache[row * (HEAD_DIM / 4u) + run]);
}
