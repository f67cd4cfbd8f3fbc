//! Literate tests: Markdown in which a heading is a test, a `gate` fence goes in, and fences named
//! after a stage come out.
//!
//! Only the fences that are present are checked. Text between them is for the reader. Blessing
//! rewrites the body of every fence that differs and touches nothing else.

use std::collections::BTreeMap;
use std::ops::Range;

/// What one stage makes of a source; `Err` says why it could not be made.
pub type Stage = fn(&str) -> Result<String, String>;

/// Stages by the name of their fence.
pub type Stages = BTreeMap<&'static str, Stage>;

/// One fence: its language and where its body lies in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The word after the opening fence.
    pub language: String,
    /// Byte range of the body, including its last line break.
    pub body: Range<usize>,
}

/// One heading with its fences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The heading, after those above it: `Dims / Several in one item`.
    pub name: String,
    /// Its fences in order.
    pub fences: Vec<Fence>,
}

/// An expected text that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which fence.
    pub fence: Fence,
    /// What the stage gave.
    pub actual: String,
}

/// The tests of one file: every heading that has fences of its own.
///
/// # Errors
/// A fence that is never closed.
pub fn cases(text: &str) -> Result<Vec<Case>, String> {
    let mut headings: Vec<String> = Vec::new();
    let mut cases: Vec<Case> = Vec::new();
    let mut open: Option<(String, usize)> = None;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let (at, words) = (start, line.trim_end());
        start += line.len();
        if let Some((language, body)) = &open {
            if words == "```" {
                let fence = Fence {
                    language: language.clone(),
                    body: *body..at,
                };
                push(&mut cases, headings.join(" / "), fence);
                open = None;
            }
        } else if let Some(language) = words.strip_prefix("```") {
            open = Some((language.to_owned(), start));
        } else if words.starts_with('#') {
            let title = words.trim_start_matches('#');
            headings.truncate(words.len() - title.len() - 1);
            headings.push(title.trim().to_owned());
        }
    }
    match open {
        None => Ok(cases),
        Some((language, _)) => Err(format!("a `{language}` fence is never closed")),
    }
}

fn push(cases: &mut Vec<Case>, name: String, fence: Fence) {
    match cases.last_mut() {
        Some(case) if case.name == name => case.fences.push(fence),
        _ => cases.push(Case {
            name,
            fences: vec![fence],
        }),
    }
}

/// Runs the stages that `case` has fences for and returns those that differ.
///
/// # Errors
/// No or several `gate` fences, no expectation, an unknown fence, or a stage that fails.
pub fn check(text: &str, case: &Case, stages: &Stages) -> Result<Vec<Difference>, String> {
    let (inputs, expected): (Vec<_>, Vec<_>) = case
        .fences
        .iter()
        .partition(|fence| fence.language == "gate");
    let [input] = inputs[..] else {
        return Err(format!("{} `gate` fences; one is needed", inputs.len()));
    };
    if expected.is_empty() {
        return Err("nothing is expected: add a fence named after a stage".to_owned());
    }
    let mut differences = Vec::new();
    for fence in expected {
        let stage = stages
            .get(fence.language.as_str())
            .ok_or_else(|| format!("no stage is called `{}`", fence.language))?;
        let mut actual = stage(&text[input.body.clone()])
            .map_err(|why| format!("`{}` could not be made: {why}", fence.language))?;
        if !actual.is_empty() && !actual.ends_with('\n') {
            actual.push('\n');
        }
        if actual != text[fence.body.clone()] {
            differences.push(Difference {
                fence: fence.clone(),
                actual,
            });
        }
    }
    Ok(differences)
}

/// `text` with every difference taken over.
#[must_use]
pub fn bless(text: &str, mut differences: Vec<Difference>) -> String {
    differences.sort_by_key(|difference| std::cmp::Reverse(difference.fence.body.start));
    let mut blessed = text.to_owned();
    for difference in differences {
        blessed.replace_range(difference.fence.body, &difference.actual);
    }
    blessed
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# A\n\n```gate\nx\n```\n\n## B\n```gate\ny\n```\n```up\nZ\n```\n";

    fn stages() -> Stages {
        Stages::from([("up", (|text| Ok(text.to_uppercase())) as Stage)])
    }

    #[test]
    fn headings_nest_and_own_their_fences() {
        let cases = cases(TEXT).unwrap();
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ["A", "A / B"]);
        assert_eq!(cases[1].fences.len(), 2);
    }

    #[test]
    fn a_difference_is_found_and_blessed() {
        let case = &cases(TEXT).unwrap()[1];
        let differences = check(TEXT, case, &stages()).unwrap();
        let blessed = bless(TEXT, differences);
        assert_eq!(blessed, TEXT.replace("Z\n", "Y\n"));
        assert_eq!(check(&blessed, case, &stages()).unwrap(), []);
    }

    #[test]
    fn a_test_without_expectation_is_refused() {
        let case = &cases(TEXT).unwrap()[0];
        assert!(check(TEXT, case, &stages()).is_err());
        assert!(cases("```gate\n").is_err());
    }
}
