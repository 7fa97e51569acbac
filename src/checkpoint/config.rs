//! A model's config: typed look-ups that name the file and the key when they fail.
//!
//! Holds `config.json`, or what GGUF metadata says in the same words; it knows no family. Invariant: every key that
//! was asked for is remembered, so that [`Config::unread`] lists what nobody understood.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use super::CheckpointError;

/// What formats write differently for the same model: the order of rows and axes, what norm weights count from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowConventions {
    /// Rows of a fused q, k, v weight.
    pub qkv: QkvRows,
    /// Rows of q and k heads.
    pub rope: RopeRows,
    /// Norm weights that are stored as their distance from one.
    pub norms: NormOffset,
    /// Axes of GPT-2's linear weights.
    pub conv1d: Conv1dAxes,
}

/// Rows of a fused q, k, v weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QkvRows {
    /// As Hugging Face has it: q, k, v of one head (or one group of heads), then of the next.
    #[default]
    PerHead,
    /// As GGUF has it: q of all heads, then k, then v.
    Blocked,
}

/// What the weights of norms that compute `x · (1 + weight)` (Gemma's) count from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NormOffset {
    /// As Hugging Face has it: the one is not in the weight.
    #[default]
    Apart,
    /// As GGUF has it: it is.
    Included,
}

/// Axes of the weights that GPT-2 calls one-dimensional convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conv1dAxes {
    /// As Hugging Face has them: a row an input.
    #[default]
    InOut,
    /// As GGUF has them: a row an output, like every other linear weight.
    OutIn,
}

/// Which rows of a q or k head RoPE rotates together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RopeRows {
    /// Row `i` with row `i + rotary_dim / 2`, as Hugging Face stores NeoX and Llama.
    #[default]
    HalfSplit,
    /// Row `2i` with row `2i + 1`, as GGUF stores Llama.
    Interleaved,
}

/// A config, or a section of one; cheap to clone.
#[derive(Debug, Clone)]
pub struct Config {
    /// Row orders of the checkpoint this config came with.
    pub rows: RowConventions,
    shared: Arc<Shared>,
    /// Keys from the root to this section.
    path: Vec<String>,
}

#[derive(Debug)]
struct Shared {
    file: String,
    root: Map<String, Value>,
    read: Mutex<BTreeSet<String>>,
}

/// A typed look-up's answer.
type Found<T> = Result<T, CheckpointError>;

impl Config {
    /// The config in a JSON text; `file` is what errors call it.
    ///
    /// # Errors
    /// Text that is not one JSON object.
    pub fn parse(file: impl Into<String>, json: &[u8], rows: RowConventions) -> Found<Self> {
        let file = file.into();
        let malformed = |reason| CheckpointError::Malformed { file: (&file).into(), reason };
        match serde_json::from_slice(json) {
            Ok(Value::Object(root)) => Ok(Self::new(file, root, rows)),
            Ok(other) => Err(malformed(format!("expected a JSON object, found {}", excerpt(&other)))),
            Err(error) => Err(malformed(format!("not valid JSON: {error}"))),
        }
    }

    pub(super) fn new(file: String, root: Map<String, Value>, rows: RowConventions) -> Self {
        let shared = Shared { file, root, read: Mutex::default() };
        Self { rows, shared: Arc::new(shared), path: Vec::new() }
    }

    /// What errors call the file.
    pub fn file(&self) -> &str {
        &self.shared.file
    }

    /// The model family's name, `model_type`.
    ///
    /// # Errors
    /// Missing, or not a string.
    pub fn architecture(&self) -> Found<&str> {
        self.str("model_type")
    }

    /// Whether the key is there and not null.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The section under `key`, if there is one.
    ///
    /// # Errors
    /// Something that is not an object.
    pub fn section(&self, key: &str) -> Found<Option<Self>> {
        let section = self.typed(key, "an object", Value::as_object)?;
        Ok(section.is_some().then(|| {
            let path = self.path.iter().cloned().chain([key.to_owned()]).collect();
            Self { rows: self.rows, shared: Arc::clone(&self.shared), path }
        }))
    }

