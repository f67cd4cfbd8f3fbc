//! What can be wrong with stages, data, weights and evaluations.

use gatewright_grammar::codes::Explanation;

use super::{
    ambiguous_weights, bad_measure, bad_name_map, bad_template, gives_other, input_not_given,
    left_over_weights, no_match, out_of_range, short_run, train_and_freeze, trains_nothing,
    uneven_batch, unreached,
};

/// The pages of these mistakes, by code.
pub const EXPLANATIONS: &[Explanation] = &[
    out_of_range::PAGE,
    no_match::PAGE,
    train_and_freeze::PAGE,
    trains_nothing::PAGE,
    short_run::PAGE,
    uneven_batch::PAGE,
    input_not_given::PAGE,
    gives_other::PAGE,
    bad_template::PAGE,
    bad_name_map::PAGE,
    ambiguous_weights::PAGE,
    left_over_weights::PAGE,
    unreached::PAGE,
    bad_measure::PAGE,
];
