// Rows of f16 caches by runs of eight values, 16 bytes: heads of a multiple of eight values. Depends on the bindings
// key_cache and value_cache, (kv_heads, context_length, head_dim / 8) of vec4<u32>.
#import packed_f16

const RUN_QUADS: u32 = 2u;

fn key_run(row: u32, run: u32) -> array<vec4<f32>, RUN_QUADS> {
    let held = key_cache[row * (HEAD_DIM / 8u) + run];
    return array(unpacked(held.xy), unpacked(held.zw));
}

fn value_run(row: u32, run: u32) -> array<vec4<f32>, RUN_QUADS> {
    let held = value_cache[row * (HEAD_DIM / 8u) + run];
    return array(unpacked(held.xy), unpacked(held.zw));
}
