//! Families with a fused q, k, v weight and a plain MLP: GPT-NeoX, GPT-2, GPT-BigCode, MPT.

use serde_json::{Map, Value, json};

use super::{Architecture, PLAIN, Translation, all_heads_alike};
use crate::checkpoint::CheckpointError;

pub(super) const GPT_NEOX: Architecture = Architecture {
    name: "gptneox",
    mark: None,
    model_type: "gpt_neox",
    rows: PLAIN,
    activation: Some(("hidden_act", "gelu")),
    tensors: &[
        ("token_embd", "gpt_neox.embed_in"),
        ("output_norm", "gpt_neox.final_layer_norm"),
        ("output", "embed_out"),
    ],
    layers: "gpt_neox.layers",
    layer_tensors: &[
        ("attn_norm", "input_layernorm"),
        ("attn_qkv", "attention.query_key_value"),
        ("attn_output", "attention.dense"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_up", "mlp.dense_h_to_4h"),
        ("ffn_down", "mlp.dense_4h_to_h"),
    ],
    keys: &[("rope.freq_base", "rotary_emb_base"), ("use_parallel_residual", "use_parallel_residual")],
    rotary_part: ("rotary_pct", true),
    flags: &[],
    fixed: &[],
    derive: all_heads_alike,
};

pub(super) const GPT2: Architecture = Architecture {
    name: "gpt2",
    model_type: "gpt2",
    activation: Some(("activation_function", "gelu_new")),
    tensors: &[
        ("token_embd", "transformer.wte"),
        ("position_embd", "transformer.wpe"),
        ("output_norm", "transformer.ln_f"),
        ("output", "lm_head"),
    ],
    layers: "transformer.h",
    layer_tensors: &[
        ("attn_norm", "ln_1"),
        ("attn_qkv", "attn.c_attn"),
        ("attn_output", "attn.c_proj"),
        ("ffn_norm", "ln_2"),
        ("ffn_up", "mlp.c_fc"),
        ("ffn_down", "mlp.c_proj"),
    ],
    keys: &[
        ("embedding_length", "n_embd"),
        ("block_count", "n_layer"),
        ("attention.head_count", "n_head"),
        ("context_length", "n_positions"),
        ("feed_forward_length", "n_inner"),
        ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
    ],
    ..GPT_NEOX
};

pub(super) const STARCODER: Architecture = Architecture {
    name: "starcoder",
    model_type: "gpt_bigcode",
    activation: Some(("activation_function", "gelu")),
    derive: starcoder,
    ..GPT2
};

fn starcoder(file: &Translation<'_>, root: &mut Map<String, Value>) -> Result<(), CheckpointError> {
    let multi_query = file.u32("attention.head_count_kv")? == Some(1);
    if multi_query {
        root.remove("num_key_value_heads");
    }
    root.insert("multi_query".into(), multi_query.into());
    all_heads_alike(file, root)
}

pub(super) const MPT: Architecture = Architecture {
    name: "mpt",
    model_type: "mpt",
    activation: None,
    tensors: &[
        ("token_embd", "transformer.wte"),
        ("position_embd", "transformer.wpe"),
        ("output_norm", "transformer.norm_f"),
        ("output", "lm_head"),
    ],
    layers: "transformer.blocks",
    layer_tensors: &[
        ("attn_norm", "norm_1"),
        ("attn_qkv", "attn.Wqkv"),
        ("attn_q_norm", "attn.q_ln"),
        ("attn_k_norm", "attn.k_ln"),
        ("attn_output", "attn.out_proj"),
        ("ffn_norm", "norm_2"),
        ("ffn_up", "ffn.up_proj"),
        ("ffn_down", "ffn.down_proj"),
    ],
    keys: &[
        ("embedding_length", "d_model"),
        ("block_count", "n_layers"),
        ("attention.head_count", "n_heads"),
        ("context_length", "max_seq_len"),
        ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
    ],
    derive: mpt,
    ..GPT_NEOX
};

/// MPT's config has a section for attention.
fn mpt(file: &Translation<'_>, root: &mut Map<String, Value>) -> Result<(), CheckpointError> {
    all_heads_alike(file, root)?;
    let bias = file.f32("attention.max_alibi_bias")?.filter(|bias| *bias > 0.0);
    let mut attention = Map::new();
    attention.insert("alibi".into(), bias.is_some().into());
    attention.extend(bias.map(|bias| ("alibi_bias_max".into(), bias.into())));
    attention.extend(
        file.f32("attention.clamp_kqv")?.filter(|clip| *clip > 0.0).map(|clip| ("clip_qkv".into(), clip.into())),
    );
    attention.extend(root.remove("num_key_value_heads").map(|heads| ("kv_n_heads".into(), heads)));
    attention.insert("qk_ln".into(), file.has("blk.0.attn_q_norm.weight").into());
    root.insert("attn_config".into(), attention.into());
    root.insert("no_bias".into(), (!file.has("blk.0.attn_qkv.bias")).into());
    for handled in ["attention.max_alibi_bias", "attention.clamp_kqv"] {
        root.remove(&file.key(handled));
    }
    let width = file.u32("embedding_length")?.filter(|width| *width > 0);
    if let (Some(inner), Some(width)) = (file.u32("feed_forward_length")?, width) {
        root.remove("intermediate_size");
        let ratio = if inner % width == 0 { json!(inner / width) } else { json!(f64::from(inner) / f64::from(width)) };
        root.insert("expansion_ratio".into(), ratio);
    }
    Ok(())
}
