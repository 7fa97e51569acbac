//! `wgpt quantize`: a checkpoint as a GGUF file of another format.
//!
//! Shows what `wgpt::convert` does. Invariant: a checkpoint is never overwritten by what is made from it.

use anyhow::{Result, ensure};
use wgpt::convert::{Progress, to_gguf};
use wgpt::graph::Quantize;

use super::output::{Notes, bytes};
use super::quantize_args::QuantizeCommandArgs;
use super::resolve;

pub(super) fn run(args: &QuantizeCommandArgs) -> Result<()> {
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
    let quantize = Quantize { format: args.quantize, head: args.quantize_head, requantize: args.requantize };
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
