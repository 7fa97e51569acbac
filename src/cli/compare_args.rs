//! Flags of `wgpt compare`: two checkpoints, what is done to each, and the text that both predict.
//!
//! Part of `args`, and raw like it. Flags without a suffix are for the first checkpoint, those that end in `-b` for the
//! second; where they compute is said for both, unless `--adapter-b` names another place for the second.

use std::path::PathBuf;

use clap::Args;
use wgpt::ops::KvFormat;

use super::args::{CheckpointArgs, ModelArgs};
use super::cache_args::CacheArgs;
use super::kv_cache_args::{KvCacheArgs, format as kv_format};
use super::placement::PlacementArgs;
use super::quantize_args::{Format, Method, QuantizeArgs, format, method};

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// Checkpoint to compare with, the better one: as --checkpoint of the other commands
    #[arg(value_name = "A")]
    a: PathBuf,

    /// Checkpoint that is judged [default: A, for which a flag ending in -b should then say what is different]
    #[arg(value_name = "B")]
    b: Option<PathBuf>,

    /// Text file to predict; a line break at its very end is not part of the text
    #[arg(long, short = 'f', value_name = "FILE", visible_alias = "file")]
    pub(super) text: PathBuf,

    /// Tokens of a window
    #[arg(long, value_name = "N", env = "WGPT_CONTEXT", default_value_t = 512, visible_alias = "context-length", value_parser = clap::value_parser!(u32).range(4..))]
    pub(super) context: u32,

    /// Windows to compare over [default: all]
    #[arg(long, value_name = "N", env = "WGPT_CHUNKS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) chunks: Option<u64>,

    #[command(flatten)]
    placement: PlacementArgs,

    /// Adapter of B: an index, a part of a name, or `host` [default: as for A]
    #[arg(long, value_name = "INDEX|NAME|host", env = "WGPT_ADAPTER_B")]
    adapter_b: Option<String>,

    #[command(flatten)]
    kv: KvCacheArgs,

    /// Format of the keys and values in B's cache [default: as for A]
    #[arg(long, value_name = "FORMAT", env = "WGPT_KV_CACHE_B", value_parser = kv_format)]
    kv_cache_b: Option<KvFormat>,

    #[command(flatten)]
    quantize: QuantizeArgs,

    /// Quantize B's weights while they load, as --quantize does A's
    #[arg(long, value_name = "FORMAT", env = "WGPT_QUANTIZE_B", value_parser = method)]
    quantize_b: Option<Method>,

    /// Format of B's head
    #[arg(long, value_name = "FORMAT", env = "WGPT_QUANTIZE_HEAD_B", requires = "quantize_b", value_parser = format)]
    quantize_head_b: Option<Format>,

    /// Quantize B's weights that are quantized already too
    #[arg(long, env = "WGPT_REQUANTIZE_B", requires = "quantize_b", value_parser = clap::builder::FalseyValueParser::new())]
    requantize_b: bool,

    #[command(flatten)]
    cache: CacheArgs,

    /// Print a JSON object
    #[arg(long)]
    pub(super) json: bool,

    /// No timings, memory figures or progress on stderr; errors still are
    #[arg(long, short, env = "WGPT_QUIET", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) quiet: bool,
}

impl CompareArgs {
    /// A and B as the flags of a command with one model.
    pub(super) fn models(&self) -> [ModelArgs; 2] {
        let mut of_a = self.quantize.clone();
        let mut quantize = QuantizeArgs {
            quantize: self.quantize_b,
            quantize_head: self.quantize_head_b,
            requantize: self.requantize_b,
            ..QuantizeArgs::default()
        };
        // The flags of GPTQ are for whoever is rounded by it.
        if quantize.is_gptq() {
            let own = if of_a.is_gptq() { of_a.calibration.clone() } else { std::mem::take(&mut of_a.calibration) };
            quantize.calibration = own;
        }
        let placement = self.adapter_b.as_ref().map_or_else(|| self.placement.clone(), |one| self.placement.on(one));
        let model = |path: &PathBuf, placement, kv_cache, quantize| ModelArgs {
            checkpoint: CheckpointArgs { checkpoint: Some(path.clone()) },
            placement,
            kv: KvCacheArgs { kv_cache },
            quantize,
            cache: self.cache.clone(),
            quiet: self.quiet,
        };
        let b = self.b.as_ref().unwrap_or(&self.a);
        let kv = self.kv.kv_cache;
        let a = model(&self.a, self.placement.clone(), kv, of_a);
        [a, model(b, placement, self.kv_cache_b.or(kv), quantize)]
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        compare: CompareArgs,
    }

    #[test]
    fn flags_with_b_are_for_the_second_checkpoint_only() {
        let typed = ["compare", "one", "two", "--text", "t", "--adapters", "2", "--quantize-b", "q4_k"];
        let [a, b] = Typed::parse_from(typed).compare.models();
        assert_eq!(a.checkpoint.checkpoint, Some("one".into()), "the first");
        assert_eq!(b.checkpoint.checkpoint, Some("two".into()), "the second");
        assert!(a.quantize.wanted().is_none(), "not for A");
        assert_eq!(b.quantize.wanted().map(|quantize| quantize.format.name()), Some("q4_k"), "for B");
        assert_eq!(a.placement.choice(), b.placement.choice(), "both in one place");
        let typed = ["compare", "one", "--text", "t", "--adapters", "2", "--adapter-b", "host", "--quantize", "q8_0"];
        let [a, b] = Typed::parse_from(typed).compare.models();
        assert_eq!(b.checkpoint.checkpoint, Some("one".into()), "the same one");
        assert!(a.quantize.wanted().is_some() && b.quantize.wanted().is_none(), "for A alone");
        assert_eq!(b.placement.choice(), wgpt::gpu::AdapterChoice::Host, "B's own place");
        assert_ne!(a.placement.choice(), b.placement.choice(), "and not A's");
        let typed = ["compare", "one", "--text", "t", "--adapters", "0,0", "--memory", "0=1GiB,0=2GiB"];
        let memory =
            |of_b: &[&str]| Typed::parse_from([&typed[..], of_b].concat()).compare.models()[1].placement.memory();
        assert!(matches!(memory(&[]), wgpt::exec::MemoryLimit::By(all) if all.len() == 2), "A's place, A's budgets");
        let one = memory(&["--adapter-b", "0"]);
        assert!(matches!(one, wgpt::exec::MemoryLimit::By(own) if own.len() == 1), "one use, one budget");
        assert_eq!(memory(&["--adapter-b", "host"]), wgpt::exec::MemoryLimit::Default, "the host has none");
        let typed = ["compare", "one", "--text", "t", "--quantize-b", "gptq.int4", "--calibration", "c"];
        let [a, b] = Typed::parse_from(typed).compare.models();
        assert!(a.quantize.gptq().is_none(), "A is not rounded");
        assert!(b.quantize.gptq().is_some(), "B is");
        assert_eq!(b.quantize.calibration.calibration, Some("c".into()), "by the text");
    }
}
