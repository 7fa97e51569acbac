// Slot WEIGHTED of layer_norm: one weight and bias, one output. Depends on the slot STORED.
@bind var<storage, read> weight: array<vec4<f32>>;        // (hidden_size / 4)
@bind var<storage, read> bias: array<vec4<f32>>;          // (hidden_size / 4)
@bind var<storage, read_write> output: array<Stored>;     // (tokens or logit_rows, hidden_size / 4)

// A quad of a normed row, weighted.
fn weighted(normed: vec4<f32>, quad: u32) -> vec4<f32> {
    return normed * weight[quad] + bias[quad];
}

fn put(at: u32, value: vec4<f32>) {
    output[at] = stored(value);
}
