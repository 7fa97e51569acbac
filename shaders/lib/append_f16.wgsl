// Slot APPEND, the caches as rope_append writes them: here f16, two values a word. Defines the bindings key_cache and
// value_cache, and append, which every lane of the workgroup calls: a lane brings quad `quad` of row `row` (kv_head ·
// context_length + position) of the cache KEYS or VALUES, or nothing for NOWHERE. Twin: src/ops/kv.rs.
#import packed_f16

@bind var<storage, read_write> key_cache: array<vec2<u32>>;    // (kv_heads, context_length, head_dim / 4)
@bind var<storage, read_write> value_cache: array<vec2<u32>>;  // (kv_heads, context_length, head_dim / 4)

fn append(cache: u32, row: u32, quad: u32, values: vec4<f32>, lid: u32) {
    if cache == KEYS {
        key_cache[row * (HEAD_DIM / 4u) + quad] = packed(values);
    } else if cache == VALUES {
        value_cache[row * (HEAD_DIM / 4u) + quad] = packed(values);
    }
}
