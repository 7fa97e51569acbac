// Scale, and scale times zero point, of a block of u4 or u8 weights: f16 scale, 16-bit zero point.
fn scale_min(packed: u32) -> vec2<f32> {
    let scale = unpack2x16float(packed).x;
    return vec2<f32>(scale, f32(packed >> 16u) * scale);
}
