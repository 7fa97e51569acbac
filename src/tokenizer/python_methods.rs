//! Python's string methods that chat templates call and the engine's own list lacks.
//!
//! Everything else is minijinja's `pycompat`. Does not change values: Python's strings do not either. Invariant: a
//! method that neither list has is the engine's error, with the method's name.

use minijinja::value::{Value, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

/// Calls `method` of `value`.
pub(super) fn call(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match value.as_str().map(|text| of_string(text, method, args)) {
        Some(Ok(Some(found))) => Ok(found),
        Some(Err(error)) => Err(error),
        Some(Ok(None)) | None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// `None` for a method of the other list.
fn of_string(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "partition" => {
            let separator = separator(args)?;
            let (before, after) = text.split_once(separator).unwrap_or((text, ""));
            list([before, &text[before.len()..text.len() - after.len()], after])
        }
        "rpartition" => {
            let separator = separator(args)?;
            let (before, after) = text.rsplit_once(separator).unwrap_or(("", text));
            list([before, &text[before.len()..text.len() - after.len()], after])
        }
        "rsplit" => {
            let (separator, limit): (Option<&str>, Option<i64>) = from_args(args)?;
            list(rsplit(text, separator, limit)?)
        }
        _ => return Ok(None),
    }))
}

fn separator(args: &[Value]) -> Result<&str, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() { Err(empty_separator()) } else { Ok(separator) }
}

fn rsplit<'t>(text: &'t str, separator: Option<&str>, limit: Option<i64>) -> Result<Vec<&'t str>, Error> {
    // a negative number of splits is no limit
    let pieces = limit.and_then(|limit| usize::try_from(limit).ok()).map_or(usize::MAX, |limit| limit + 1);
    let mut parts: Vec<&str> = match separator {
        Some("") => return Err(empty_separator()),
        Some(separator) => text.rsplitn(pieces, separator).collect(),
        None => words_from_the_end(text, pieces),
    };
    parts.reverse();
    Ok(parts)
}

/// Without a separator Python splits at runs of white space. What is left when the limit is reached keeps the white
/// space in front of it.
fn words_from_the_end(text: &str, pieces: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text.trim_end());
    while parts.len() + 1 < pieces
        && let Some((before, word)) = rest.rsplit_once(char::is_whitespace)
    {
        parts.push(word);
        rest = before.trim_end();
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

fn list<'t>(texts: impl IntoIterator<Item = &'t str>) -> Value {
    texts.into_iter().map(Value::from).collect()
}

fn empty_separator() -> Error {
    Error::new(ErrorKind::InvalidOperation, "empty separator")
}
