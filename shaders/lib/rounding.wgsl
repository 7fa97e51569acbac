// Sixteen values rounded to 8 bits: the largest magnitude becomes 127. Twin: src/ops/quantize_row.rs.

// What a code is worth, and codes to one.
fn scale_of(most: f32) -> vec2<f32> {
    return vec2(most / 127.0, select(0.0, 127.0 / most, most > 0.0));
}

fn codes_of(values: vec4<f32>, inverse: f32) -> vec4<i32> {
    return vec4<i32>(round(values * inverse));
}
