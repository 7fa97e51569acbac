//! What can be wrong with a tokenizer or a chat template, in words a user can act on.
//!
//! One enum for the room. Does not log and does not recover: a tokenizer that would differ from the original
//! is refused, never approximated.

use std::path::{Path, PathBuf};

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
    /// Something is wrong with what a file says.
    #[error("{}: {source}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// What it is.
        source: Box<Self>,
    },
    /// `tokenizer_class` is a Python class this room does not have, and there is no `tokenizer.json` to go by.
    #[error(
        "{}: tokenizer_class is {class}, which is not known without a tokenizer.json; known are: {known}. Save the \
             tokenizer as tokenizer.json (its `save_pretrained` does) and put that beside the weights", path.display()
    )]
    UnknownClass {
        /// The file that was there.
        path: PathBuf,
        /// The class found, `not given` if there is none.
        class: String,
        /// Every class in the table.
        known: String,
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
        "tokenizer.ggml.model is {model:?}; supported are \"gpt2\" (byte-level BPE), \"llama\" (SentencePiece \
             BPE) and \"gemma4\" (BPE over text). A tokenizer.json beside the weights works instead"
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
    #[error("vocabulary: {key} has {found} entries, expected {expected}, one for each token")]
    Length {
        /// The list.
        key: &'static str,
        /// Number of tokens.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// A vocabulary without tokens.
    #[error("the vocabulary has no tokens")]
    Empty,
    /// One text for two ids.
    #[error("vocabulary: {text:?} is both token {first} and token {second}")]
    DuplicateToken {
        /// The text.
        text: String,
        /// Its first id.
        first: u32,
        /// Its second id.
        second: u32,
    },
    /// Byte-level BPE that could only ever give single bytes.
    #[error("there are no merges, but tokens of several characters: the vocabulary is not whole")]
    NoMerges,
    /// A merge that is not two tokens, or whose parts or result are not tokens.
    #[error("merges[{index}] is {merge:?}: {problem}")]
    Merge {
        /// Its rank.
        index: usize,
        /// As found.
        merge: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A special token's id that is not in the vocabulary.
    #[error("{key} is {id}, but the vocabulary has {vocab_size} tokens")]
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

impl TokenizerError {
    /// The same, with the file it is about.
    pub(super) fn in_file(self, path: &Path) -> Self {
        Self::In { path: path.to_owned(), source: Box::new(self) }
    }
}

/// The tokenizers crate reports boxed errors; only their text is useful.
pub(super) fn build_error(error: Box<dyn std::error::Error + Send + Sync>) -> TokenizerError {
    TokenizerError::Build(error.to_string())
}
