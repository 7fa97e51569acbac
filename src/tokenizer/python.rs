//! Three things chat templates expect to look as Python writes them: JSON, dates, and the clock.
//!
//! Does not know templates. Dates are UTC: the standard library knows no time zones. Invariant: JSON is
//! `json.dumps`, character for character.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

const SECONDS_PER_DAY: u64 = 86_400;
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Arguments of `json.dumps`.
#[derive(Debug)]
pub(super) struct JsonStyle {
    /// Spaces a level; `None` writes one line.
    indent: Option<usize>,
    /// Between items.
    pub(super) item: String,
    /// After a key.
    pub(super) key: String,
    /// Escapes what is not ASCII.
    pub(super) ascii: bool,
    /// Orders objects by key.
    pub(super) sort_keys: bool,
}

impl JsonStyle {
    /// Python's defaults, except that letters stay letters.
    pub(super) fn new(indent: Option<usize>) -> Self {
        let item = if indent.is_some() { "," } else { ", " };
        Self { indent, item: item.to_owned(), key: ": ".to_owned(), ascii: false, sort_keys: false }
    }
}

/// JSON nested more deeply is refused: writing it takes the stack of this many calls.
const MAX_DEPTH: usize = 128;

/// Is told how many bytes were written since it was last told, and may refuse more.
pub(super) type Meter<'m> = &'m dyn Fn(u64) -> Result<(), Error>;

/// A value as JSON.
pub(super) fn to_json(value: &Value, style: &JsonStyle, meter: Meter<'_>) -> Result<String, Error> {
    let mut output = Metered { text: String::new(), told: 0, meter };
    write_json(value, style, 0, &mut output)?;
    Ok(output.text)
}

/// JSON so far.
struct Metered<'m> {
    text: String,
    /// Length of what the meter knows of.
    told: usize,
    meter: Meter<'m>,
}

impl Metered<'_> {
    fn tell(&mut self) -> Result<(), Error> {
        let bytes = self.text.len() - self.told;
        self.told = self.text.len();
        (self.meter)(bytes as u64)
    }
}

fn refuse(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {problem}"))
}

fn write_json(value: &Value, style: &JsonStyle, level: usize, metered: &mut Metered<'_>) -> Result<(), Error> {
    metered.tell()?;
    if level >= MAX_DEPTH {
        return Err(refuse(&format!("a value of more than {MAX_DEPTH} levels")));
    }
    let output = &mut metered.text;
    match value.kind() {
        ValueKind::None => output.push_str("null"),
        ValueKind::Bool => output.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => output.push_str(&number(value)),
        ValueKind::String => write_text(value.as_str().unwrap_or_default(), style, output),
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            write_items(('{', '}'), keys.iter(), style, level, metered, |key, metered| {
                write_key(key, style, &mut metered.text)?;
                metered.text.push_str(&style.key);
                write_json(&value.get_item(key)?, style, level + 1, metered)
            })?;
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_items(('[', ']'), items.iter(), style, level, metered, |item, metered| {
                write_json(item, style, level + 1, metered)
            })?;
        }
        other => return Err(refuse(&format!("a value of type {other} is not JSON"))),
    }
    Ok(())
}

/// Python writes keys that are no texts as texts, but for lists and the like.
fn write_key(key: &Value, style: &JsonStyle, output: &mut String) -> Result<(), Error> {
    match key.kind() {
        ValueKind::String => write_text(key.as_str().unwrap_or_default(), style, output),
        ValueKind::None => write_text("null", style, output),
        ValueKind::Bool => write_text(if key.is_true() { "true" } else { "false" }, style, output),
        ValueKind::Number => write_text(&number(key), style, output),
        other => return Err(refuse(&format!("a key of type {other} is not JSON"))),
    }
    Ok(())
}

/// Python writes a float with an exponent from 1e16 on and below 1e-4, the exponent in two digits at least.
fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() && float != 0.0 && !(1e-4..1e16).contains(&float.abs()) => {
            let text = format!("{float:e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        _ => value.to_string(),
    }
}

