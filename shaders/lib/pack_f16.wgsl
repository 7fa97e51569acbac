// Quads as f16.
fn packed(values: vec4<f32>) -> vec2<u32> {
    // Beyond f16's range pack2x16float is undefined: an outlier must not become an infinity.
    let bounded = clamp(values, vec4(-65504.0), vec4(65504.0));
    return vec2(pack2x16float(bounded.xy), pack2x16float(bounded.zw));
}
