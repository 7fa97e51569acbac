// Slot STORED: quads as f16, for gemm_matrix.
alias Stored = vec2<u32>;

fn stored(value: vec4<f32>) -> Stored {
    return vec2(pack2x16float(value.xy), pack2x16float(value.zw));
}