fn write_items<'v>(
    (open, close): (char, char),
    items: impl ExactSizeIterator<Item = &'v Value>,
    style: &JsonStyle,
    level: usize,
    metered: &mut Metered<'_>,
    mut write: impl FnMut(&Value, &mut Metered<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let new_line = |level: usize, output: &mut String| {
        if let Some(indent) = style.indent {
            output.push('\n');
            output.extend(std::iter::repeat_n(' ', indent * level));
        }
    };
    let is_empty = items.len() == 0;
    metered.text.push(open);
    for (index, item) in items.enumerate() {
        if index > 0 {
            metered.text.push_str(&style.item);
        }
        new_line(level + 1, &mut metered.text);
        write(item, metered)?;
    }
    if !is_empty {
        new_line(level, &mut metered.text);
    }
    metered.text.push(close);
    Ok(())
}

fn write_text(text: &str, style: &JsonStyle, output: &mut String) {
    output.push('"');
    for character in text.chars() {
        match character {
            '"' => output.push_str("\\\""),
            '\\' => output.push_str("\\\\"),
            '\n' => output.push_str("\\n"),
            '\r' => output.push_str("\\r"),
            '\t' => output.push_str("\\t"),
            '\u{8}' => output.push_str("\\b"),
            '\u{C}' => output.push_str("\\f"),
            _ if character < ' ' || (style.ascii && !character.is_ascii()) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    push_formatted(output, format_args!("\\u{unit:04x}"));
                }
            }
            _ => output.push(character),
        }
    }
    output.push('"');
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A moment as `strftime` writes it; unknown directives stay as they are, as in C.
pub(super) fn strftime(seconds: u64, format: &str) -> String {
    let (days, second) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    let (year, month, day, day_of_year) = date(days);
    let weekday = WEEKDAYS[((days + 4) % 7) as usize]; // 1970 began on a Thursday.
    let month_name = MONTHS[month];
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let hour_12 = (hour + 11) % 12 + 1;
    let mut output = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        let directive = if character == '%' { characters.next() } else { None };
        match directive {
            Some('Y') => push_formatted(&mut output, format_args!("{year}")),
            Some('y') => push_formatted(&mut output, format_args!("{:02}", year % 100)),
            Some('m') => push_formatted(&mut output, format_args!("{:02}", month + 1)),
            Some('B') => output.push_str(month_name),
            Some('b') => output.push_str(&month_name[..3]),
            Some('d') => push_formatted(&mut output, format_args!("{day:02}")),
            Some('e') => push_formatted(&mut output, format_args!("{day:2}")),
            Some('j') => push_formatted(&mut output, format_args!("{day_of_year:03}")),
            Some('A') => output.push_str(weekday),
            Some('a') => output.push_str(&weekday[..3]),
            Some('H') => push_formatted(&mut output, format_args!("{hour:02}")),
            Some('I') => push_formatted(&mut output, format_args!("{hour_12:02}")),
            Some('M') => push_formatted(&mut output, format_args!("{minute:02}")),
            Some('S') => push_formatted(&mut output, format_args!("{:02}", second % 60)),
            Some('p') => output.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('%') => output.push('%'),
            Some(other) => output.extend(['%', other]),
            None => output.push(character),
        }
    }
    output
}

/// Year, month from 0, day from 1 and day of the year from 1, of a day counted from 1970-01-01.
fn date(mut days: u64) -> (u64, usize, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    loop {
        let length = 365 + u64::from(is_leap(year));
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let day_of_year = days + 1;
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30];
    let mut month = 0;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1, day_of_year)
}

fn push_formatted(output: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = output.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(strftime(0, "%A %d %B %Y %H:%M:%S"), "Thursday 01 January 1970 00:00:00", "the first second");
        assert_eq!(
            strftime(951_782_400, "%d %b %Y, day %j, %a %I %p"),
            "29 Feb 2000, day 060, Tue 12 AM",
            "a leap day"
        );
        assert_eq!(
            strftime(1_735_689_599, "%y-%m-%e %I%%%p %q%"),
            "24-12-31 11%PM %q%",
            "the last second of a leap year"
        );
    }
}
