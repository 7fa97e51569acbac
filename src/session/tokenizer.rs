//! stub of the glue
use crate::checkpoint::Checkpoint;
use crate::session::SessionError;
use crate::tokenizer::{ChatTemplate, Tokenizer};

/// What a checkpoint says about text.
#[derive(Debug)]
pub struct Language {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// How messages become a prompt, where the checkpoint says.
    pub chat_template: Option<ChatTemplate>,
    /// Ids that end a text.
    pub end_ids: Vec<u32>,
}
