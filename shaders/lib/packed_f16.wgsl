// Quads as f16 caches hold them.
fn unpacked(values: vec2<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(values.x), unpack2x16float(values.y));
}

fn packed(values: vec4<f32>) -> vec2<u32> {
    // Beyond f16's range pack2x16float is undefined: an outlier must not become an infinity.
    let bounded = clamp(values, vec4(-65504.0), vec4(65504.0));
    return vec2(pack2x16float(bounded.xy), pack2x16float(bounded.zw));
}

// Quads on their way into the cache, as words: what is unpacked where it was packed may come back unrounded.
alias Held = vec2<u32>;

fn held(values: vec4<f32>) -> Held {
    return packed(values);
}

fn from_held(words: Held) -> vec4<f32> {
    return unpacked(words);
}
