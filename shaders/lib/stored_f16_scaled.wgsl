// Slot STORED: quads as f16 for gemm_matrix, divided by F16_SCALE since they may go beyond it.
#import pack_f16
#import f16_scale

alias Stored = vec2<u32>;

fn stored(value: vec4<f32>) -> Stored {
    return packed(value * (1.0 / F16_SCALE));
}
