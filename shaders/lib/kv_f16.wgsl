// Slot KV, the caches as attention reads them: here f16, two values a word. Defines the bindings key_cache and
// value_cache; key4 and value4, quad `quad` of row `row` (kv_head · context_length + position); key_run, the
// KEY_QUADS quads of a key that one load brings. Depends on HEAD_DIM, KV_HEADS and CONTEXT_LENGTH. Twin: src/ops/kv.rs.
@bind var<storage, read> key_cache: array<vec2<u32>>;    // (kv_heads, context_length, head_dim / 4)
@bind var<storage, read> value_cache: array<vec2<u32>>;  // (kv_heads, context_length, head_dim / 4)

const KEY_QUADS: u32 = 1u;

fn unpacked(values: vec2<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(values.x), unpack2x16float(values.y));
}

fn key4(row: u32, quad: u32) -> vec4<f32> {
    return unpacked(key_cache[row * (HEAD_DIM / 4u) + quad]);
}

fn value4(row: u32, quad: u32) -> vec4<f32> {
    return unpacked(value_cache[row * (HEAD_DIM / 4u) + quad]);
}

fn key_run(row: u32, run: u32) -> array<vec4<f32>, KEY_QUADS> {
    return array(key4(row, run));
}
