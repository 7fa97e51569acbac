// Slot STORED, how a kernel stores quads of its output: as they are.
alias Stored = vec4<f32>;

fn stored(value: vec4<f32>) -> Stored {
    return value;
}
