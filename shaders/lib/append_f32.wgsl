// Slot APPEND: the caches hold f32. The interface is lib/append_f16's.
@bind var<storage, read_write> key_cache: array<vec4<f32>>;    // (kv_heads, context_length, head_dim / 4)
@bind var<storage, read_write> value_cache: array<vec4<f32>>;  // (kv_heads, context_length, head_dim / 4)

fn append(cache: u32, row: u32, quad: u32, values: vec4<f32>, lid: u32) {
    if cache == KEYS {
        key_cache[row * (HEAD_DIM / 4u) + quad] = values;
    } else if cache == VALUES {
        value_cache[row * (HEAD_DIM / 4u) + quad] = values;
    }
}
