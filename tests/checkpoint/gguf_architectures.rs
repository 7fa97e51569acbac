//! What a GGUF leaves to its architecture, and what published files say in more than one way.

use wgpt::checkpoint::{Checkpoint, Config};

use crate::files::{BOOL, Gguf};

/// The config of a file of this architecture; keys without its prefix.
struct File {
    architecture: &'static str,
    gguf: Gguf,
}

impl File {
    fn new(architecture: &'static str) -> Self {
        let gguf = Gguf::new().str("general.architecture", architecture);
        Self { architecture, gguf }.u32("embedding_length", 64).u32("attention.head_count", 2)
    }

    fn u32(mut self, key: &str, value: u32) -> Self {
        self.gguf = self.gguf.u32(&format!("{}.{key}", self.architecture), value);
        self
    }

    fn f32(mut self, key: &str, value: f32) -> Self {
        self.gguf = self.gguf.f32(&format!("{}.{key}", self.architecture), value);
        self
    }

    fn flags(mut self, key: &str, values: &[u8]) -> Self {
        self.gguf = self.gguf.array(&format!("{}.{key}", self.architecture), BOOL, values.len() as u64, values);
        self
    }

    fn flag(mut self, key: &str, value: bool) -> Self {
        self.gguf = self.gguf.pair(&format!("{}.{key}", self.architecture), BOOL, &[value.into()]);
        self
    }

    /// A tensor of zeros in f32, dimensions innermost first.
    fn tensor(mut self, name: &str, dims: &[u64]) -> Self {
        self.gguf = self.gguf.tensor(name, dims, 0, &vec![0; 4 * dims.iter().product::<u64>() as usize]);
        self
    }

    fn open(self) -> Checkpoint {
        let (_directory, path) = self.gguf.write();
        Checkpoint::open(&path).expect("a valid file")
    }

    fn config(self) -> Config {
        self.open().config().expect("a known architecture").clone()
    }
}

/// Keys that kept their GGUF names.
fn kept(config: &Config, architecture: &str) -> Vec<String> {
    config.unread().into_iter().filter(|key| key.starts_with(architecture)).collect()
}

#[test]
fn the_largest_gemmas_scale_scores_by_another_number() {
    for (architecture, largest) in [("gemma2", 46), ("gemma3", 62)] {
        for (layers, expected) in [(26, 12), (largest, 32)] {
            let config = File::new(architecture).u32("block_count", layers).u32("attention.key_length", 12).config();
            let found = config.u32("query_pre_attn_scalar").expect("an integer");
            assert_eq!(found, expected, "{architecture} of {layers} layers");
        }
    }
}

#[test]
fn the_first_gemma2_files_leave_caps_and_window_out() {
    let config = File::new("gemma2").config();
    let caps = ["attn_logit_softcapping", "final_logit_softcapping"].map(|key| config.f32(key).expect("a number"));
    assert_eq!(
        (caps, config.u32("sliding_window").expect("an integer")),
        ([50.0, 30.0], 4096),
        "as llama.cpp has them"
    );
    let config = File::new("gemma2").f32("final_logit_softcapping", 8.0).u32("attention.sliding_window", 16).config();
    assert_eq!(config.f32("final_logit_softcapping").expect("a number"), 8.0, "what the file says goes first");
    assert_eq!(config.u32("sliding_window").expect("an integer"), 16, "what the file says goes first");
}

#[test]
fn gemma3_says_its_windows_in_three_ways() {
    let windowed = || File::new("gemma3").u32("attention.sliding_window", 16);
    let pattern = |config: &Config| config.u32("sliding_window_pattern").expect("an integer");
    let config = windowed().config();
    assert_eq!(pattern(&config), 6, "as in every published model");
    assert_eq!(config.f32("rope_local_base_freq").expect("a number"), 10000.0, "as in every published model");
    assert_eq!(pattern(&windowed().u32("attention.sliding_window_pattern", 4).config()), 4, "said as a number");
    assert_eq!(pattern(&File::new("gemma3").config()), 1, "no window, no layer with one");
    let config = windowed().flags("attention.sliding_window_pattern", &[1, 0]).config();
    let kinds = config.strs("layer_types").expect("strings");
    assert_eq!(kinds, Some(vec!["sliding_attention", "full_attention"]), "said layer by layer");
}

#[test]
fn expert_sizes_are_those_of_the_tensors_if_nobody_says_them() {
    let file = || {
        let experts = File::new("qwen2moe").tensor("blk.0.ffn_up_exps.weight", &[64, 20, 3]);
        experts.tensor("blk.0.ffn_up_shexp.weight", &[64, 44])
    };
    let sizes = |config: &Config| {
        ["moe_intermediate_size", "shared_expert_intermediate_size"].map(|key| config.u32(key).expect("an integer"))
    };
    assert_eq!(sizes(&file().config()), [20, 44], "of the tensors");
    let said = file().u32("expert_feed_forward_length", 21).u32("expert_shared_feed_forward_length", 45);
    assert_eq!(sizes(&said.config()), [21, 45], "what the file says goes first, right or wrong");
}

