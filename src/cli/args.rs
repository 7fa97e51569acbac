//! What can be typed: commands, flags, their help, defaults and environment variables.
//!
//! Raw values only: nothing here opens a file or knows what a default checkpoint is (`resolve` does). Every setting
//! can also come from an environment variable, `WGPT_` and its name; what a single call is about (a prompt, token
//! ids, a file to read or write) cannot. `usage` says which variables count. Invariant: a value that clap lets through is
//! in its range.

use std::path::PathBuf;

use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum};

use super::cache_args::{CacheArgs, CacheCommandArgs};
use super::compare_args::CompareArgs;
use super::kv_cache_args::KvCacheArgs;
use super::placement::PlacementArgs;
use super::quantize_args::{QuantizeArgs, QuantizeCommandArgs};
use super::speculation::SpeculationArgs;
use super::usage::Wrong;

/// LLM inference on any GPU through wgpu.
#[derive(Debug, Parser)]
#[command(
    name = "wgpt",
    version,
    arg_required_else_help = true,
    after_help = "A flag goes before its WGPT_* variable, and before variables that conflict with it; an empty variable \
                  counts as none. WGPT_LOG=info (or debug, or wgpt=debug,wgpu_core=warn, …) logs to stderr."
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Continue a prompt.
    ///
    /// stdout is exactly the prompt and its continuation; several samples are separated by a line break.
    Generate(GenerateArgs),
    /// Talk with a model in the format it was taught.
    ///
    /// That is the checkpoint's chat template. One from before there were such templates is recognised by its path
    /// and spoken to in its style; any other continues what you type as plain text, and says so. `wgpt inspect`
    /// shows which it will be, --template chooses another. Sampling is as the checkpoint recommends, where it does
    /// (generation_config.json, or general.sampling.* in GGUF); flags and variables go before that.
    ///
    /// stdout is exactly the replies. Ctrl-C stops a reply; Ctrl-D or an empty line leaves.
    ///
    /// Lines that begin with / are commands: /help lists them, /reset forgets the conversation but for the system message,
    /// /system TEXT begins a new one with this system message, /save FILE writes it (as JSON if FILE ends with .json),
    /// /exit leaves. A message that begins with / is given as //.
    ///
    /// Input that is not a terminal is read line by line, a message or a command each; empty lines are skipped. A line that
    /// fails is said and the next one read, but the exit code is then 1.
    Chat(ChatArgs),
    /// Compute the logits of every position of given tokens.
    Logits(LogitsArgs),
    /// Show a text's token ids and pieces.
    Tokenize(TokenizeArgs),
    /// Measure how well a model predicts a text.
    ///
    /// The text is cut into windows of --context tokens without overlap, each with BOS as its first token where the
    /// tokenizer adds one; the second half of each window is scored. llama.cpp's tool does the same, so figures
    /// compare.
    Perplexity(PerplexityArgs),
    /// Measure how far one model's predictions are from another's on a text.
    ///
    /// Over the same windows as perplexity: the Kullback-Leibler divergence of B's predictions from A's, how often both
    /// find the same token most probable, how much the probability of the token that follows changes, and both
    /// perplexities. For what quantizing costs: `wgpt compare A --quantize-b q4_k --text FILE`. Both models are loaded;
    /// their vocabularies must be the same.
    Compare(CompareArgs),
    /// List the adapters that wgpt can compute on.
    Adapters(AdaptersArgs),
    /// Show what a checkpoint holds, without loading its weights.
    Inspect(InspectArgs),
    /// Show which layers would go where and how fast they would be, without loading anything.
    ///
    /// Takes the flags of the commands that compute. Speeds are estimates for the beginning of a context.
    Plan(PlanArgs),
    /// Measure prompt throughput on random token ids, and that of greedy generation.
    Bench(BenchArgs),
    /// Find the fastest workgroup shapes of the kernels that decode multiplies matrices by, and keep them for later runs.
    ///
    /// Tries a dozen shapes for each kernel, on matrices of usual sizes and formats or those of a checkpoint. What was found
    /// is kept by adapter and driver, beside what `wgpt adapters --probe` measures, in tuning.json of wgpt's cache folder;
    /// without that file, or with --no-tune, shapes are the defaults of the adapter's class. Sums may then add in another
    /// order: logits differ in their last bits from those of the defaults.
    Tune(TuneArgs),
    /// Write a checkpoint as a GGUF file with its weights in another format.
    ///
    /// Reads GGUF files of every family, and Hugging Face folders of those that llama.cpp has; llama.cpp and other
    /// engines load what it writes. The file gives what --quantize gives when the same checkpoint is loaded with it.
    Quantize(QuantizeCommandArgs),
    /// Show or delete the packed weights that are kept for the next start.
    ///
    /// Commands that compute keep there what --quantize made, and layers that are streamed with --offload-mode mapped,
    /// packed as adapters have them. It is safe to delete at any time.
    Cache(CacheCommandArgs),
}

