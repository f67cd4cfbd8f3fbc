//! The meaning of numbers and texts as written.

use super::words::quoted;
use crate::ast::Number;
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::Span;

/// Whole numbers up to this are exact.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;
const UNITS: &[&str] = &["KB", "MB", "GB", "KiB", "MiB", "GiB"];

/// Reads a number; a broken one counts as zero so that reading goes on.
pub(super) fn number(
    text: &str,
    unit: Option<String>,
    span: Span,
    diagnostics: &mut Vec<Diagnostic>,
) -> Number {
    let is_integer = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'_');
    let value = match value(text, is_integer, span) {
        Ok(value) => value,
        Err(error) => {
            diagnostics.push(*error);
            0.0
        }
    };
    Number {
        text: text.to_owned(),
        value,
        is_integer,
        unit,
    }
}

fn value(text: &str, is_integer: bool, span: Span) -> Result<f64, Box<Diagnostic>> {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| {
        at.and_then(|at| bytes.get(at))
            .is_some_and(u8::is_ascii_digit)
    };
    let stray = |at: usize| bytes[at] == b'_' && !(digit(at.checked_sub(1)) && digit(Some(at + 1)));
    let malformed = |help: String| {
        let headline = format!("{} is not a number", quoted(text));
        let error = Diagnostic::error(codes::BAD_NUMBER, headline).at(span, "not well formed");
        Err(Box::new(error.help(help)))
    };
    if (0..bytes.len()).any(stray) {
        return malformed("write `_` only between two digits, as in `20_000`".to_owned());
    }
    let plain = text.replace('_', "");
    let Ok(value) = plain.parse::<f64>() else {
        let unit = UNITS
            .iter()
            .find_map(|unit| Some((text.strip_suffix(unit)?, unit)));
        return malformed(match unit {
            Some((digits, unit)) => format!("write `{digits} {unit}`"),
            None => "numbers look like `8`, `20_000`, `0.5` or `1e-3`".to_owned(),
        });
    };
    if value.is_infinite() || is_integer && value > LARGEST_EXACT {
        let headline = format!("{} is too large", quoted(text));
        let error = Diagnostic::error(codes::NUMBER_RANGE, headline).at(span, "out of range");
        return Err(Box::new(error.note(if is_integer {
            "whole numbers are exact up to 9_007_199_254_740_992"
        } else {
            "numbers reach about 1.8e308"
        })));
    }
    Ok(value)
}

/// The characters a text stands for; `written` includes the quotes.
pub(super) fn text(written: &str, span: Span, diagnostics: &mut Vec<Diagnostic>) -> String {
    let inner = written
        .get(1..written.len().saturating_sub(1))
        .unwrap_or("");
    let mut value = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        value.push_str(&rest[..at]);
        let (character, length) = escape(&rest[at..]);
        match character {
            Some(character) => value.push(character),
            None => {
                let sequence = &rest[at..at + length];
                let start = span.start as usize + 1 + (inner.len() - rest.len()) + at;
                let place = Span::new(span.file, start, start + length);
                let headline = format!("{} is not an escape", quoted(sequence));
                diagnostics.push(
                    Diagnostic::error(codes::BAD_ESCAPE, headline)
                        .at(place, "unknown")
                        .help("write `\\\\` for a backslash; the others are `\\\"`, `\\n`, `\\r`, `\\t` and `\\u{…}`"),
                );
            }
        }
        rest = &rest[at + length..];
    }
    value.push_str(rest);
    value
}

/// The character of the escape `rest` begins with, and the escape's length in bytes.
fn escape(rest: &str) -> (Option<char>, usize) {
    let Some(kind) = rest[1..].chars().next() else {
        return (None, rest.len());
    };
    let plain = |character| (Some(character), 2);
    match kind {
        'n' => plain('\n'),
        'r' => plain('\r'),
        't' => plain('\t'),
        '"' => plain('"'),
        '\\' => plain('\\'),
        'u' if rest[2..].starts_with('{') => match rest.find('}') {
            Some(end) => {
                let code = u32::from_str_radix(&rest[3..end], 16).ok();
                (code.and_then(char::from_u32), end + 1)
            }
            None => (None, 3),
        },
        _ => (None, 1 + kind.len_utf8()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (f64, usize) {
        let mut diagnostics = Vec::new();
        let number = number(text, None, Span::default(), &mut diagnostics);
        (number.value, diagnostics.len())
    }

    #[test]
    fn numbers_mean_what_they_say() {
        assert_eq!(read("20_000"), (20_000.0, 0));
        assert_eq!(read("1e-3"), (1e-3, 0));
        assert_eq!(read("9_007_199_254_740_992"), (9_007_199_254_740_992.0, 0));
        for broken in [
            "20__000",
            "1_",
            "3x",
            "1e",
            "6GB",
            "1e999",
            "9_007_199_254_740_994",
            "1._5",
        ] {
            assert_eq!(read(broken), (0.0, 1), "{broken}");
        }
    }

    #[test]
    fn escapes_are_read_and_the_unknown_reported_in_place() {
        let mut diagnostics = Vec::new();
        let read = text(r#""a\"b\\\n\u{e9}\q""#, Span::default(), &mut diagnostics);
        assert_eq!(read, "a\"b\\\né");
        assert_eq!(diagnostics.len(), 1);
        let place = diagnostics[0].primary.as_ref().unwrap().span;
        assert_eq!((place.start, place.end), (15, 17));
    }
}
