//! Text to token ids and back, exactly as the model was trained, and chat messages to text.
//!
//! A tokenizer comes from a Hugging Face `tokenizer.json` ([`Tokenizer::from_file`]) or from the vocabulary in a
//! GGUF file ([`Tokenizer::from_vocabulary`]). Encoding runs on the tokenizers crate, except SentencePiece BPE,
//! which is our own; decoding is always our own ([`Decoder`]), so that a stream and a whole text cannot differ.
//!
//! Does not know models, checkpoints or sampling: callers bring paths and plain data, and stop strings are the
//! session's. Invariant: a tokenizer that cannot be built exactly is an error, never an approximation; and
//! encoding with [`Special::Add`] never yields a double BOS.

use std::path::Path;
use std::sync::Arc;

mod affixes;
mod byte_level;
mod chat_template;
mod config;
mod decoder;
mod error;
mod pieces;
mod pipeline;
mod pre_tokenizer;
mod python;
mod python_methods;
mod score_merges;
mod vocabulary;
mod whole_tokens;

pub use chat_template::{ChatTemplate, Message};
pub use config::{ChatTemplates, TokenizerConfig};
pub use decoder::Decoder;
pub use error::TokenizerError;
pub use vocabulary::{TokenType, Vocabulary};

use affixes::Affixes;
use pieces::Pieces;
use score_merges::ScoreMerges;

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
    Pipeline(Box<tokenizers::Tokenizer>),
    ScoreMerges(Box<ScoreMerges>),
}

/// What a GGUF file says about the ends of a text.
struct Ends {
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    eom: Option<u32>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
}

impl Ends {
    fn of(vocabulary: &Vocabulary) -> Self {
        let &Vocabulary { bos, eos, eot, eom, add_bos, add_eos, .. } = vocabulary;
        Self { bos, eos, eot, eom, add_bos, add_eos }
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Which tokens are BOS and EOS is `config`'s word, and whether they are added
    /// too; where it is silent, the post-processor of `tokenizer.json` decides.
    pub fn from_file(path: &Path, config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        let pipeline = pipeline::read(path)?;
        let pieces = pipeline::pieces(&pipeline, path)?;
        let mut affixes = Affixes::of_pipeline(&pipeline)?;
        let id = |text: &Option<String>| text.as_deref().and_then(|text| pipeline.token_to_id(text));
        let (bos, eos) = (id(&config.bos_token).or(affixes.first()), id(&config.eos_token));
        let flags = [
            ("bos_token", config.add_bos_token, &config.bos_token, bos),
            ("eos_token", config.add_eos_token, &config.eos_token, eos),
        ];
        for (key, add, text, found) in flags {
            if let (Some(true), Some(text), None) = (add, text, found) {
                return Err(TokenizerError::MissingToken { key, text: text.clone() });
            }
        }
        // A flag about a token that is named nowhere (many configs say `add_bos_token: true` and `bos_token: null`)
        // has no effect in the original either.
        if let Some(add) = config.add_bos_token.filter(|_| bos.is_some()) {
            affixes.set_bos(add, bos)?;
        }
        if let Some(add) = config.add_eos_token.filter(|_| eos.is_some()) {
            affixes.set_eos(add, eos)?;
        }
        Ok(Self {
            encoder: Encoder::Pipeline(Box::new(pipeline)),
            pieces: Arc::new(pieces),
            affixes,
            bos,
            eos,
            eot: None,
            eom: None,
        })
    }

    /// Builds the tokenizer that a GGUF file describes.
    pub fn from_vocabulary(vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        match vocabulary.model.as_str() {
            "gpt2" => Self::from_byte_level(vocabulary),
            "llama" => Self::from_score_merges(vocabulary),
            model => Err(TokenizerError::UnknownModel { model: model.to_owned() }),
        }
    }

    fn from_byte_level(vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        let pre_tokenizer = pre_tokenizer::find(vocabulary.pre.as_deref())?;
        let checked = vocabulary.check()?;
        let pieces = Pieces::of_byte_level(&checked);
        let pipeline = pipeline::byte_level(&checked, pre_tokenizer)?;
        let encoder = Encoder::Pipeline(Box::new(pipeline));
        Self::assemble(encoder, pieces, &Ends::of(&checked.vocabulary), pre_tokenizer.add_bos)
    }

    fn from_score_merges(mut vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        // The ids every SentencePiece vocabulary of this kind has, for files that do not say.
        let known = |id: u32| Some(id).filter(|&id| (id as usize) < vocabulary.tokens.len());
        let defaults = (known(0), known(1), known(2));
        vocabulary.unk = vocabulary.unk.or(defaults.0);
        vocabulary.bos = vocabulary.bos.or(defaults.1);
        vocabulary.eos = vocabulary.eos.or(defaults.2);
        let add_space_prefix = vocabulary.add_space_prefix.unwrap_or(true);
        let checked = vocabulary.check()?;
        let pieces = Pieces::of_score_merges(&checked, add_space_prefix);
        let ends = Ends::of(&checked.vocabulary);
        let encoder = Encoder::ScoreMerges(Box::new(ScoreMerges::new(checked, add_space_prefix)?));
        Self::assemble(encoder, pieces, &ends, true)
    }

    /// `add_bos` is what the kind of tokenizer does when the file does not say.
    fn assemble(encoder: Encoder, pieces: Pieces, ends: &Ends, add_bos: bool) -> Result<Self, TokenizerError> {
        let &Ends { bos, eos, eot, eom, .. } = ends;
        let mut affixes = Affixes::default();
        affixes.set_bos(ends.add_bos.unwrap_or(add_bos), bos)?;
        affixes.set_eos(ends.add_eos.unwrap_or(false), eos)?;
        Ok(Self { encoder, pieces: Arc::new(pieces), affixes, bos, eos, eot, eom })
    }

    /// The ids of a text.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        let ids = match &self.encoder {
            Encoder::Pipeline(pipeline) => {
                let encoding = pipeline.encode_fast(text, false);
                encoding.map_err(|error| TokenizerError::Encode(error.to_string()))?.get_ids().to_vec()
            }
            Encoder::ScoreMerges(merges) => merges.encode(text)?,
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
            Encoder::Pipeline(pipeline) => pipeline.token_to_id(piece),
            Encoder::ScoreMerges(merges) => merges.id(piece),
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

    /// The token that ends a message (a model that calls tools goes on after it), where a GGUF file names one.
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
