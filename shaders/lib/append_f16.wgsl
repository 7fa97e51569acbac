// Slot APPEND, the caches as rope_append writes them: here f16, two values a word. Defines the bindings key_cache and
// value_cache, and append, which every lane of the workgroup calls: a lane brings quad `quad` of row `row` (kv_head ·
// context_length + position) of the cache KEYS or VALUES, or nothing for NOWHERE. Twin: src/ops/kv.rs.
@bind var<storage, read_write> key_cache: array<vec2<u32>>;    // (kv_heads, context_length, head_dim / 4)
@bind var<storage, read_write> value_cache: array<vec2<u32>>;  // (kv_heads, context_length, head_dim / 4)

fn append(cache: u32, row: u32, quad: u32, values: vec4<f32>, lid: u32) {
    // Beyond f16's range pack2x16float is undefined: an outlier must not become an infinity.
    let bounded = clamp(values, vec4(-65504.0), vec4(65504.0));
    let packed = vec2(pack2x16float(bounded.xy), pack2x16float(bounded.zw));
    if cache == KEYS {
        key_cache[row * (HEAD_DIM / 4u) + quad] = packed;
    } else if cache == VALUES {
        value_cache[row * (HEAD_DIM / 4u) + quad] = packed;
    }
}
