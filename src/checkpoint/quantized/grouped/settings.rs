//! What a GPTQ or AWQ checkpoint's `quantization_config` says, and how its codes share words.

use crate::checkpoint::quantized::unsupported;
use crate::checkpoint::{CheckpointError, Config};

/// What `quantization_config` says.
#[derive(Debug, Clone, Copy)]
pub(in crate::checkpoint::quantized) struct Settings {
    pub(super) order: Order,
    pub(super) bits: usize,
    /// Inputs of a group; None: all of them.
    pub(super) group_size: Option<usize>,
    /// Added to words of stored zero points.
    pub(super) zero_offset: u32,
}

/// How codes share words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Neighbouring inputs (of zero points: outputs), from the lowest bits up.
    Gptq,
    /// Eight outputs, in [`AWQ_PLACES`].
    Awq,
}

/// The nibble of a word that holds each of eight outputs.
const AWQ_PLACES: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Keys that say how the codes were found, or which kernels are to use them.
const HARMLESS: &[&str] = &[
    "act_group_aware",
    "backend",
    "batch_size",
    "block_name_to_quantize",
    "cache_block_outputs",
    "damp_auto_increment",
    "damp_percent",
    "dataset",
    "desc_act",
    "disable_exllama",
    "do_fuse",
    "exllama_config",
    "fuse_max_seq_len",
    "is_marlin_format",
    "lm_head",
    "max_input_length",
    "meta",
    "model_file_base_name",
    "model_name_or_path",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "modules_to_fuse",
    "modules_to_not_convert",
    "mse",
    "pad_token_id",
    "quantizer",
    "static_groups",
    "sym",
    "tokenizer",
    "true_sequential",
    "use_cuda_fp16",
    "use_exllama",
];

/// Group sizes the formats of `quant/` hold.
const GROUP_SIZES: &str = "multiples of 32, and -1 for one group";

impl Settings {
    pub(in crate::checkpoint::quantized) fn gptq(section: &Config) -> Result<Self, CheckpointError> {
        section.ignore(HARMLESS);
        let format = section.opt_any_str(&["checkpoint_format", "format"])?.unwrap_or("gptq");
        let first_layout = match format {
            "gptq" => true,
            "gptq_v2" => false,
            other => return Err(unsupported(section, "checkpoint_format", other, "gptq, gptq_v2")),
        };
        if section.bool_or("is_marlin_format", false)? {
            return Err(unsupported(section, "is_marlin_format", true, "false"));
        }
        if section.has("dynamic") {
            return Err(unsupported(section, "dynamic", "set", "one setting for all modules"));
        }
        match section.str_or("pack_dtype", "int32")? {
            "int32" => {}
            other => return Err(unsupported(section, "pack_dtype", other, "int32")),
        }
        let bits = match section.u32("bits")? {
            bits @ (4 | 8) => bits as usize,
            other => return Err(unsupported(section, "bits", other, "4, 8")),
        };
        let zero_offset = if first_layout { in_every_code(1, bits) } else { 0 };
        Ok(Self { order: Order::Gptq, bits, group_size: group_size(section)?, zero_offset })
    }

    pub(in crate::checkpoint::quantized) fn awq(section: &Config) -> Result<Self, CheckpointError> {
        section.ignore(HARMLESS);
        let version = section.opt_any_str(&["version", "format"])?.unwrap_or("gemm").to_lowercase();
        if version != "gemm" {
            return Err(unsupported(section, "version", version, "gemm"));
        }
        if !section.bool_or("zero_point", true)? {
            return Err(unsupported(section, "zero_point", false, "true"));
        }
        match section.any_u32(&["bits", "w_bit"])? {
            4 => {}
            other => return Err(unsupported(section, "bits", other, "4")),
        }
        Ok(Self { order: Order::Awq, bits: 4, group_size: group_size(section)?, zero_offset: 0 })
    }

    /// Codes of a word.
    pub(super) const fn per_word(&self) -> usize {
        32 / self.bits
    }

    /// A word of zero points as they are meant.
    pub(super) const fn zeros(&self, stored: [u8; 4]) -> u32 {
        u32::from_le_bytes(stored).wrapping_add(self.zero_offset)
    }

    /// Where in its word the code of neighbour `at` begins.
    pub(super) const fn shift(&self, at: usize) -> u32 {
        match self.order {
            Order::Gptq => (at % self.per_word() * self.bits) as u32,
            Order::Awq => AWQ_PLACES[at % 8] * 4,
        }
    }
}

/// A word of equal codes.
pub(super) const fn in_every_code(value: u32, bits: usize) -> u32 {
    // One in every code: all bits by those of one code.
    u32::MAX / ((1 << bits) - 1) * value
}

fn group_size(section: &Config) -> Result<Option<usize>, CheckpointError> {
    // -1 is no u32, but a number.
    let key = if section.has("q_group_size") && !section.has("group_size") { "q_group_size" } else { "group_size" };
    match section.f32(key)? {
        -1.0 => Ok(None),
        _ => match section.u32(key)? as usize {
            size if size > 0 && size.is_multiple_of(32) => Ok(Some(size)),
            other => Err(unsupported(section, key, other, GROUP_SIZES)),
        },
    }
}
