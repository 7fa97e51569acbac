//! `wgpt quantize`: a checkpoint as a GGUF file of another format, or as a folder in GPTQ's layout.
//!
//! Shows what `wgpt::convert` and `wgpt::gptq` do. Invariant: nothing is overwritten, and nothing half-written stays.

use std::path::Path;

use anyhow::{Context, Result};
use wgpt::checkpoint::partial;
use wgpt::convert::{Progress, to_gguf};
use wgpt::exec::ExecOptions;
use wgpt::gptq;
use wgpt::graph::Quantize;

use super::output::{INTERRUPTED, Notes, bytes};
use super::quantize_args::{Format, Method, QuantizeCommandArgs};
use super::resolve;

pub(super) fn run(args: &QuantizeCommandArgs) -> Result<()> {
    clean_up_when_interrupted(&args.output)?;
    match args.quantize {
        Method::Format(format) => write_gguf(args, format),
        Method::Gptq => write_gptq(args),
    }
}

/// Ctrl-C deletes what was written so far.
fn clean_up_when_interrupted(output: &Path) -> Result<()> {
    let partial = partial(output);
    ctrlc::set_handler(move || {
        if let Some(partial) = &partial {
            drop(std::fs::remove_file(partial).or_else(|_| std::fs::remove_dir_all(partial)));
        }
        std::process::exit(INTERRUPTED);
    })
    .context("Ctrl-C could not be caught")
}

fn write_gguf(args: &QuantizeCommandArgs, format: Format) -> Result<()> {
    let notes = Notes::new(args.quiet);
    let opened = resolve::checkpoint(&args.checkpoint)?;
    let quantize = Quantize { format, head: args.quantize_head, requantize: args.requantize };
    let bar = notes.progress(0);
    let written = to_gguf(&opened.checkpoint, &quantize, &args.output, &mut |progress| match progress {
        Progress::Total(total) => bar.set_length(total),
        Progress::Written(count) => bar.inc(count),
    })?;
    bar.finish_and_clear();
    notes.line(&written.quantized);
    notes.line(format_args!("wrote {}, {}", args.output.display(), bytes(written.bytes)));
    Ok(())
}

fn write_gptq(args: &QuantizeCommandArgs) -> Result<()> {
    let notes = Notes::new(args.quiet);
    let opened = resolve::checkpoint(&args.checkpoint)?;
    let texts = args.calibration.texts(&opened.checkpoint)?;
    let exec = ExecOptions { adapter: args.placement.choice(), ..ExecOptions::default() };
    let options = args.calibration.options(args.requantize);
    let bar = notes.progress(0);
    let (report, count) =
        gptq::to_folder(&opened.checkpoint, &texts, &options, &exec, &args.output, &mut resolve::progress(&bar))?;
    bar.finish_and_clear();
    resolve::say(&report, notes);
    notes.line(format_args!("wrote {}, {}", args.output.display(), bytes(count)));
    Ok(())
}
