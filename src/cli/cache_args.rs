//! Flags of the cache of packed weights.
//!
//! Part of `args`, and raw like it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Whether it is used.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct CacheArgs {
    /// Neither read nor write packed weights in the cache folder. They are kept there where --quantize made them, and
    /// where mapped layers would be packed anew for each token; `wgpt cache list` shows them
    #[arg(long, env = "WGPT_NO_CACHE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) no_cache: bool,
}

#[derive(Debug, Args)]
pub(super) struct CacheCommandArgs {
    #[command(subcommand)]
    pub(super) action: CacheAction,
}

#[derive(Debug, Subcommand)]
pub(super) enum CacheAction {
    /// Show what lies there, by checkpoint: formats, sizes, and when it was last used.
    List {
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Delete it; commands that want it make it anew.
    Clear {
        /// Only what belongs to this checkpoint
        #[arg(value_name = "CHECKPOINT")]
        checkpoint: Option<PathBuf>,
    },
}
