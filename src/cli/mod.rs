//! The command line: one file a command.
//!
//! `args` is what can be typed, `usage` what was, `resolve` turns it into checkpoints, sessions and executors, the
//! commands use those, `output` is all they share in printing. No computing happens here. Invariant: only data that was
//! asked for goes to stdout, and a reader that closes it early is no error.

mod adapters;
mod args;
mod bench;
mod cache;
mod cache_args;
mod calibration;
mod chat;
mod compare;
mod compare_args;
mod embedded;
mod generate;
mod inspect;
mod kv_cache_args;
mod logits;
mod output;
mod perplexity;
mod placement;
mod plan;
mod profile;
mod quantize;
mod quantize_args;
mod rates;
mod resolve;
mod speculation;
mod tokenize;
mod tune;
mod tuned;
mod usage;
mod windows;

use std::io::{ErrorKind, IsTerminal};
use std::process::ExitCode;

use args::Command;

/// Runs the command that the process was started with.
pub(crate) fn run() -> anyhow::Result<()> {
    match usage::parse().command {
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Adapters(args) => adapters::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Cache(args) => cache::run(&args),
    }
}

/// Keeps Mesa's layer that picks a default adapter from asking a Wayland display where there is none: it would print an
/// error on stderr for every adapter, and wgpt picks by itself.
pub(crate) fn hush_drivers() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: the process has one thread still.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// Logs go to stderr, as much of them as `WGPT_LOG` asks for: those of other crates too, which without it say nothing.
pub(crate) fn start_log() {
    let asked = std::env::var("WGPT_LOG").ok().filter(|filter| !filter.trim().is_empty());
    let filter = asked.unwrap_or_else(|| "off,wgpt=warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .init();
}

/// Prints the error and its causes, one a line; a closed stdout is how a reader says that it has enough.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error}");
    let mut above = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // a transparent wrapper repeats what it wraps
        if !above.contains(&cause) {
            eprintln!("  because {cause}");
        }
        above = cause;
    }
    ExitCode::FAILURE
}
