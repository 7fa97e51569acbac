//! What a snippet reads, a second time: `#again WEIGHTS second` stands for copies of the slot's bindings, and of its
//! functions that read them, under names that begin with `second_`.
//!
//! For kernels that read two weights of one format: WGSL passes no storage to functions. What reads no binding is there
//! once. Knows of WGSL that functions begin with `fn` at the start of a line and end with `}` there.

use std::collections::BTreeSet;

/// The copies, of a snippet's text with all its imports.
pub(super) fn again(text: &str, prefix: &str) -> String {
    let bindings: Vec<&str> = text.lines().filter(|line| line.starts_with("@bind ")).collect();
    let functions = functions(text);
    let mut names: BTreeSet<&str> = bindings.iter().filter_map(|binding| declared(binding)).collect();
    let mut copied: Vec<bool> = vec![false; functions.len()];
    // A function that calls one that is copied is copied too.
    while let Some(next) = (0..functions.len()).find(|at| !copied[*at] && mentions(functions[*at], &names)) {
        copied[next] = true;
        names.extend(named(functions[next]));
    }
    let functions = functions.iter().zip(copied).filter(|(_, copied)| *copied).map(|(text, _)| *text);
    let parts = bindings.into_iter().chain(functions).map(|part| renamed(part, &names, prefix));
    parts.map(|part| part + "\n").collect()
}

/// Its functions, with their last line.
fn functions(text: &str) -> Vec<&str> {
    let starts = text.match_indices("fn ").map(|(at, _)| at).filter(|at| *at == 0 || text[..*at].ends_with('\n'));
    starts.filter_map(|at| text[at..].find("\n}").map(|length| &text[at..at + length + 2])).collect()
}

/// The name of a binding.
fn declared(binding: &str) -> Option<&str> {
    let (_, behind) = binding.split_once("> ")?;
    Some(behind.split_once(':')?.0)
}

/// The name of a function.
fn named(function: &str) -> Option<&str> {
    Some(function.strip_prefix("fn ")?.split_once('(')?.0)
}

/// A text in words and what is between them; a member of a structure is none.
fn words(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = text;
    let mut member = false;
    std::iter::from_fn(move || {
        let word = is_word(rest.chars().next()?);
        let end = rest.find(|c| is_word(c) != word).unwrap_or(rest.len());
        let (part, behind) = rest.split_at(end);
        let whole = word && !member;
        (rest, member) = (behind, part.ends_with('.'));
        Some((part, whole))
    })
}

fn mentions(text: &str, names: &BTreeSet<&str>) -> bool {
    words(text).any(|(part, word)| word && names.contains(part))
}

fn renamed(text: &str, names: &BTreeSet<&str>, prefix: &str) -> String {
    let name = |(part, word): (&str, bool)| match word && names.contains(part) {
        true => format!("{prefix}_{part}"),
        false => part.to_owned(),
    };
    words(text).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_and_what_reads_them_are_copied() {
        let text = "@bind var<storage, read> quants: array<u32>;  // (rows)
const CHUNK: u32 = 2u;
struct Chunk {
    quants: u32,
    scale: f32,
}
fn scale(row: u32) -> f32 {
    return unit() * f32(quants[row]);
}
fn unit() -> f32 {
    return 1.0;
}
fn load(row: u32) -> Chunk {
    return Chunk(quants[row], scale(row));
}
fn codes(c: Chunk) -> u32 {
    return c.quants;
}
";
        assert_eq!(
            again(text, "second"),
            "@bind var<storage, read> second_quants: array<u32>;  // (rows)
fn second_scale(row: u32) -> f32 {
    return unit() * f32(second_quants[row]);
}
fn second_load(row: u32) -> Chunk {
    return Chunk(second_quants[row], second_scale(row));
}
"
        );
    }
}
