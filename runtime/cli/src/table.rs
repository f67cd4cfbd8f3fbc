//! What was measured, as text.

use gatewright_runtime::measure::{Evaluation, Means, RouterUse, Score, beside};
use gatewright_runtime::train::EvaluationRecord;
use std::fmt::Write;

/// The scores of the first and of the last evaluation beside chance.
pub(crate) fn evaluations(records: &[EvaluationRecord]) -> String {
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        return String::new();
    };
    let before = (records.len() > 1).then_some(first);
    let mut text = String::new();
    let together = beside(&last.evaluations).into_iter();
    let together: Vec<_> = together.filter(|own| own.len() > 1).collect();
    for own in &together {
        text += &side_by_side(own);
    }
    let shown = |it: &&Evaluation| {
        let elsewhere = together
            .iter()
            .flatten()
            .any(|other| std::ptr::eq(*other, *it));
        !elsewhere && !it.scores.is_empty()
    };
    for evaluation in last.evaluations.iter().filter(shown) {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "\n{}: {} records of {}, {} to choose from",
            evaluation.name, evaluation.records, evaluation.data, evaluation.choices
        );
        let heading = before.map_or(String::new(), |record| format!("  step {:>5}", record.step));
        let _ = writeln!(
            text,
            "  {:<26}{:>8}{heading}  step {:>5}",
            "", "chance", last.step
        );
        for score in &evaluation.scores {
            let old = before.and_then(|record| same(record, evaluation, score));
            let old = old.map_or(String::new(), |old| format!("{:>12}", percent(old.value)));
            let name = format!("{} {}", score.measure, score.direction);
            let most = score.majority.map_or(String::new(), |majority| {
                format!("  (the most frequent: {})", percent(majority))
            });
            let _ = writeln!(
                text,
                "  {name:<26}{:>8}{old}{:>12}{most}",
                percent(score.chance),
                percent(score.value)
            );
        }
    }
    for means in last.evaluations.iter().flat_map(|it| &it.means) {
        text += &observed(means);
    }
    text
}

/// Evaluations of the same kinds of records, a column each.
fn side_by_side(evaluations: &[&Evaluation]) -> String {
    let Some(first) = evaluations.first() else {
        return String::new();
    };
    let mut text = format!("\n{} records of {}\n", first.records, first.data);
    let names = evaluations.iter().map(|it| format!("{:>14}", it.name));
    let names: String = names.collect();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "  {:<26}{:>8}{:>15}{names}",
        "", "chance", "most frequent"
    );
    for (index, score) in first.scores.iter().enumerate() {
        let name = format!("{} {}", score.measure, score.direction);
        let values = evaluations.iter().map(|it| {
            let own = it.scores.get(index);
            format!(
                "{:>14}",
                own.map_or(String::new(), |own| percent(own.value))
            )
        });
        let values: String = values.collect();
        let _ = writeln!(
            text,
            "  {name:<26}{:>8}{:>15}{values}",
            percent(score.chance),
            score.majority.map_or(String::new(), percent)
        );
    }
    text
}

/// Means by kind of record.
fn observed(means: &Means) -> String {
    let names = means.names.iter().map(|name| format!("{name:>12}"));
    let names: String = names.collect();
    let mut text = format!("\n{}: means\n  {:<12}{names}\n", means.path, "");
    for (kind, _, values) in &means.kinds {
        let values = values.iter().map(|value| format!("{value:>12.3}"));
        let values: String = values.collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {kind:<12}{values}");
    }
    text
}

fn same<'a>(
    record: &'a EvaluationRecord,
    evaluation: &Evaluation,
    score: &Score,
) -> Option<&'a Score> {
    // One evaluation of the spec may have several entries here, one for each of its measures.
    let same = |it: &&Evaluation| it.name == evaluation.name && it.data == evaluation.data;
    let others = record.evaluations.iter().filter(same);
    let mut scores = others.flat_map(|it| &it.scores);
    scores.find(|it| it.measure == score.measure && it.direction == score.direction)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A few records with the names that fit best.
pub(crate) fn examples(record: Option<&EvaluationRecord>) -> String {
    let evaluation = record.and_then(|record| record.evaluations.first());
    let Some(evaluation) = evaluation.filter(|it| !it.examples.is_empty()) else {
        return String::new();
    };
    let mut text = format!(
        "\n{}: the best three names of some pictures\n",
        evaluation.name
    );
    for example in &evaluation.examples {
        let guesses = example
            .guesses
            .iter()
            .map(|(caption, fit)| format!("{caption} ({fit:.2})"));
        let mark = match example.place() {
            Some(0) => "+",
            Some(_) => "~",
            None => " ",
        };
        let guesses: Vec<String> = guesses.collect();
        let _ = writeln!(
            text,
            "  {mark} {:<24} {}",
            example.truth,
            guesses.join(", ")
        );
    }
    text += "\n";
    text
}

/// How each router shares the tokens of each stream among its experts.
pub(crate) fn routing(routers: &[RouterUse]) -> String {
    let mut text = String::new();
    for router in routers {
        let _ = writeln!(
            text,
            "\n{}: share of each stream's tokens by expert",
            router.path
        );
        for stream in &router.streams {
            let total = stream.tokens.iter().sum::<u64>().max(1) as f64;
            let shares: Vec<String> = stream
                .tokens
                .iter()
                .map(|count| format!("{:>3.0} %", 100.0 * *count as f64 / total))
                .collect();
            let _ = writeln!(
                text,
                "  {:<8}{}   {} served, {:.1} experts in use",
                stream.name,
                shares.join(" "),
                percent(stream.success),
                stream.effective_experts
            );
        }
    }
    text
}
