//! Flat tokens: what the bracket scan and the messages look at. Never fails.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// `// …` up to the end of the line.
    Comment,
    /// `"…"`; not closed on its line when `false`.
    Text(bool),
    /// A letter or `_`, then letters, digits and `_`.
    Word,
    /// Whatever begins with a digit.
    Number,
    /// `(`, `[` or `{`.
    Open,
    /// `)`, `]` or `}`.
    Close,
    /// Any other character of the language; `->`, `==` and the like are one token.
    Punctuation,
    /// A character that the language has no use for.
    Foreign,
}

/// One token as byte offsets of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Splits a text into tokens, comments included.
pub(super) struct Lexer<'a> {
    text: &'a str,
    position: usize,
}

impl<'a> Lexer<'a> {
    /// Begins at a byte that starts a token or white space.
    pub(super) fn at(text: &'a str, position: usize) -> Self {
        Self { text, position }
    }

    fn run(&self, from: usize, accept: impl Fn(u8) -> bool) -> usize {
        let rest = self.text.as_bytes().get(from..).unwrap_or(&[]);
        from + rest.iter().take_while(|byte| accept(**byte)).count()
    }

    fn text_end(&self, start: usize) -> (usize, bool) {
        let bytes = self.text.as_bytes();
        let mut at = start + 1;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => return (at + 1, true),
                b'\n' => break,
                b'\\' if bytes.get(at + 1).is_some_and(|next| *next != b'\n') => at += 2,
                _ => at += 1,
            }
        }
        (at.min(bytes.len()), false)
    }

    fn number_end(&self, start: usize) -> usize {
        let bytes = self.text.as_bytes();
        let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        let mut at = start;
        loop {
            at = self.run(at, is_word_byte);
            let exponent = at > start && matches!(bytes.get(at - 1), Some(b'e' | b'E'));
            match bytes.get(at) {
                Some(b'.') if digit(at + 1) => at += 1,
                Some(b'+' | b'-') if exponent && digit(at + 1) => at += 1,
                _ => return at,
            }
        }
    }

    fn other(&self, start: usize, first: u8) -> (TokenKind, usize) {
        let two = self.text.as_bytes().get(start..start + 2);
        match first {
            b'(' | b'[' | b'{' => (TokenKind::Open, start + 1),
            b')' | b']' | b'}' => (TokenKind::Close, start + 1),
            _ if matches!(two, Some(b"->" | b"==" | b"!=" | b"<=" | b">=" | b"..")) => {
                (TokenKind::Punctuation, start + 2)
            }
            b'=' | b',' | b'.' | b':' | b'<' | b'>' | b'+' | b'-' | b'*' | b'/' | b'%' => {
                (TokenKind::Punctuation, start + 1)
            }
            _ => {
                let length = self.text.get(start..).and_then(|rest| rest.chars().next());
                (TokenKind::Foreign, start + length.map_or(1, char::len_utf8))
            }
        }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let start = self.run(self.position, is_space);
        let bytes = self.text.as_bytes();
        let first = *bytes.get(start)?;
        let (kind, end) = match first {
            b'/' if bytes.get(start + 1) == Some(&b'/') => {
                (TokenKind::Comment, self.run(start, |byte| byte != b'\n'))
            }
            b'"' => {
                let (end, closed) = self.text_end(start);
                (TokenKind::Text(closed), end)
            }
            b'0'..=b'9' => (TokenKind::Number, self.number_end(start)),
            _ if is_word_byte(first) => (TokenKind::Word, self.run(start, is_word_byte)),
            _ => self.other(start, first),
        };
        self.position = end;
        Some(Token { kind, start, end })
    }
}

/// White space of the language.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        Lexer::at(text, 0)
            .map(|token| &text[token.start..token.end])
            .collect()
    }

    #[test]
    fn splits_ranges_exponents_and_arrows() {
        assert_eq!(words("0..4"), ["0", "..", "4"]);
        assert_eq!(words("1e-3-x"), ["1e-3", "-", "x"]);
        assert_eq!(words("a->-b"), ["a", "->", "-", "b"]);
        assert_eq!(words("\"a\\\"b\" // c"), ["\"a\\\"b\"", "// c"]);
    }

    #[test]
    fn keeps_characters_whole() {
        assert_eq!(words("a → “b”"), ["a", "→", "“", "b", "”"]);
        assert_eq!(words("\"é\\ñ\""), ["\"é\\ñ\""]);
    }
}
