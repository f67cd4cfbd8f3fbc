//! What was measured by kind of record: right answers beside what guessing gives, and means of what is
//! observed.

use super::plot::bars;
use crate::measure::{Evaluation, Score, beside};

/// Right answers by kind. Evaluations of the same data with the same kinds stand beside each other.
pub(super) fn answers(evaluations: &[Evaluation]) -> Vec<String> {
    let mut plots = Vec::new();
    for same in beside(evaluations) {
        let Some(first) = same.first() else {
            continue;
        };
        let groups: Vec<String> = first.scores.iter().map(|it| it.direction.clone()).collect();
        let of = |evaluation: &Evaluation, pick: &dyn Fn(&Score) -> f64| {
            evaluation.scores.iter().map(pick).collect::<Vec<f64>>()
        };
        let mut series = vec![
            ("chance".to_owned(), of(first, &|it| it.chance)),
            (
                "most frequent".to_owned(),
                of(first, &|it| it.majority.unwrap_or(0.0)),
            ),
        ];
        let own = same.iter();
        series.extend(own.map(|it| (it.name.clone(), of(it, &|score| score.value))));
        let title = format!("Right answers by kind: {}", first.data);
        plots.extend(bars(&title, "share", &groups, &series));
    }
    plots
}

/// Means of what is observed, by kind.
pub(super) fn means(evaluation: &Evaluation) -> Vec<String> {
    let plots = evaluation.means.iter().filter_map(|means| {
        let groups: Vec<String> = means.kinds.iter().map(|it| it.0.clone()).collect();
        let series = means.names.iter().enumerate().map(|(index, name)| {
            let values = means.kinds.iter();
            let values = values.map(|(_, _, values)| values.get(index).copied().unwrap_or(0.0));
            (name.clone(), values.collect())
        });
        bars(&means.path, "mean", &groups, &series.collect::<Vec<_>>())
    });
    plots.collect()
}
