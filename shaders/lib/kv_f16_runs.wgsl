// Slot KV: the caches hold f16, heads are a multiple of eight values, and a load brings as many. The interface is
// lib/kv_f16's.
#import runs_f16

@bind var<storage, read> key_cache: array<vec4<u32>>;    // (kv_heads, context_length, head_dim / 8)
@bind var<storage, read> value_cache: array<vec4<u32>>;  // (kv_heads, context_length, head_dim / 8)

fn key4(row: u32, quad: u32) -> vec4<f32> {
    let held = key_cache[row * (HEAD_DIM / 8u) + quad / 2u];
    return unpacked(select(held.xy, held.zw, quad % 2u == 1u));
}

fn value4(row: u32, quad: u32) -> vec4<f32> {
    let held = value_cache[row * (HEAD_DIM / 8u) + quad / 2u];
    return unpacked(select(held.xy, held.zw, quad % 2u == 1u));
}
