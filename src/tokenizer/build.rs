//! How a tokenizer is put together from each kind of source.
//!
//! Joins an encoder, the pieces to decode with and what is put around a text; each of those knows nothing of the others.
//! Invariant: what a source says and is not honoured is an error.

use std::path::Path;
use std::sync::Arc;

use super::affixes::Affixes;
use super::charsmap::Charsmap;
use super::exact::ExactPipeline;
use super::normalizer::Normalizer;
use super::pieces::{Pieces, Start};
use super::pipeline::{self, ByteLevelOptions};
use super::score_merges::ScoreMerges;
use super::sentencepiece::{Algorithm, Prefix, SentencePiece};
use super::sentencepiece_model::{self, SentencePieceModel};
use super::unigram::Unigram;
use super::vocabulary::{Checked, TokenType, max_id};
use super::whole_tokens::{Edges, WholeTokens};
use super::{AddedToken, Encoder, Tokenizer, TokenizerConfig, TokenizerError, Vocabulary, pre_tokenizer, vocab_files};

/// Python classes whose `tokenizer.model` is a SentencePiece model used as Llama's: BOS in front, unless a flag says
/// otherwise, and nothing of their own besides.
const SENTENCEPIECE_CLASSES: &[&str] = &[
    "LlamaTokenizer",
    "CodeLlamaTokenizer",
    "GemmaTokenizer",
    "BaichuanTokenizer",
    "InternLMTokenizer",
    "InternLM2Tokenizer",
    "OrionTokenizer",
    "YiTokenizer",
];

/// The ends of a text: their ids, and whether they are added.
struct Ends {
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    eom: Option<u32>,
    add_bos: bool,
    add_eos: bool,
}

impl Ends {
    /// A GGUF file's; `add_bos` is what its kind of tokenizer does when the file does not say.
    fn of(vocabulary: &Vocabulary, add_bos: bool) -> Self {
        let &Vocabulary { bos, eos, eot, eom, .. } = vocabulary;
        let add_bos = vocabulary.add_bos.unwrap_or(add_bos);
        Self { bos, eos, eot, eom, add_bos, add_eos: vocabulary.add_eos.unwrap_or(false) }
    }

