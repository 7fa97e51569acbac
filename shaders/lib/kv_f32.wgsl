// Slot KV: the caches hold f32. The interface is lib/kv_f16's.
#import quads_f32

@bind var<storage, read> key_cache: array<vec4<f32>>;    // (kv_heads, context_length, head_dim / 4)
@bind var<storage, read> value_cache: array<vec4<f32>>;  // (kv_heads, context_length, head_dim / 4)

fn key4(row: u32, quad: u32) -> vec4<f32> {
    return key_cache[row * (HEAD_DIM / 4u) + quad];
}

fn value4(row: u32, quad: u32) -> vec4<f32> {
    return value_cache[row * (HEAD_DIM / 4u) + quad];
}
