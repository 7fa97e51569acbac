// Slot QUANTIZED where nobody wants rounded values: the interface of lib/quantized_row without anything behind it.
fn store_quantized(row: u32, quad: u32, value: vec4<f32>, lid: u32) {}