    /// What `config` says of a vocabulary that has ids of its own for them, and which class adds BOS by itself.
    fn of_config(
        config: &TokenizerConfig,
        vocabulary: &Vocabulary,
        id: impl Fn(&str) -> Option<u32>,
        add_bos: bool,
    ) -> Result<Self, TokenizerError> {
        let find = |text: &Option<String>, own: Option<u32>| text.as_deref().map_or(own, &id);
        let (bos, eos) = (find(&config.bos_token, vocabulary.bos), find(&config.eos_token, vocabulary.eos));
        let (add_bos, add_eos) = (config.add_bos_token.unwrap_or(add_bos), config.add_eos_token.unwrap_or(false));
        let flags = [("bos_token", add_bos, &config.bos_token, bos), ("eos_token", add_eos, &config.eos_token, eos)];
        for (key, add, text, found) in flags {
            if let (true, Some(text), None) = (add, text, found) {
                return Err(TokenizerError::MissingToken { key, text: text.clone() });
            }
        }
        // A flag about a token that is named nowhere (many configs say `add_bos_token: true` and `bos_token: null`)
        // has no effect in the original either.
        Ok(Self {
            bos,
            eos,
            eot: None,
            eom: None,
            add_bos: add_bos && bos.is_some(),
            add_eos: add_eos && eos.is_some(),
        })
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Which tokens are BOS and EOS is `config`'s word, and whether they are added
    /// too; where it is silent, the post-processor of `tokenizer.json` decides.
    pub fn from_file(path: &Path, config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        let pipeline = pipeline::read(path)?;
        let pieces = pipeline::pieces(&pipeline, path)?;
        let mut affixes = Affixes::of_pipeline(&pipeline)?;
        let id = |text: &str| pipeline.token_to_id(text);
        let own = Vocabulary { bos: affixes.first(), ..Vocabulary::default() };
        let mut known = config.clone();
        // Where the named token is none, what the post-processor puts in front is BOS all the same.
        known.bos_token = known.bos_token.filter(|text| own.bos.is_none() || id(text).is_some());
        let ends = Ends::of_config(&known, &own, id, false)?;
        if let Some(add) = config.add_bos_token.filter(|_| ends.bos.is_some()) {
            affixes.set_bos(add, ends.bos)?;
        }
        if let Some(add) = config.add_eos_token.filter(|_| ends.eos.is_some()) {
            affixes.set_eos(add, ends.eos)?;
        }
        Ok(Self::join(Encoder::Pipeline(Box::new(ExactPipeline::new(pipeline)?)), pieces, affixes, &ends))
    }

    /// Builds the tokenizer that a GGUF file describes.
    pub fn from_vocabulary(vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        match vocabulary.model.as_str() {
            "gpt2" => Self::from_byte_level(vocabulary),
            "llama" => Self::from_scores(vocabulary),
            "gemma4" => Self::from_plain_text(vocabulary),
            model => Err(TokenizerError::UnknownModel { model: model.to_owned() }),
        }
    }

    /// Reads a SentencePiece `tokenizer.model`, for checkpoints without `tokenizer.json`. Special tokens are `config`'s
    /// word, and where it is silent, the model's.
    pub fn from_sentencepiece(path: &Path, config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        if let Some(class) = config.tokenizer_class.as_deref().filter(|class| !SENTENCEPIECE_CLASSES.contains(class)) {
            let (class, known) = (class.to_owned(), SENTENCEPIECE_CLASSES.join(", "));
            return Err(TokenizerError::UnknownClass { path: path.to_owned(), class, known });
        }
        let model = sentencepiece_model::read(path)?;
        Self::from_model(model, config).map_err(|error| error.in_file(path))
    }

    /// Reads `vocab.json` and `merges.txt`, for checkpoints without `tokenizer.json`: byte-level BPE. How it cuts words
    /// is not in the files but in the Python class that `config` names.
    pub fn from_vocab_files(vocab: &Path, merges: &Path, config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        let class = vocab_files::class(vocab, config)?;
        let words = pre_tokenizer::find(Some(class.pre_tokenizer))?;
        let vocabulary = vocab_files::read(vocab, merges, class, config)?;
        let options = ByteLevelOptions {
            compose: class.compose,
            prefix_space: config.add_prefix_space.unwrap_or(false),
            added: &config.added_tokens,
        };
        let build = || {
            let checked = vocabulary.check()?;
            let id = |text: &str| checked.ids.get(text).copied();
            let ends = Ends::of_config(config, &checked.vocabulary, id, false)?;
            let encoder = ExactPipeline::new(pipeline::byte_level(&checked, words, &options)?)?;
            Self::assemble(Encoder::Pipeline(Box::new(encoder)), Pieces::of_byte_level(&checked), &ends)
        };
        build().map_err(|error: TokenizerError| error.in_file(vocab))
    }

    fn from_byte_level(vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        let words = pre_tokenizer::find(vocabulary.pre.as_deref())?;
        let checked = vocabulary.check()?;
        let ends = Ends::of(&checked.vocabulary, words.add_bos);
        let encoder = ExactPipeline::new(pipeline::byte_level(&checked, words, &ByteLevelOptions::default())?)?;
        Self::assemble(Encoder::Pipeline(Box::new(encoder)), Pieces::of_byte_level(&checked), &ends)
    }

    fn from_plain_text(vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        let checked = vocabulary.check()?;
        // Published files say no, but the models were trained with it.
        let ends = Ends { add_bos: true, ..Ends::of(&checked.vocabulary, true) };
        let encoder = ExactPipeline::new(pipeline::plain_text(&checked)?)?;
        Self::assemble(Encoder::Pipeline(Box::new(encoder)), Pieces::of_sentencepiece(&checked, Start::Plain), &ends)
    }

    fn from_scores(mut vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        // The ids every SentencePiece vocabulary of this kind has, for files that do not say.
        let known = |id: u32| Some(id).filter(|&id| (id as usize) < vocabulary.tokens.len());
        let defaults = (known(0), known(1), known(2));
        vocabulary.unk = vocabulary.unk.or(defaults.0);
        vocabulary.bos = vocabulary.bos.or(defaults.1);
        vocabulary.eos = vocabulary.eos.or(defaults.2);
        let checked = vocabulary.check()?;
        let Vocabulary { add_space_prefix, remove_extra_whitespaces, strip_right, .. } = checked.vocabulary;
        check_scores(&checked)?;
        let edges = |text: &str| Edges {
            right: strip_right && !["<unk>", "<s>", "<|endoftext|>"].contains(&text),
            ..Edges::default()
        };
        let whole = WholeTokens::with_edges(checked.parsed_whole().map(|(id, text, _)| (id, text, edges(text))));
        let prefix = if add_space_prefix.unwrap_or(true) { Prefix::EveryPart } else { Prefix::Nowhere };
        let normalizer = Normalizer {
            charsmap: Charsmap::parse(&checked.vocabulary.charsmap).map_err(TokenizerError::Build)?,
            remove_extra_whitespaces: remove_extra_whitespaces.unwrap_or(false),
            ..Normalizer::default()
        };
        let pieces = Pieces::of_sentencepiece(&checked, start(prefix, &normalizer));
        let merges = Algorithm::Merges(ScoreMerges::new(&checked, WholeTokens::default()));
        let encoder = SentencePiece::new(&checked, merges, normalizer, whole, prefix);
        Self::assemble(Encoder::SentencePiece(Box::new(encoder)), pieces, &Ends::of(&checked.vocabulary, true))
    }

    fn from_model(model: SentencePieceModel, config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        let SentencePieceModel { vocabulary, unigram, add_space_prefix, remove_extra_whitespaces, charsmap } = model;
        let checked = vocabulary.check()?;
        let prefix = match (add_space_prefix && config.add_prefix_space.unwrap_or(true), config.legacy) {
            (false, _) => Prefix::Nowhere,
            (true, Some(false)) => Prefix::TextStart,
            (true, _) => Prefix::EveryPart,
        };
        let of_kind = |kinds: &'static [TokenType]| {
            checked.parsed_whole().filter(|(.., kind)| kinds.contains(kind)).map(|(id, text, _)| (id, text))
        };
        let user_defined = WholeTokens::new(of_kind(&[TokenType::UserDefined]));
        let algorithm = if unigram {
            Algorithm::Unigram(Unigram::new(&checked))
        } else {
            Algorithm::Merges(ScoreMerges::new(&checked, user_defined.clone()))
        };
        let normalizer = Normalizer { charsmap, kept: user_defined, remove_extra_whitespaces };
        let mut pieces = Pieces::of_sentencepiece(&checked, start(prefix, &normalizer));
        let added = added_tokens(&checked, config)?;
        // User-defined tokens are the model's to find; control tokens are not, so that they are cut out before.
        let control = of_kind(&[TokenType::Control, TokenType::Unknown]);
        let control = control.filter(|(_, text)| added.iter().all(|(_, token)| token.content != *text));
        let control = control.map(|(id, text)| (id, text, Edges::default()));
        let whole = control.chain(added.iter().map(|(id, token)| (*id, token.content.as_str(), token.edges())));
        let whole = WholeTokens::with_edges(whole);
        let mut encoder = SentencePiece::new(&checked, algorithm, normalizer, whole, prefix);
        for (id, token) in added {
            encoder.add(&token.content, id);
            pieces.add(id, &token.content, token.special);
        }
        let ends = Ends::of_config(config, &checked.vocabulary, |text| encoder.id(text), true)?;
        Self::assemble(Encoder::SentencePiece(Box::new(encoder)), pieces, &ends)
    }