/// Which model.
#[derive(Debug, Args)]
pub(super) struct CheckpointArgs {
    /// Checkpoint: a directory with config.json and safetensors or pytorch_model.bin, or a GGUF file. A path that does
    /// not exist is looked for in checkpoints/ [default: the small story model that comes with wgpt]
    #[arg(long, value_name = "PATH", env = "WGPT_CHECKPOINT")]
    pub(super) checkpoint: Option<PathBuf>,
}

/// A model and where it runs.
#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    #[command(flatten)]
    pub(super) checkpoint: CheckpointArgs,

    #[command(flatten)]
    pub(super) placement: PlacementArgs,

    #[command(flatten)]
    pub(super) quantize: QuantizeArgs,

    #[command(flatten)]
    pub(super) kv: KvCacheArgs,

    #[command(flatten)]
    pub(super) cache: CacheArgs,

    /// No timings, memory figures or progress on stderr; errors still are
    #[arg(long, short, env = "WGPT_QUIET", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) quiet: bool,
}

impl ModelArgs {
    /// Refuses flags that don't go together; `rounds` says whether the weights are needed, not just their sizes.
    pub(super) fn check(&self, rounds: bool) -> Result<(), Wrong> {
        self.quantize.check(rounds)?;
        self.placement.check()
    }
}

/// The room of the KV cache.
#[derive(Debug, Args)]
pub(super) struct ContextArgs {
    /// Tokens the KV cache has room for, prompt and continuation together [default: the model's
    /// own, at most 4096]
    #[arg(long, value_name = "N", env = "WGPT_CONTEXT_LENGTH", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) context_length: Option<u32>,
}

/// How tokens are chosen. The filters run in the order of these flags, after the repetition penalty.
#[derive(Debug, Args)]
pub(super) struct SamplingArgs {
    /// Flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the most probable token
    #[arg(long, value_name = "T", env = "WGPT_TEMPERATURE", default_value_t = 0.8, value_parser = at_least_zero, allow_negative_numbers = true)]
    pub(super) temperature: f32,

    /// Keep the K most probable tokens; 0 keeps all
    #[arg(long, value_name = "K", env = "WGPT_TOP_K", default_value_t = 200)]
    pub(super) top_k: usize,

    /// Keep the fewest most probable tokens whose probabilities sum to P, at least one
    #[arg(long, value_name = "P", env = "WGPT_TOP_P", default_value_t = 1.0, value_parser = share, allow_negative_numbers = true)]
    pub(super) top_p: f32,

    /// Keep tokens at least P times as probable as the most probable one
    #[arg(long, value_name = "P", env = "WGPT_MIN_P", default_value_t = 0.0, value_parser = share, allow_negative_numbers = true)]
    pub(super) min_p: f32,

    /// Divide the positive logits of tokens already in the context by R, multiply the negative ones; 1 does nothing
    #[arg(long, value_name = "R", env = "WGPT_REPETITION_PENALTY", default_value_t = 1.0, value_parser = positive, allow_negative_numbers = true)]
    pub(super) repetition_penalty: f32,

    /// Number that decides all random choices: the same seed gives the same text [default: a random one, shown on
    /// stderr]
    #[arg(long, value_name = "N", env = "WGPT_SEED")]
    pub(super) seed: Option<u64>,
}

/// How tokens are chosen in a chat: as above, but what is not given is the checkpoint's to say.
#[derive(Debug, Args)]
pub(super) struct ChatSamplingArgs {
    /// Flattens (above 1) or sharpens (below 1) the distribution; 0 always takes the most probable token [default:
    /// the checkpoint's, else 0.8]
    #[arg(long, value_name = "T", env = "WGPT_TEMPERATURE", value_parser = at_least_zero, allow_negative_numbers = true)]
    pub(super) temperature: Option<f32>,

    /// Keep the K most probable tokens; 0 keeps all [default: the checkpoint's, else 200]
    #[arg(long, value_name = "K", env = "WGPT_TOP_K")]
    pub(super) top_k: Option<usize>,