#[test]
fn falcon_s_norms_and_heads_tell_its_shapes_apart() {
    let old = File::new("falcon").u32("attention.head_count_kv", 1).tensor("blk.0.attn_norm.weight", &[64]).open();
    assert!(old.has_tensor("transformer.h.0.input_layernorm.weight"), "7B: one norm");
    let config = old.config().expect("a known architecture");
    assert!(!config.bool("new_decoder_architecture").expect("a flag"), "7B");
    assert!(config.bool("multi_query").expect("a flag") && config.bool("parallel_attn").expect("a flag"), "7B");
    let config = File::new("falcon").u32("attention.head_count_kv", 2).config();
    assert!(config.bool("new_decoder_architecture").expect("a flag"), "11B: the newer heads");
    assert_eq!(config.u32("num_ln_in_parallel_attn").expect("an integer"), 1, "11B: with one norm");
    let both = File::new("falcon").tensor("blk.0.attn_norm.weight", &[64]).tensor("blk.0.attn_norm_2.weight", &[64]);
    let both = both.u32("attention.head_count_kv", 2).open();
    assert!(both.has_tensor("transformer.h.0.ln_mlp.weight"), "40B: the first norm is the MLP's");
    assert!(both.has_tensor("transformer.h.0.ln_attn.weight"), "40B: the second is the attention's");
    let config = both.config().expect("a known architecture");
    assert!(config.bool("new_decoder_architecture").expect("a flag"), "40B");
    assert!(!config.has("num_ln_in_parallel_attn"), "40B: two, as the family has it without a word");
}

#[test]
fn stablelm_s_second_norm_decides_where_the_converter_guessed() {
    let file = || File::new("stablelm").flag("use_parallel_residual", true).tensor("token_embd.weight", &[64, 3]);
    let parallel = |file: File| file.config().bool("use_parallel_residual").expect("a flag");
    assert!(parallel(file()), "no second norm");
    assert!(!parallel(file().tensor("blk.0.ffn_norm.weight", &[64])), "there is one");
}

#[test]
fn longrope_is_known_by_its_tensors() {
    let file = || File::new("phi3").u32("rope.scaling.original_context_length", 40);
    let long = file().f32("rope.scaling.attn_factor", 1.2).tensor("rope_factors_long.weight", &[8]);
    let config = long.config();
    let scaling = config.section("rope_scaling").expect("an object").expect("it is there");
    assert_eq!(scaling.str("rope_type").expect("a string"), "longrope", "by the tensor");
    assert_eq!(scaling.f32("attention_factor").expect("a number"), 1.2, "moved");
    assert_eq!(config.u32("original_max_position_embeddings").expect("an integer"), 40, "as Phi-3's config has it");
    assert!(!file().config().has("rope_scaling"), "no tensors, no scaling");
    let config = file().f32("rope.scaling.attn_factor", 1.2).config();
    assert_eq!(kept(&config, "phi3."), ["phi3.rope.scaling.attn_factor"], "without them nobody understands the factor");
}

#[test]
fn mpt_s_attention_has_a_section() {
    let file = File::new("mpt").u32("feed_forward_length", 256).f32("attention.max_alibi_bias", 8.0);
    let config = file.f32("attention.clamp_kqv", 1.5).u32("attention.head_count_kv", 1).config();
    let attention = config.section("attn_config").expect("an object").expect("it is there");
    assert!(attention.bool("alibi").expect("a flag"), "there is a bias");
    assert_eq!(attention.f32("alibi_bias_max").expect("a number"), 8.0, "the bias");
    assert_eq!(attention.f32("clip_qkv").expect("a number"), 1.5, "the clamp");
    assert_eq!(attention.u32("kv_n_heads").expect("an integer"), 1, "fewer heads");
    assert_eq!(config.u32("expansion_ratio").expect("an integer"), 4, "256 of 64");
    let kept_keys = kept(&config, "mpt.");
    assert!(kept_keys.is_empty(), "found {kept_keys:?}");
    let config = File::new("mpt").u32("attention.head_count_kv", 2).f32("attention.max_alibi_bias", 0.0).config();
    let attention = config.section("attn_config").expect("an object").expect("it is there");
    assert!(!attention.bool("alibi").expect("a flag"), "a bias of zero is none");
    assert!(!attention.has("kv_n_heads") && !config.has("num_key_value_heads"), "as many as heads");
}

#[test]
fn values_that_say_nothing_are_left_out_and_others_kept() {
    let moot = File::new("llama").u32("expert_count", 0).flag("attention.causal", true);
    let config = moot.u32("attention.sliding_window", 0).f32("attention.clamp_kqv", 0.0).config();
    let kept_keys = kept(&config, "llama.");
    assert!(kept_keys.is_empty() && !config.has("sliding_window"), "found {kept_keys:?}");
    let config = File::new("llama").u32("expert_count", 2).flag("attention.causal", false).config();
    assert_eq!(
        kept(&config, "llama."),
        ["llama.attention.causal", "llama.expert_count"],
        "they would change the maths"
    );
}