    fn assemble(encoder: Encoder, pieces: Pieces, ends: &Ends) -> Result<Self, TokenizerError> {
        let mut affixes = Affixes::default();
        affixes.set_bos(ends.add_bos, ends.bos)?;
        affixes.set_eos(ends.add_eos, ends.eos)?;
        Ok(Self::join(encoder, pieces, affixes, ends))
    }

    fn join(encoder: Encoder, pieces: Pieces, affixes: Affixes, ends: &Ends) -> Self {
        let &Ends { bos, eos, eot, eom, .. } = ends;
        Self { encoder, pieces: Arc::new(pieces), affixes, bos, eos, eot, eom }
    }
}

/// The tokens beside a vocabulary with their ids.
fn added_tokens<'c>(
    checked: &Checked,
    config: &'c TokenizerConfig,
) -> Result<Vec<(u32, &'c AddedToken)>, TokenizerError> {
    let mut added = Vec::new();
    let largest = max_id(checked.types.len() + config.added_tokens.len());
    for token in &config.added_tokens {
        // A special token that has no id anywhere is not one of this checkpoint.
        let Some(id) = token.id.or_else(|| checked.ids.get(&token.content).copied()) else { continue };
        if id > largest {
            return Err(TokenizerError::IdOutOfRange { key: "added token's id", id, vocab_size: checked.types.len() });
        }
        added.push((id, token));
    }
    Ok(added)
}

/// Scores are what merges go by.
fn check_scores(checked: &Checked) -> Result<(), TokenizerError> {
    let (expected, found) = (checked.types.len(), checked.vocabulary.scores.len());
    if expected == found { Ok(()) } else { Err(TokenizerError::Length { key: "scores", expected, found }) }
}

/// The start of a decoded text: what encoding put in front goes again.
fn start(prefix: Prefix, normalizer: &Normalizer) -> Start {
    match (normalizer.remove_extra_whitespaces, prefix) {
        (true, _) => Start::Strip { byte: b' ', count: usize::MAX },
        (false, Prefix::Nowhere) => Start::Plain,
        (false, _) => Start::Strip { byte: b' ', count: 1 },
    }
}
