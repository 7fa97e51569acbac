//! From text to text: prefill, decode, the token stream, stop conditions, conversations.
//!
//! A [`Session`] joins an executor and a tokenizer; [`TokenStream`] is one generation, [`Chat`] a conversation
//! in a [`ChatFormat`]; a [`Draft`] guesses ahead; [`Language`] is what the checkpoint says about text.
//! Nothing here knows of adapters, files or terminals. Invariant: the session's idea of what the KV cache holds
//! is the executor's, token for token (which may hold a token more that was computed ahead and never shown), also after
//! an error or a cancelled reply; so whatever is generated next prefills exactly the part that differs.

mod automata;
mod cache;
mod chat;
mod continuation;
mod defaults;
mod draft;
mod format;
mod generate;
mod lookup;
mod speculation;
mod stop;
mod stop_tokens;
mod style;
mod styles;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use chat::Chat;
pub use defaults::SamplingDefaults;
pub use draft::{Draft, DraftModel};
pub use format::ChatFormat;
pub use generate::{FinishReason, GenerateParams, Outcome, Piece, Stats, TokenStream};
pub use lookup::PromptLookup;
pub use speculation::Guesses;
pub use stop::{Matched, StopMatcher};
pub use tokenizer::Language;

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::exec::{ExecError, Executor, MemoryUse};
use crate::sampler::SampleError;
use crate::tokenizer::{Tokenizer, TokenizerError};

use cache::Cache;
use speculation::Speculation;

/// A loaded model that can be asked for text.
pub struct Session {
    cache: Cache,
    tokenizer: Tokenizer,
    /// Ids that end a text.
    end_ids: Vec<u32>,
    /// Who guesses, and how many tokens at most.
    draft: Option<(Box<dyn Draft>, usize)>,
    /// The longest context that the model was made for.
    limit: u32,
}

impl Session {
    /// A session on an executor whose KV cache is empty; `end_ids` are the checkpoint's EOS ids.
    pub fn new(executor: Box<dyn Executor>, tokenizer: Tokenizer, end_ids: Vec<u32>) -> Self {
        Self { cache: Cache::new(executor), tokenizer, end_ids, draft: None, limit: u32::MAX }
    }

    /// The session with the longest context that its model was made for: errors then advise no longer one.
    #[must_use]
    pub const fn with_limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// The session with a draft that guesses up to `tokens` ahead. Texts stay the same; where guesses are right, several
    /// tokens come from one forward.
    #[must_use]
    pub fn with_draft(mut self, draft: Box<dyn Draft>, tokens: usize) -> Self {
        self.draft = Some((draft, tokens));
        self
    }

    /// Starts a text that continues `prompt`. Nothing is computed until the stream is asked for its first piece;
    /// the part of the prompt that the KV cache already holds is not computed again.
    ///
    /// # Errors
    /// An empty prompt, one beyond the context length, or sampling parameters out of range.
    pub fn generate(&mut self, prompt: &[u32], params: &GenerateParams) -> Result<TokenStream<'_>, SessionError> {
        if prompt.is_empty() {
            return Err(SessionError::EmptyPrompt);
        }
        let context_length = self.context_length();
        if prompt.len() > context_length as usize {
            let longer = context_length < self.limit;
            return Err(SessionError::PromptTooLong { tokens: prompt.len(), context_length, longer });
        }
        let speculation = self.draft.as_mut().map(|(draft, tokens)| Speculation::new(draft.as_mut(), *tokens));
        TokenStream::new(&mut self.cache, speculation, &self.tokenizer, &self.end_ids, prompt, params)
    }

    /// The tokenizer, for encoding prompts.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Tokens the KV cache has room for.
    pub fn context_length(&self) -> u32 {
        self.cache.executor().context_length()
    }

    /// What is allocated where, the draft's included.
    pub fn memory(&self) -> Vec<MemoryUse> {
        let draft = self.draft.iter().flat_map(|(draft, _)| draft.memory());
        self.cache.executor().memory().into_iter().chain(draft).collect()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held = self.cache.held();
        f.debug_struct("Session").field("held", &held).field("end_ids", &self.end_ids).finish_non_exhaustive()
    }
}

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Nothing to continue.
    #[error("the prompt is empty, and the tokenizer has no BOS token to begin from")]
    EmptyPrompt,
    /// The prompt alone exceeds the context.
    #[error(
        "the prompt is {tokens} tokens long, but the context holds {context_length}{}",
        if *longer { "; shorten it or raise --context-length" } else { ", all that the model was made for; shorten it" }
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Room of the KV cache.
        context_length: u32,
        /// Whether the model can do with more.
        longer: bool,
    },
    /// A conversation that outgrew the context. The last message was not taken; everything before it is kept.
    #[error(
        "with this message the conversation is {tokens} tokens long, but the context holds {context_length}; /reset starts a new one"
    )]
    ConversationTooLong {
        /// Tokens of the conversation with the message.
        tokens: usize,
        /// Room of the KV cache.
        context_length: u32,
    },
    /// The tokenizer or the chat template refused.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The checkpoint's metadata is not what its keys promise.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// No token could be chosen.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The executor failed.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A file beside the weights is not what its name promises.
    #[error("{}: {problem}", file.display())]
    Companion {
        /// Where it is.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// `--template` is neither a name that is known nor a file.
    #[error(
        "no chat template or style is named {name:?}, nor is there such a file. The checkpoint's templates: \
         {templates}. Styles: {styles}"
    )]
    UnknownFormat {
        /// What was asked for.
        name: String,
        /// The checkpoint's own, by name.
        templates: String,
        /// Every other name.
        styles: String,
    },
    /// A conversation cannot begin with a system message.
    #[error("{format}: a system message is not possible: {reason}; leave it out, or choose another --template")]
    NoSystemMessage {
        /// The chat format.
        format: String,
        /// Why.
        reason: String,
    },
    /// A draft model whose token ids mean something else.
    #[error("the draft's vocabulary is not the model's: {0}; a draft needs the same tokenizer as the model")]
    DraftVocabulary(String),
    /// A checkpoint without any of the files a tokenizer can be read from.
    #[error(
        "{}: the checkpoint has no tokenizer: looked for a GGUF vocabulary, and beside the weights for tokenizer.json, \
             tokenizer.model, and vocab.json with merges.txt", checkpoint.display()
    )]
    NoTokenizer {
        /// What was opened.
        checkpoint: PathBuf,
    },
}
