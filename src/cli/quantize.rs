//! `wgpt quantize`: a checkpoint as a GGUF file of another format, or as a folder in GPTQ's layout.
//!
//! Shows what `wgpt::convert` and `wgpt::gptq` do. Invariant: a checkpoint is never overwritten by what is made from it.

use anyhow::{Result, ensure};
use wgpt::convert::{Progress, to_gguf};
use wgpt::exec::ExecOptions;
use wgpt::gptq;
use wgpt::graph::Quantize;

use super::output::{Notes, bytes};
use super::quantize_args::{Format, Method, NO_HEAD, QuantizeCommandArgs};
use super::resolve;

pub(super) fn run(args: &QuantizeCommandArgs) -> Result<()> {
    match args.quantize {
        Method::Format(format) => {
            args.calibration.refuse_without_gptq()?;
            write_gguf(args, format)
        }
        Method::Gptq => write_gptq(args),
    }
}

fn write_gguf(args: &QuantizeCommandArgs, format: Format) -> Result<()> {
    let notes = Notes::new(args.quiet);
    let opened = resolve::checkpoint(&args.checkpoint)?;
    let same = |path: &std::path::PathBuf| {
        path.canonicalize().ok().zip(args.output.canonicalize().ok()).is_some_and(|(input, output)| input == output)
    };
    ensure!(
        !opened.checkpoint.files().iter().any(same),
        "{}: is read from; name another --output",
        args.output.display()
    );
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
    ensure!(args.quantize_head.is_none(), NO_HEAD);
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
