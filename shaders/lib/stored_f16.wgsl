// Slot STORED: quads as f16, for gemm_matrix.
#import pack_f16

alias Stored = vec2<u32>;

fn stored(value: vec4<f32>) -> Stored {
    return packed(value);
}
