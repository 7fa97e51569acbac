// Slot KV: the cache holds f16, two values a word. Defines `kv4`, four neighbouring values of a head as stored,
// and `kv_pack`, `kv_unpack` between it and vec4<f32>; caches are bound as array<kv4>.
alias kv4 = vec2<u32>;

fn kv_pack(values: vec4<f32>) -> kv4 {
    // Beyond f16's range pack2x16float is undefined: an outlier must not become an infinity.
    let bounded = clamp(values, vec4(-65504.0), vec4(65504.0));
    return vec2(pack2x16float(bounded.xy), pack2x16float(bounded.zw));
}

fn kv_unpack(values: kv4) -> vec4<f32> {
    return vec4(unpack2x16float(values.x), unpack2x16float(values.y));
}
