//! Every family, by the name its configs carry; and what no family may overlook in a config.

use super::{
    ModelError, ModelSpec, Source, experts, falcon, gemma, gpt_neox, gpt2, llama, mpt, olmo, phi, qwen, stablelm,
};

/// A model family.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// `model_type` of its configs.
    pub model_type: &'static str,
    /// Config to spec.
    pub describe: fn(&Source<'_>) -> Result<ModelSpec, ModelError>,
}

/// All families.
pub static FAMILIES: &[Family] = &[
    gpt_neox::FAMILY,
    llama::LLAMA,
    llama::MISTRAL,
    experts::MIXTRAL,
    falcon::FAMILY,
    falcon::REFINED_WEB_MODEL,
    falcon::REFINED_WEB,
    qwen::QWEN2,
    qwen::QWEN3,
    experts::QWEN2_MOE,
    experts::QWEN3_MOE,
    phi::PHI,
    phi::PHI_MSFT,
    phi::PHI3,
    gemma::GEMMA,
    gemma::GEMMA2,
    gemma::GEMMA3_TEXT,
    gemma::GEMMA3,
    stablelm::FAMILY,
    stablelm::EPOCH,
    olmo::OLMO,
    olmo::OLMO2,
    gpt2::GPT2,
    gpt2::BIGCODE,
    gpt2::GPTJ,
    mpt::FAMILY,
];

/// The most a size of a config may be: far above any model, low enough that products of two don't overflow and a
/// hostile config costs no memory.
const PLAUSIBLE: &[(&str, u32)] = &[
    ("hidden_size", 1 << 20),
    ("n_embd", 1 << 20),
    ("d_model", 1 << 20),
    ("intermediate_size", 1 << 22),
    ("moe_intermediate_size", 1 << 22),
    ("shared_expert_intermediate_size", 1 << 22),
    ("ffn_hidden_size", 1 << 22),
    ("n_inner", 1 << 22),
    ("expansion_ratio", 1 << 6),
    ("ff_factor", 1 << 6),
    ("vocab_size", 1 << 24),
    ("num_hidden_layers", 1 << 10),
    ("n_layer", 1 << 10),
    ("n_layers", 1 << 10),
    ("num_attention_heads", 1 << 10),
    ("n_head", 1 << 10),
    ("n_heads", 1 << 10),
    ("num_key_value_heads", 1 << 10),
    ("n_head_kv", 1 << 10),
    ("num_kv_heads", 1 << 10),
    ("head_dim", 1 << 10),
    ("num_experts", 1 << 12),
    ("num_local_experts", 1 << 12),
    ("max_position_embeddings", 1 << 27),
    ("n_positions", 1 << 27),
    ("max_seq_len", 1 << 27),
];

/// Keys that say how a model was trained, saved or sampled, not what it computes. A key that is neither here nor read
/// by its family is refused: it may change the maths.
const HARMLESS: &[&str] = &[
    // how it was made and saved
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_flash_attn_2_enabled",
    "_from_model_config",
    "_name_or_path",
    "architectures",
    "auto_map",
    "cache_implementation",
    "chunk_size_feed_forward",
    "custom_pipelines",
    "dtype",
    "finetuning_task",
    "gradient_checkpointing",
    "is_llama_config",
    "name",
    "pretraining_tp",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    // training
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "classifier_dropout",
    "embd_pdrop",
    "emb_pdrop",
    "embed_pdrop",
    "embedding_dropout",
    "ffn_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "initializer_factor",
    "initializer_range",
    "output_router_logits",
    "resid_pdrop",
    "resid_dropout",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "z_loss_coeff",
    // tokens
    "begin_suppress_tokens",
    "bos_token_id",
    "cls_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "image_token_index",
    "mask_token_id",
    "model_max_length",
    "pad_token_id",
    "sep_token_id",
    "suppress_tokens",
    "tokenizer_class",
    "tokenizer_name",
    "unk_token_id",
    // sampling
    "bad_words_ids",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "max_new_tokens",
    "min_length",
    "min_p",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "prefix",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    // what other tasks than generating text read
    "id2label",
    "label2id",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "problem_type",
    "pruned_heads",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "tie_encoder_decoder",
    "is_decoder",
];

/// Describes the model of a checkpoint's config.
///
/// # Errors
/// An unknown family, a missing key, a value that changes the maths and is not supported, or a key that nobody here
/// knows.
pub fn describe(source: &Source<'_>) -> Result<ModelSpec, ModelError> {
    let model_type = source.config.architecture()?;
    let family = FAMILIES.iter().find(|family| family.model_type == model_type);
    let unknown = || ModelError::UnknownFamily {
        model_type: model_type.to_owned(),
        supported: FAMILIES.iter().map(|family| family.model_type.to_owned()).collect(),
    };
    let family = family.ok_or_else(unknown)?;
    check_sizes(source, family)?;
    let spec = (family.describe)(source)?;
    source.config.ignore(HARMLESS);
    if let Some(text) = source.config.section("text_config")? {
        text.ignore(HARMLESS);
        text.ignore(&["model_type"]);
    }
    let unread = source.config.unread();
    if unread.is_empty() { Ok(spec) } else { Err(ModelError::UnknownKeys { family: family.model_type, keys: unread }) }
}

fn check_sizes(source: &Source<'_>, family: &Family) -> Result<(), ModelError> {
    // Looking at a size is not reading it: a family that does not know the key must not seem to.
    let whole = source.config.unobserved();
    let text = whole.section("text_config")?;
    for config in std::iter::once(&whole).chain(&text) {
        for (key, most) in PLAUSIBLE.iter().filter(|(key, _)| config.has(key)) {
            let size = config.u32(key)?;
            if !(1..=*most).contains(&size) {
                let reason = format!("\"{key}\" is {size}, expected 1 to {most}");
                return Err(ModelError::Inconsistent { family: family.model_type, reason });
            }
        }
    }
    Ok(())
}
