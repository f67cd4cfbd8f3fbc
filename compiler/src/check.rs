//! One file per kind of mistake that a model can have.
//!
//! Each file states its page (what, why, example, fix) and builds its diagnostics; the pages are
//! what `gatewright explain` prints.

/// States a page once: as the documentation of `PAGE` and as data.
macro_rules! page {
    ($(#[doc = $line:literal])+ $code:literal, $title:literal) => {
        $(#[doc = $line])+
        pub(crate) const PAGE: gatewright_grammar::codes::Explanation =
            gatewright_grammar::codes::Explanation {
                code: gatewright_grammar::diagnostic::Code($code),
                title: $title,
                body: concat!($($line, "\n"),+),
            };
    };
}

pub(crate) mod absent_input;
pub(crate) mod arguments;
pub(crate) mod bad_override;
pub(crate) mod bad_pattern;
pub(crate) mod bad_setting;
pub(crate) mod bad_size;
pub(crate) mod cannot_align;
pub(crate) mod constant_weight;
pub(crate) mod duplicate_name;
pub(crate) mod import;
pub(crate) mod missing_field;
pub(crate) mod no_capacity;
pub(crate) mod no_value;
pub(crate) mod not_a_scalar;
pub(crate) mod operands;
pub(crate) mod parameter_conflict;
pub(crate) mod rank_mismatch;
pub(crate) mod recursion;
pub(crate) mod size_mismatch;
pub(crate) mod too_large;
pub(crate) mod unbound_size;
pub(crate) mod undefined_term;
pub(crate) mod unknown_axis;
pub(crate) mod unknown_key;
pub(crate) mod unknown_name;
pub(crate) mod unknown_request;
pub(crate) mod unknown_stream;
pub(crate) mod wrong_kind;

// Stages, data, weights and evaluations.
pub(crate) mod ambiguous_weights;
pub(crate) mod bad_measure;
pub(crate) mod bad_name_map;
pub(crate) mod bad_template;
pub(crate) mod gives_other;
pub(crate) mod input_not_given;
pub(crate) mod left_over_weights;
pub(crate) mod mixes_places;
pub(crate) mod no_match;
pub(crate) mod out_of_range;
pub(crate) mod short_run;
pub(crate) mod train_and_freeze;
pub(crate) mod trains_nothing;
pub(crate) mod uneven_batch;
pub(crate) mod unreached;

use gatewright_grammar::codes::Explanation;

/// All pages of this room, by code.
pub const EXPLANATIONS: &[Explanation] = &[
    unknown_name::PAGE,
    duplicate_name::PAGE,
    recursion::PAGE,
    unknown_key::PAGE,
    bad_size::PAGE,
    bad_override::PAGE,
    arguments::PAGE,
    wrong_kind::PAGE,
    import::PAGE,
    missing_field::PAGE,
    bad_setting::PAGE,
    unknown_axis::PAGE,
    rank_mismatch::PAGE,
    size_mismatch::PAGE,
    cannot_align::PAGE,
    bad_pattern::PAGE,
    operands::PAGE,
    too_large::PAGE,
    unbound_size::PAGE,
    absent_input::PAGE,
    undefined_term::PAGE,
    no_capacity::PAGE,
    not_a_scalar::PAGE,
    parameter_conflict::PAGE,
    no_value::PAGE,
    unknown_stream::PAGE,
    unknown_request::PAGE,
    constant_weight::PAGE,
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
    mixes_places::PAGE,
];
