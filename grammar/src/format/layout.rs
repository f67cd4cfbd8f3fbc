//! Documents that know where they may break, and the printer that fits them to a width.

/// A piece of output.
#[derive(Debug)]
pub(super) enum Doc {
    Text(String),
    /// `flat` in a group that fits; a line break in one that does not, after a blank line if asked.
    Line {
        flat: &'static str,
        blank: bool,
    },
    /// Written at the end of the current line; breaks the groups around it.
    Suffix(String),
    /// Breaks the groups around it.
    Break,
    /// Written only in a broken group.
    IfBroken(&'static str),
    Concat(Vec<Doc>),
    Indent(Vec<Doc>),
    /// All lines directly inside break, or none does.
    Group {
        broken: bool,
        docs: Vec<Doc>,
    },
}

/// A text.
pub(super) fn text(text: impl Into<String>) -> Doc {
    Doc::Text(text.into())
}

/// A line break, or `flat` where the group fits.
pub(super) fn line(flat: &'static str) -> Doc {
    Doc::Line { flat, blank: false }
}

/// A group; broken from the start when something inside must break.
pub(super) fn group(docs: Vec<Doc>) -> Doc {
    let broken = docs.iter().any(must_break);
    Doc::Group { broken, docs }
}

fn must_break(doc: &Doc) -> bool {
    match doc {
        Doc::Suffix(_) | Doc::Break => true,
        Doc::Group { broken, .. } => *broken,
        Doc::Concat(docs) | Doc::Indent(docs) => docs.iter().any(must_break),
        Doc::Text(_) | Doc::Line { .. } | Doc::IfBroken(_) => false,
    }
}

#[derive(Clone, Copy)]
struct Place<'a> {
    indent: usize,
    broken: bool,
    doc: &'a Doc,
}

/// Prints within `width` characters where the breaks allow it; ends with a newline.
pub(super) fn print(docs: &[Doc], width: usize) -> String {
    let mut printer = Printer {
        out: String::new(),
        column: 0,
        width,
        suffix: String::new(),
        stack: Vec::new(),
    };
    printer.push(0, true, docs);
    while let Some(place) = printer.stack.pop() {
        printer.step(place);
    }
    printer.newline(0, false);
    printer.out
}

struct Printer<'a> {
    out: String,
    column: usize,
    width: usize,
    suffix: String,
    stack: Vec<Place<'a>>,
}

impl<'a> Printer<'a> {
    fn push(&mut self, indent: usize, broken: bool, docs: &'a [Doc]) {
        let places = docs.iter().rev().map(|doc| Place {
            indent,
            broken,
            doc,
        });
        self.stack.extend(places);
    }

    fn step(&mut self, place: Place<'a>) {
        let Place {
            indent,
            broken,
            doc,
        } = place;
        match doc {
            Doc::Text(text) => self.write(text),
            Doc::Line { blank, .. } if broken => self.newline(indent, *blank),
            Doc::Line { flat, .. } => self.write(flat),
            Doc::Suffix(suffix) => self.suffix.push_str(suffix),
            Doc::IfBroken(text) if broken => self.write(text),
            Doc::Break | Doc::IfBroken(_) => {}
            Doc::Concat(docs) => self.push(indent, broken, docs),
            Doc::Indent(docs) => self.push(indent + 4, broken, docs),
            Doc::Group {
                broken: forced,
                docs,
            } => {
                let broken = *forced || !self.fits(docs);
                self.push(indent, broken, docs);
            }
        }
    }

    fn write(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    fn newline(&mut self, indent: usize, blank: bool) {
        let suffix = std::mem::take(&mut self.suffix);
        self.out.push_str(&suffix);
        let end = self.out.trim_end_matches(' ').len();
        self.out.truncate(end);
        self.out.push_str(if blank { "\n\n" } else { "\n" });
        self.out.push_str(&" ".repeat(indent));
        self.column = indent;
    }

    /// Whether `docs` written flat, and what follows up to the next possible break, fit the line.
    fn fits(&self, docs: &'a [Doc]) -> bool {
        let mut left = self.width.saturating_sub(self.column);
        let mut todo: Vec<(bool, &Doc)> = docs.iter().rev().map(|doc| (false, doc)).collect();
        let mut rest = self.stack.iter().rev();
        loop {
            let (broken, doc) = match todo.pop() {
                Some(next) => next,
                None => match rest.next() {
                    Some(place) => (place.broken, place.doc),
                    None => return true,
                },
            };
            let words = match doc {
                Doc::Line { .. } if broken => return true,
                Doc::Line { flat, .. } => flat,
                Doc::Text(text) => text.as_str(),
                Doc::IfBroken(text) if broken => text,
                Doc::Suffix(_) | Doc::Break | Doc::IfBroken(_) => "",
                Doc::Concat(docs) | Doc::Indent(docs) | Doc::Group { docs, .. } => {
                    todo.extend(docs.iter().rev().map(|doc| (broken, doc)));
                    ""
                }
            };
            match left.checked_sub(words.chars().count()) {
                Some(remaining) => left = remaining,
                None => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Doc {
        let inner = vec![
            line(""),
            text("aaaa,"),
            line(" "),
            text("bbbb"),
            Doc::IfBroken(","),
        ];
        group(vec![text("f("), Doc::Indent(inner), line(""), text(")")])
    }

    #[test]
    fn a_group_breaks_only_when_it_does_not_fit() {
        assert_eq!(print(&[call()], 13), "f(aaaa, bbbb)\n");
        assert_eq!(print(&[call()], 12), "f(\n    aaaa,\n    bbbb,\n)\n");
        assert_eq!(
            print(&[call(), text(" {")], 14),
            "f(\n    aaaa,\n    bbbb,\n) {\n"
        );
    }

    #[test]
    fn a_suffix_waits_for_the_end_of_its_line() {
        let docs = [
            text("a"),
            Doc::Suffix(" // c".to_owned()),
            text(","),
            line(" "),
            text("b"),
        ];
        assert_eq!(print(&docs, 80), "a, // c\nb\n");
    }
}
