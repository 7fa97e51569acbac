//! The flag that says how the KV cache is held, shared by all commands that load a model or tell its memory.
//!
//! Part of `args`, and raw like it: what is held where nobody says is decided by `wgpt::exec`.

use clap::Args;
use wgpt::ops::KvFormat;

/// How keys and values are held.
#[derive(Debug, Args)]
pub(super) struct KvCacheArgs {
    /// Format of the keys and values in the cache: f16, q8_0, q4_0 or f32. On the host they are rounded to it and kept as
    /// f32, which saves no memory [default: f16; f32 where the checkpoint's weights are]
    #[arg(long, value_name = "FORMAT", env = "WGPT_KV_CACHE", value_parser = format)]
    pub(super) kv_cache: Option<KvFormat>,
}

pub(super) fn format(text: &str) -> Result<KvFormat, String> {
    let named = KvFormat::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(text.trim()));
    named.ok_or_else(|| format!("expected one of {}", KvFormat::ALL.map(KvFormat::name).join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_go_by_their_names() {
        for wanted in KvFormat::ALL {
            assert_eq!(format(&wanted.name().to_uppercase()), Ok(wanted), "{wanted}");
        }
        for wrong in ["", "q5_0", "q8", "8"] {
            let error = format(wrong).expect_err("not a format");
            assert!(error.contains("q8_0"), "{wrong:?}: {error}");
        }
    }
}