    /// The same config, with a memory of its own for what was asked for.
    pub fn unobserved(&self) -> Self {
        let shared = Shared { file: self.shared.file.clone(), root: self.shared.root.clone(), read: Mutex::default() };
        Self { rows: self.rows, shared: Arc::new(shared), path: self.path.clone() }
    }

    /// Declares that these keys, with all below them, have no bearing on the maths.
    pub fn ignore(&self, keys: &[&str]) {
        for key in keys {
            self.remember(self.full_name(key) + ".*");
        }
    }

    /// Keys of the whole config that were neither asked for nor ignored, in dotted form; not those that are null or
    /// false.
    pub fn unread(&self) -> Vec<String> {
        let read = self.shared.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unread = Vec::new();
        collect_unread(&self.shared.root, "", &read, &mut unread);
        unread
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.remember(self.full_name(key));
        let mut section = &self.shared.root;
        for part in &self.path {
            section = section.get(part)?.as_object()?;
        }
        section.get(key).filter(|value| !value.is_null())
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Found<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| CheckpointError::WrongType {
            file: self.shared.file.clone(),
            key: self.full_name(key),
            expected,
            found: excerpt(value),
        })
    }

    fn required<T>(&self, keys: &[&str], value: Option<T>) -> Found<T> {
        value.ok_or_else(|| CheckpointError::MissingKey {
            file: self.shared.file.clone(),
            key: keys.iter().map(|key| self.full_name(key)).collect::<Vec<_>>().join("\" or \""),
        })
    }

    fn remember(&self, name: String) {
        self.shared.read.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
    }

    pub(super) fn full_name(&self, key: &str) -> String {
        let mut name: String = self.path.iter().flat_map(|part| [part.as_str(), "."]).collect();
        name.push_str(key);
        name
    }
}

/// The look-ups. `opt_…`: absent and null are `None`; plain: absent is an error; `…_or`: absent is the default;
/// `any_…`: the first of several names that is there. A value of another type is always an error.
#[expect(clippy::missing_errors_doc, reason = "said once above: absent where needed, or of another type")]
impl Config {
    /// An integer, if there is one.
    pub fn opt_u32(&self, key: &str) -> Found<Option<u32>> {
        self.typed(key, "an integer from 0 to 4294967295", to_u32)
    }

    /// A number, if there is one.
    pub fn opt_f32(&self, key: &str) -> Found<Option<f32>> {
        self.typed(key, "a number", to_f32)
    }

    /// A flag, if there is one.
    pub fn opt_bool(&self, key: &str) -> Found<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A string, if there is one.
    pub fn opt_str(&self, key: &str) -> Found<Option<&str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// An integer.
    pub fn u32(&self, key: &str) -> Found<u32> {
        self.required(&[key], self.opt_u32(key)?)
    }

    /// A number.
    pub fn f32(&self, key: &str) -> Found<f32> {
        self.required(&[key], self.opt_f32(key)?)
    }

    /// A flag.
    pub fn bool(&self, key: &str) -> Found<bool> {
        self.required(&[key], self.opt_bool(key)?)
    }

    /// A string.
    pub fn str(&self, key: &str) -> Found<&str> {
        self.required(&[key], self.opt_str(key)?)
    }

    /// An integer, or the default.
    pub fn u32_or(&self, key: &str, default: u32) -> Found<u32> {
        Ok(self.opt_u32(key)?.unwrap_or(default))
    }

    /// A number, or the default.
    pub fn f32_or(&self, key: &str, default: f32) -> Found<f32> {
        Ok(self.opt_f32(key)?.unwrap_or(default))
    }

    /// A flag, or the default.
    pub fn bool_or(&self, key: &str, default: bool) -> Found<bool> {
        Ok(self.opt_bool(key)?.unwrap_or(default))
    }

