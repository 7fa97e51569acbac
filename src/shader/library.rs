//! Every WGSL file by name, compiled into the program.
//!
//! `tests/shaders.rs` compares this list with the directory, so a forgotten file fails there.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../shaders/", $name, ".wgsl")))),*]
    };
}

/// Kernels: files of `shaders/`, each with one entry point `main`.
pub static KERNELS: &[(&str, &str)] = files![
    "add_positions",
    "attention_combine",
    "attention_decode",
    "attention_matrix",
    "attention_prefill",
    "choose",
    "choose_slices",
    "combine_experts",
    "embed",
    "gated_activation",
    "gemm",
    "gemm_experts",
    "gemm_matrix",
    "gemv",
    "gemv_experts",
    "gemv_integer",
    "gemv_staged",
    "layer_norm",
    "qk_norm",
    "quantize_row",
    "rms_norm",
    "rope_append",
    "route",
    "softcap",
    "turn",
];

/// Snippets: files of `shaders/lib/` and `shaders/quant/`, imported by kernels.
pub static SNIPPETS: &[(&str, &str)] = files![
    "lib/activation",
    "lib/alibi",
    "lib/append_f16",
    "lib/append_f32",
    "lib/append_q4_0",
    "lib/append_q8_0",
    "lib/byte_table",
    "lib/cache_blocks",
    "lib/cache_rows",
    "lib/candidates",
    "lib/choice",
    "lib/codes",
    "lib/double_quantized",
    "lib/f8_e4m3",
    "lib/float_table",
    "lib/fp4_values",
    "lib/epilogue",
    "lib/group_scales",
    "lib/iq4_values",
    "lib/kv_f16",
    "lib/kv_f32",
    "lib/kv_q4_0",
    "lib/kv_q8_0",
    "lib/nf4_values",
    "lib/matrix_128",
    "lib/matrix_64",
    "lib/quantized_none",
    "lib/quantized_row",
    "lib/reduce_subgroup",
    "lib/reduce_workgroup",
    "lib/rows_1x1",
    "lib/rows_2x1",
    "lib/rows_4x1",
    "lib/rows_4x4",
    "lib/scan",
    "lib/step",
    "lib/tanh",
    "lib/tile_2x4",
    "lib/tile_4x4",
    "lib/tile_8x8",
    "lib/turn",
    "lib/zero_point",
    "quant/bf16",
    "quant/f16",
    "quant/f32",
    "quant/f8_e4m3_g128",
    "quant/f8_e4m3_g32",
    "quant/fp4",
    "quant/fp4_dq",
    "quant/iq4_nl",
    "quant/iq4_xs",
    "quant/mxfp4",
    "quant/nf4",
    "quant/nf4_dq",
    "quant/q2_k",
    "quant/q3_k",
    "quant/q4_0",
    "quant/q4_1",
    "quant/q4_k",
    "quant/q5_0",
    "quant/q5_1",
    "quant/q5_k",
    "quant/q6_k",
    "quant/q8_0",
    "quant/u4_g128",
    "quant/u4_g32",
    "quant/u8_g32",
];

/// A file's text by its name without `.wgsl`.
pub fn text(name: &str) -> Option<&'static str> {
    KERNELS.iter().chain(SNIPPETS).find(|(file, _)| *file == name).map(|(_, text)| *text)
}
