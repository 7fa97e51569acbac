// Slot KV, the caches as attention reads them: here f16, two values a word. Defines the bindings key_cache and
// value_cache; key4 and value4, quad `quad` of row `row` (kv_head · context_length + position); key_run and value_run,
// the RUN_QUADS quads that one load brings. Depends on HEAD_DIM, KV_HEADS and CONTEXT_LENGTH. Twin: src/ops/kv.rs.
#import quads_f16

@bind var<storage, read> key_cache: array<vec2<u32>>;    // (kv_heads, context_length, head_dim / 4)
@bind var<storage, read> value_cache: array<vec2<u32>>;  // (kv_heads, context_length, head_dim / 4)

fn key4(row: u32, quad: u32) -> vec4<f32> {
    return key_run(row, quad)[0];
}

fn value4(row: u32, quad: u32) -> vec4<f32> {
    return value_run(row, quad)[0];
}