    /// A string, or the default.
    pub fn str_or<'a>(&'a self, key: &str, default: &'a str) -> Found<&'a str> {
        Ok(self.opt_str(key)?.unwrap_or(default))
    }

    /// An integer under the first of these names that is there.
    pub fn opt_any_u32(&self, keys: &[&str]) -> Found<Option<u32>> {
        first_of(keys, |key| self.opt_u32(key))
    }

    /// A string under the first of these names that is there.
    pub fn opt_any_str(&self, keys: &[&str]) -> Found<Option<&str>> {
        first_of(keys, |key| self.opt_str(key))
    }

    /// A number under the first of these names that is there.
    pub fn opt_any_f32(&self, keys: &[&str]) -> Found<Option<f32>> {
        first_of(keys, |key| self.opt_f32(key))
    }

    /// An integer under the first of these names that is there; one must be.
    pub fn any_u32(&self, keys: &[&str]) -> Found<u32> {
        self.required(keys, self.opt_any_u32(keys)?)
    }

    /// A number under the first of these names that is there; one must be.
    pub fn any_f32(&self, keys: &[&str]) -> Found<f32> {
        self.required(keys, self.opt_any_f32(keys)?)
    }

    /// A list of integers, if there is one; an integer by itself counts (`eos_token_id` comes both ways).
    pub fn u32s(&self, key: &str) -> Found<Option<Vec<u32>>> {
        self.typed(key, "an integer or a list of them", |value| match value {
            Value::Array(values) => values.iter().map(to_u32).collect(),
            value => to_u32(value).map(|value| vec![value]),
        })
    }

    /// A list of numbers, if there is one.
    pub fn f32s(&self, key: &str) -> Found<Option<Vec<f32>>> {
        self.typed(key, "a list of numbers", |value| value.as_array()?.iter().map(to_f32).collect())
    }

    /// A list of strings, if there is one.
    pub fn strs(&self, key: &str) -> Found<Option<Vec<&str>>> {
        self.typed(key, "a list of strings", |value| value.as_array()?.iter().map(Value::as_str).collect())
    }
}

fn to_u32(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn to_f32(value: &Value) -> Option<f32> {
    Some(value.as_f64()? as f32).filter(|value| value.is_finite())
}

fn first_of<T>(keys: &[&str], look_up: impl Fn(&str) -> Found<Option<T>>) -> Found<Option<T>> {
    // Asks for all, so that a config with two spellings of one thing has none left unread.
    let found: Vec<Option<T>> = keys.iter().map(|key| look_up(key)).collect::<Result<_, _>>()?;
    Ok(found.into_iter().flatten().next())
}

fn collect_unread(section: &Map<String, Value>, path: &str, read: &BTreeSet<String>, unread: &mut Vec<String>) {
    for (key, value) in section {
        let name = format!("{path}{key}");
        // Null is as good as absent, and what is not switched on changes nothing; but of GGUF's own keys, which have
        // dots, false may be the unusual value (`attention.causal`).
        let off = *value == Value::Bool(false) && !key.contains('.');
        if value.is_null() || off || read.contains(&format!("{name}.*")) {
            continue;
        }
        match value {
            _ if !read.contains(&name) => unread.push(name),
            Value::Object(section) => collect_unread(section, &format!("{name}."), read, unread),
            _ => {}
        }
    }
}

/// Characters of a value in a message.
const EXCERPT: usize = 60;

/// The value as JSON, short enough for a message, however long it is.
fn excerpt(value: &Value) -> String {
    let mut excerpt = Excerpt { text: String::new(), left: EXCERPT };
    // It fails only to end the writing early.
    match write!(excerpt, "{value}") {
        Ok(()) => excerpt.text,
        Err(fmt::Error) => excerpt.text + "…",
    }
}

/// Takes a text's first characters and refuses more.
struct Excerpt {
    text: String,
    left: usize,
}

impl Write for Excerpt {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = text.char_indices().nth(self.left).map_or(text.len(), |(end, _)| end);
        self.text.push_str(&text[..end]);
        self.left -= text[..end].chars().count();
        if end < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}
