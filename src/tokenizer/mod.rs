//! Text to token ids and back, exactly as the model was trained, and chat messages to text.
//!
//! A tokenizer comes from a Hugging Face `tokenizer.json` ([`Tokenizer::from_file`]), from the vocabulary in a GGUF file
//! ([`Tokenizer::from_vocabulary`]), from a SentencePiece `tokenizer.model` ([`Tokenizer::from_sentencepiece`]) or from
//! `vocab.json` and `merges.txt` ([`Tokenizer::from_vocab_files`]). Encoding runs on the tokenizers crate, except
//! SentencePiece, which is our own; decoding is always our own ([`Decoder`]), so that a stream and a whole text cannot
//! differ.
//!
//! Does not know models, checkpoints or sampling: callers bring paths and plain data, and stop strings are the
//! session's. Invariant: a tokenizer that cannot be built exactly is an error, never an approximation; and
//! encoding with [`Special::Add`] never yields a double BOS.

use std::sync::Arc;

mod added_token;
mod affixes;
mod build;
mod byte_level;
mod charsmap;
mod chat_template;
mod config;
mod decoder;
mod error;
mod exact;
mod normalizer;
mod outline;
mod pieces;
mod pipeline;
mod pre_tokenizer;
mod protobuf;
mod python;
mod python_methods;
mod score_merges;
mod sentencepiece;
mod sentencepiece_model;
mod unigram;
mod vocab_files;
mod vocabulary;
mod whole_tokens;

pub use added_token::AddedToken;
pub use chat_template::{ChatTemplate, Message};
pub use config::{ChatTemplates, TokenizerConfig};
pub use decoder::Decoder;
pub use error::TokenizerError;
pub use vocabulary::{TokenType, Vocabulary};

use affixes::Affixes;
use exact::ExactPipeline;
use pieces::Pieces;
use sentencepiece::SentencePiece;

/// Whether [`Tokenizer::encode`] puts BOS and EOS around the text, where the checkpoint asks for them.
/// Special tokens written out in the text (`<|im_start|>`) are recognised either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// As the checkpoint asks: the start of a conversation or a prompt.
    Add,
    /// The text alone: a piece of a longer text.
    None,
}

/// Encodes and decodes text. Cheap to share: all methods take `&self`.
#[derive(Debug)]
pub struct Tokenizer {
    encoder: Encoder,
    pieces: Arc<Pieces>,
    affixes: Affixes,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    eom: Option<u32>,
}

/// Who turns text into ids.
#[derive(Debug)]
enum Encoder {
    Pipeline(Box<ExactPipeline>),
    SentencePiece(Box<SentencePiece>),
}

impl Tokenizer {
    /// The ids of a text.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        let ids = match &self.encoder {
            Encoder::Pipeline(pipeline) => pipeline.encode(text)?,
            Encoder::SentencePiece(pieces) => pieces.encode(text)?,
        };
        Ok(match special {
            Special::Add => self.affixes.apply(ids),
            Special::None => ids,
        })
    }

    /// The text of some ids; bytes that are no UTF-8 become U+FFFD, ids without a token nothing. No spaces are
    /// tidied up: what was encoded comes back.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut decoder = self.decoder(skip_special);
        let mut text = decoder.prime(ids);
        text.extend(decoder.finish());
        text
    }

    /// Decodes ids as they come.
    pub fn decoder(&self, skip_special: bool) -> Decoder {
        Decoder::new(Arc::clone(&self.pieces), skip_special)
    }

    /// A token as the vocabulary writes it (`Ġthe`, `▁the`, `<0x0A>`).
    pub fn piece(&self, id: u32) -> Option<String> {
        self.pieces.get(id).map(|piece| piece.text.to_string())
    }

    /// The id of a token as the vocabulary writes it.
    pub fn id(&self, piece: &str) -> Option<u32> {
        match &self.encoder {
            Encoder::Pipeline(pipeline) => pipeline.id(piece),
            Encoder::SentencePiece(pieces) => pieces.id(piece),
        }
    }

    /// One more than the largest id. The model's logits may have more rows: padding.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The token that begins a text, if the checkpoint names one; whether it is added is another matter.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token that ends a turn, where a GGUF file names one beside EOS.
    pub fn eot(&self) -> Option<u32> {
        self.eot
    }

    /// The token that ends a message that a tool is to answer, where a GGUF file names one.
    pub fn eom(&self) -> Option<u32> {
        self.eom
    }

    /// Whether the token steers the model rather than being text.
    pub fn is_special(&self, id: u32) -> bool {
        self.pieces.get(id).is_some_and(|piece| piece.special)
    }
}

#[cfg(test)]
mod tests;
