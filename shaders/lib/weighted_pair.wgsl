// Slot WEIGHTED of layer_norm: two weights and biases, each with an output. Depends on `beside`, whether it is the second,
// and on the slot STORED.
@bind var<storage, read> vectors: array<vec4<f32>>;              // (2, weight and bias, hidden_size / 4)
@bind var<storage, read_write> output: array<Stored>;            // (tokens, hidden_size / 4)
@bind var<storage, read_write> output_beside: array<Stored>;     // (tokens, hidden_size / 4)

// A quad of a normed row, weighted.
fn weighted(normed: vec4<f32>, quad: u32) -> vec4<f32> {
    let at = select(0u, COLS / 2u, beside) + quad;
    return normed * vectors[at] + vectors[at + COLS / 4u];
}

fn put(at: u32, value: vec4<f32>) {
    if beside {
        output_beside[at] = stored(value);
    } else {
        output[at] = stored(value);
    }
}
