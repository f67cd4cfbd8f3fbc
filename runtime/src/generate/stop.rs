//! Where an answer ends, and how much of its text is certain.

/// The part of a text before the first of the stops; none when there is none.
pub(super) fn cut<'t>(text: &'t str, stops: &[String]) -> Option<&'t str> {
    let found = stops.iter().filter(|stop| !stop.is_empty());
    let first = found.filter_map(|stop| text.find(stop.as_str())).min()?;
    text.get(..first)
}

/// The part of a text that no later token changes: it does not end in an unfinished character, nor in
/// what may become a stop.
pub(super) fn certain<'t>(text: &'t str, stops: &[String]) -> &'t str {
    let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    let begins = |from: usize| stops.iter().any(|stop| stop.starts_with(&text[from..]));
    let open = text
        .char_indices()
        .map(|(index, _)| index)
        .find(|index| begins(*index));
    &text[..open.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn an_answer_ends_before_the_first_stop() {
        let stops = stops(&["USER:", "\n\n", ""]);
        assert_eq!(cut("yes\n\nUSER: no", &stops), Some("yes"));
        assert_eq!(cut("yes USE", &stops), None);
    }

    #[test]
    fn what_may_become_a_stop_waits() {
        let stops = stops(&["USER:"]);
        assert_eq!(certain("a US", &stops), "a ");
        assert_eq!(certain("a USA", &stops), "a USA");
        assert_eq!(certain("caf\u{fffd}", &stops), "caf");
        assert_eq!(certain("", &stops), "");
    }
}
