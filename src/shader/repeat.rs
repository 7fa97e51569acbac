//! Lines of a kernel that stand there several times: `#for x in 0..4` up to its `#end`, with `$x` for the number.
//!
//! For values that WGSL keeps in registers only under names of their own, as cooperative matrices: drivers put arrays of
//! them into memory. Knows nothing of WGSL.

/// A text with all its repetitions written out; they may stand in one another.
///
/// # Errors
/// Words for what is wrong with a `#for` or `#end`.
pub(super) fn repeat(text: &str) -> Result<String, String> {
    let mut lines = text.lines();
    let repeated = lines_of(&mut lines, false)?;
    Ok(repeated.into_iter().flat_map(|line| [line, "\n".into()]).collect())
}

/// The lines up to the end of the text, or of what is repeated.
fn lines_of<'t>(lines: &mut impl Iterator<Item = &'t str>, inside: bool) -> Result<Vec<String>, String> {
    let mut made = Vec::new();
    while let Some(line) = lines.next() {
        match line.trim() {
            "#end" if inside => return Ok(made),
            "#end" => return Err("#end without #for".into()),
            other => match other.strip_prefix("#for ") {
                Some(range) => {
                    let (name, from, to) = parse(range).ok_or_else(|| format!("{other} is no `#for x in 0..4`"))?;
                    let body = lines_of(lines, true)?;
                    for number in (from..to).map(|number| number.to_string()) {
                        made.extend(body.iter().map(|line| line.replace(&name, &number)));
                    }
                }
                None => made.push(line.to_owned()),
            },
        }
    }
    if inside { Err("#for without #end".into()) } else { Ok(made) }
}

/// What stands for the number, and its range.
fn parse(range: &str) -> Option<(String, u32, u32)> {
    let (name, range) = range.split_once(" in ")?;
    let (from, to) = range.split_once("..")?;
    let letter = name.len() == 1 && name.chars().all(|c| c.is_ascii_lowercase());
    Some((format!("${name}"), from.parse().ok()?, to.parse().ok()?)).filter(|_| letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_repeated_with_their_numbers() {
        let text = "a\n  #for t in 0..2\n  b$t\n#for r in 2..4\nc$t$r = $r * d\n#end\n#end\ne\n";
        assert_eq!(
            repeat(text).expect("it is sound"),
            "a\n  b0\nc02 = 2 * d\nc03 = 3 * d\n  b1\nc12 = 2 * d\nc13 = 3 * d\ne\n"
        );
        assert_eq!(repeat("#for x in 3..3\na\n#end\nb\n").expect("none is sound too"), "b\n");
    }

    #[test]
    fn what_is_unsound_is_told() {
        for text in ["#end", "#for x in 0..2\na", "#for x in 0..n\n#end", "#for xy in 0..2\n#end", "#for x\n#end"] {
            assert!(repeat(text).is_err(), "{text:?}");
        }
    }
}
