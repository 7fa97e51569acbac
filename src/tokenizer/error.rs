//! What can be wrong with a tokenizer or a chat template, in words a user can act on.
//!
//! One enum for the room. Does not log and does not recover: a tokenizer that would differ from the original
//! is refused, never approximated.

use std::path::PathBuf;

/// Why a tokenizer could not be built or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file could not be read.
    #[error("{}: cannot read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file was read, but is not what its name promises.
    #[error("{}: expected {expected}, found: {found}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the file should hold.
        expected: &'static str,
        /// What the parser said.
        found: String,
    },
    /// `tokenizer.json` asks for a decoder whose text cannot be streamed exactly.
    #[error("{}: decoder {decoder} is not supported; known are ByteLevel, Metaspace, and \
             sequences of Replace, ByteFallback, Fuse and a leading Strip", path.display())]
    UnsupportedDecoder {
        /// The file.
        path: PathBuf,
        /// The decoder, as JSON.
        decoder: String,
    },
    /// `tokenizer.ggml.model` names an algorithm this room does not have.
    #[error(
        "tokenizer.ggml.model is {model:?}; supported are \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece \
             BPE). A tokenizer.json beside the weights works instead"
    )]
    UnknownModel {
        /// The name found.
        model: String,
    },
    /// `tokenizer.ggml.pre` names a pre-tokenizer this room does not have. Guessing would give other tokens
    /// than the model was trained on.
    #[error(
        "tokenizer.ggml.pre is {pre:?}, which is not known; known are: {known}. \
             A tokenizer.json beside the weights works instead"
    )]
    UnknownPreTokenizer {
        /// The name found.
        pre: String,
        /// Every name in the table.
        known: String,
    },
    /// Two lists of the vocabulary that must be as long as each other are not.
    #[error("tokenizer.ggml.{key} has {found} entries, expected {expected}, one for each token")]
    Length {
        /// The list.
        key: &'static str,
        /// Number of tokens.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// A vocabulary without tokens.
    #[error("tokenizer.ggml.tokens is empty: the file holds no vocabulary")]
    Empty,
    /// One text for two ids.
    #[error("tokenizer.ggml.tokens: {text:?} is both token {first} and token {second}")]
    DuplicateToken {
        /// The text.
        text: String,
        /// Its first id.
        first: u32,
        /// Its second id.
        second: u32,
    },
    /// A merge that is not two tokens, or whose parts or result are not tokens.
    #[error("tokenizer.ggml.merges[{index}] is {merge:?}: {problem}")]
    Merge {
        /// Its rank.
        index: usize,
        /// As found.
        merge: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A special token's id that is not in the vocabulary.
    #[error("tokenizer.ggml.{key} is {id}, but the vocabulary has {vocab_size} tokens")]
    IdOutOfRange {
        /// The metadata key.
        key: &'static str,
        /// The id found.
        id: u32,
        /// Number of tokens.
        vocab_size: usize,
    },
    /// A special token is to be added, but nothing says which.
    #[error("{flag} is true, but no {token} token is given")]
    MissingId {
        /// The setting.
        flag: &'static str,
        /// `BOS` or `EOS`.
        token: &'static str,
    },
    /// `tokenizer_config.json` names a special token that the vocabulary lacks.
    #[error("tokenizer_config.json: {key} is {text:?}, which is not in the tokenizer's vocabulary")]
    MissingToken {
        /// The config key.
        key: &'static str,
        /// The token's text.
        text: String,
    },
    /// The tokenizer library refused.
    #[error("the tokenizer could not be built: {0}")]
    Build(String),
    /// A text could not be encoded.
    #[error("the text could not be encoded: {0}")]
    Encode(String),
    /// A character has no token and the vocabulary has neither byte tokens nor an unknown token.
    #[error("the vocabulary has no token for {0:?}: no byte tokens and no unknown token")]
    NoToken(char),
    /// A chat template does not parse, calls something unknown, or refused the messages.
    #[error("chat template{}: {message}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Template {
        /// Line of the template, where known, from 1.
        line: Option<usize>,
        /// What the template engine, or the template itself through `raise_exception`, said.
        message: String,
    },
    /// A list of named templates without the one asked for.
    #[error("no chat template is named {name:?}; the checkpoint has: {known}. --template chooses one")]
    UnknownTemplate {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
}

/// The tokenizers crate reports boxed errors; only their text is useful.
pub(super) fn build_error(error: Box<dyn std::error::Error + Send + Sync>) -> TokenizerError {
    TokenizerError::Build(error.to_string())
}
