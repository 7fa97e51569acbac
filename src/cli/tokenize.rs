//! `wgpt tokenize`: a text's ids and pieces.
//!
//! Needs the checkpoint's tokenizer and none of its weights. Invariant: pieces are printed as the vocabulary writes
//! them, one for each id.

use std::io::Read;

use anyhow::{Context, Result};
use wgpt::tokenizer::Special;

use super::args::TokenizeArgs;
use super::output::Text;
use super::resolve;

pub(super) fn run(args: &TokenizeArgs) -> Result<()> {
    let tokenizer = resolve::language(&resolve::checkpoint(&args.checkpoint)?)?.tokenizer;
    let mut text = args.text.clone();
    if text == "-" {
        text.clear();
        std::io::stdin().read_to_string(&mut text).context("stdin: cannot read the text")?;
    }
    let special = if args.no_special { Special::None } else { Special::Add };
    let ids = tokenizer.encode(&text, special)?;
    let pieces: Vec<String> = ids.iter().map(|&id| tokenizer.piece(id).unwrap_or_default()).collect();
    let mut stdout = Text::new();
    if args.json {
        stdout.show(&format!("{}\n", serde_json::json!({ "ids": ids, "pieces": pieces })))?;
    } else {
        for (id, piece) in ids.iter().zip(&pieces) {
            stdout.show(&format!("{id:>7}  {piece:?}\n"))?;
        }
    }
    Ok(())
}