    /// Keep the fewest most probable tokens whose probabilities sum to P, at least one [default: the checkpoint's,
    /// else 1]
    #[arg(long, value_name = "P", env = "WGPT_TOP_P", value_parser = share, allow_negative_numbers = true)]
    pub(super) top_p: Option<f32>,

    /// Keep tokens at least P times as probable as the most probable one [default: the checkpoint's, else 0]
    #[arg(long, value_name = "P", env = "WGPT_MIN_P", value_parser = share, allow_negative_numbers = true)]
    pub(super) min_p: Option<f32>,

    /// Divide the positive logits of tokens already in the context by R, multiply the negative ones; 1 does nothing
    /// [default: the checkpoint's, else 1]
    #[arg(long, value_name = "R", env = "WGPT_REPETITION_PENALTY", value_parser = positive, allow_negative_numbers = true)]
    pub(super) repetition_penalty: Option<f32>,

    /// Number that decides all random choices: the same seed gives the same replies [default: a random one, shown on
    /// stderr]
    #[arg(long, value_name = "N", env = "WGPT_SEED")]
    pub(super) seed: Option<u64>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("text").required(true))]
pub(super) struct GenerateArgs {
    /// Text to continue; `-` reads it from stdin
    #[arg(long, short, value_name = "TEXT", group = "text")]
    pub(super) prompt: Option<String>,

    /// File with the text to continue
    #[arg(long, value_name = "FILE", group = "text")]
    pub(super) prompt_file: Option<PathBuf>,

    #[command(flatten)]
    pub(super) model: ModelArgs,

    #[command(flatten)]
    pub(super) context: ContextArgs,

    /// Texts to generate, each on its own stream of the seed
    #[arg(long, value_name = "N", env = "WGPT_NUM_SAMPLES", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) num_samples: u64,

    /// Tokens to generate at most, for each text
    #[arg(long, value_name = "N", env = "WGPT_MAX_NEW_TOKENS", default_value_t = 50)]
    pub(super) max_new_tokens: usize,

    #[command(flatten)]
    pub(super) speculation: SpeculationArgs,

    #[command(flatten)]
    pub(super) sampling: SamplingArgs,

    /// Text that ends the continuation and is not part of it; may be given several times
    #[arg(long, value_name = "TEXT", env = "WGPT_STOP", action = ArgAction::Append)]
    pub(super) stop: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ChatArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    #[command(flatten)]
    pub(super) context: ContextArgs,

    /// System message, in place of the format's own [default: none, or what the format brings]
    #[arg(long, value_name = "TEXT", env = "WGPT_SYSTEM")]
    pub(super) system: Option<String>,

    /// Format to talk in: one of the checkpoint's templates or a style by its name (a wrong one lists them), `plain`,
    /// or a file with a Jinja template [default: the checkpoint's template, else its style, else plain]
    #[arg(long, value_name = "NAME|FILE", env = "WGPT_TEMPLATE")]
    pub(super) template: Option<String>,

    /// Tokens of a reply at most [default: the checkpoint's, else until the context is full]
    #[arg(long, value_name = "N", env = "WGPT_MAX_NEW_TOKENS")]
    pub(super) max_new_tokens: Option<usize>,

    #[command(flatten)]
    pub(super) speculation: SpeculationArgs,

    #[command(flatten)]
    pub(super) sampling: ChatSamplingArgs,

    /// Text that ends a reply and is not part of it; may be given several times
    #[arg(long, value_name = "TEXT", env = "WGPT_STOP", action = ArgAction::Append)]
    pub(super) stop: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct LogitsArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", required = true, value_delimiter = ',')]
    pub(super) tokens: Vec<u32>,

    /// Safetensors file to write: `logits`, f32 (tokens, vocab), and `tokens`, u32 (tokens) [default: the five best
    /// tokens of each position as text]
    #[arg(long, short, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct TokenizeArgs {
    #[command(flatten)]
    pub(super) checkpoint: CheckpointArgs,

    /// Add no BOS or EOS; special tokens written out in the text are recognised either way
    #[arg(long)]
    pub(super) no_special: bool,

    /// Print {"ids":[…],"pieces":[…]}
    #[arg(long)]
    pub(super) json: bool,

    /// Text to encode; `-` reads it from stdin
    #[arg(value_name = "TEXT", allow_hyphen_values = true)]
    pub(super) text: String,
}

