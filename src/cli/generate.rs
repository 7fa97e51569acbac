//! `wgpt generate`: a prompt and its continuation on stdout.
//!
//! Streams what a session makes; chooses nothing itself. Invariant: stdout is the prompt as it was given and the
//! decoded continuation, samples separated by one line break, and nothing else.

use std::io::Read;

use anyhow::{Context, Result};
use wgpt::session::{GenerateParams, SessionError};
use wgpt::tokenizer::{Special, Tokenizer};

use super::args::GenerateArgs;
use super::output::{Notes, Text};
use super::resolve;

pub(super) fn run(args: &GenerateArgs) -> Result<()> {
    let notes = Notes::new(args.model.quiet);
    let prompt = prompt(args)?;
    let params = GenerateParams {
        max_new_tokens: Some(args.max_new_tokens),
        sampling: resolve::sampling(&args.sampling, notes),
        stop: args.stop.clone(),
        ..GenerateParams::default()
    };
    let mut session = resolve::session(args, notes)?;
    let ids = encode(session.tokenizer(), &prompt)?;
    let mut stdout = Text::new();
    for sample in 0..args.num_samples {
        let params = GenerateParams { stream: sample, ..params.clone() };
        let mut stream = session.generate(&ids, &params)?;
        // after the checks of `generate`, so that a refused prompt prints nothing
        stdout.show(if sample == 0 { "" } else { "\n" })?;
        stdout.show(&prompt)?;
        for piece in stream.by_ref() {
            stdout.show(&piece?.text)?;
        }
        stdout.end_line();
        notes.speed(&stream.stats());
    }
    notes.memory(&session.memory());
    Ok(())
}

/// The prompt's text: typed, from stdin, or from a file.
fn prompt(args: &GenerateArgs) -> Result<String> {
    match (&args.prompt_file, args.prompt.as_deref().unwrap_or_default()) {
        (Some(path), _) => std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display())),
        (None, "-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("stdin: cannot read the prompt")?;
            Ok(text)
        }
        (None, text) => Ok(text.to_owned()),
    }
}

/// The prompt's ids. An empty prompt becomes BOS, or EOS where a model knows only that as the border of texts.
fn encode(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>, SessionError> {
    let ids = tokenizer.encode(prompt, Special::Add)?;
    if ids.is_empty() {
        return Ok(tokenizer.bos().or(tokenizer.eos()).into_iter().collect());
    }
    Ok(ids)
}