#[derive(Debug, Args)]
pub(super) struct PerplexityArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// Text file to predict; a line break at its very end is not part of the text
    #[arg(long, short, value_name = "FILE")]
    pub(super) file: PathBuf,

    /// Tokens of a window
    #[arg(long, value_name = "N", env = "WGPT_CONTEXT", default_value_t = 512, visible_alias = "context-length", value_parser = clap::value_parser!(u32).range(4..))]
    pub(super) context: u32,

    /// Windows to score [default: all]
    #[arg(long, value_name = "N", env = "WGPT_CHUNKS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) chunks: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct AdaptersArgs {
    /// Measure what each adapter does a second (a second or two each) and remember it for plans
    #[arg(long)]
    pub(super) probe: bool,

    /// Print a JSON array
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TuneArgs {
    /// Adapter: its index in `wgpt adapters`, or a part of its name [default: the best one]
    #[arg(long, value_name = "INDEX|NAME", env = "WGPT_ADAPTER")]
    pub(super) adapter: Option<String>,

    /// Checkpoint whose matrices to tune for [default: sizes and formats of usual models]
    #[arg(long, value_name = "PATH", env = "WGPT_CHECKPOINT")]
    pub(super) checkpoint: Option<PathBuf>,

    /// Small matrices, untimed, to show that it works; what is kept is right but no faster
    #[arg(long, hide = true)]
    pub(super) smoke: bool,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    pub(super) checkpoint: CheckpointArgs,

    #[command(flatten)]
    pub(super) quantize: QuantizeArgs,

    #[command(flatten)]
    pub(super) kv: KvCacheArgs,

    /// Print a JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    #[command(flatten)]
    pub(super) context: ContextArgs,

    /// Print a JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    pub(super) model: ModelArgs,

    /// Prompt lengths to measure, separated by commas; 0 for none
    #[arg(
        long,
        short = 'p',
        value_name = "N,…",
        env = "WGPT_PROMPT_TOKENS",
        default_value = "512",
        value_delimiter = ','
    )]
    pub(super) prompt_tokens: Vec<u32>,

    /// Numbers of generated tokens to measure, separated by commas; 0 for none
    #[arg(
        long,
        short = 'n',
        value_name = "N,…",
        env = "WGPT_GENERATED_TOKENS",
        default_value = "128",
        value_delimiter = ','
    )]
    pub(super) generated_tokens: Vec<u32>,

    /// Tokens that are in the context before what is measured
    #[arg(long, short, value_name = "N", env = "WGPT_DEPTH", default_value_t = 0)]
    pub(super) depth: u32,

    /// Measurements of each, after a warm-up
    #[arg(long, short, value_name = "N", env = "WGPT_REPEATS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) repeats: u32,

    /// Also list the time of every kind of kernel and of every layer, by the adapter's clock, the number of dispatches, and
    /// how long the adapter waits for the host: as tables, or with --format json as `profile` of each element; not in CSV
    #[arg(long, env = "WGPT_PROFILE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) profile: bool,

    /// Also write every kernel's time to a file that chrome://tracing and Perfetto show
    #[arg(long, value_name = "FILE", env = "WGPT_TRACE")]
    pub(super) trace: Option<PathBuf>,

    /// Form of the result
    #[arg(long, value_enum, env = "WGPT_FORMAT", default_value_t = BenchFormat::Md)]
    pub(super) format: BenchFormat,
}

/// How bench figures are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum BenchFormat {
    /// Markdown table
    Md,
    /// JSON array
    Json,
    /// Comma-separated values with a header
    Csv,
}

fn number(text: &str, allowed: fn(f32) -> bool, range: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| format!("expected a number {range}"))?;
    if value.is_finite() && allowed(value) { Ok(value) } else { Err(format!("expected a number {range}")) }
}

fn at_least_zero(text: &str) -> Result<f32, String> {
    number(text, |value| value >= 0.0, "of 0 or more")
}

fn share(text: &str) -> Result<f32, String> {
    number(text, |value| (0.0..=1.0).contains(&value), "from 0 to 1")
}

fn positive(text: &str) -> Result<f32, String> {
    number(text, |value| value > 0.0, "greater than 0")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_help_and_every_variable_the_flag_s_name() {
        for command in Cli::command().get_subcommands() {
            for arg in command.get_arguments().filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version")) {
                let name = format!("{} {}", command.get_name(), arg.get_id());
                assert!(arg.get_help().is_some(), "{name} has no help");
                if let (Some(variable), Some(long)) = (arg.get_env(), arg.get_long()) {
                    let expected = format!("WGPT_{}", long.to_uppercase().replace('-', "_"));
                    assert_eq!(variable.to_str(), Some(expected.as_str()), "variable of {name}");
                }
            }
        }
    }
}
