//! The three walks: what a lane does with the rows that pass by.

use super::rows::Rows;
use super::stream::{Numbers, Step, Stream};
use super::{Frame, Own};
use crate::kernel::ir::{Builder, Expr, Scalar};
use crate::kernel::spec::AttentionResult;
use crate::ops::{HIDDEN, SEES_NONE};

/// The score of a key that does not exist: below that of a hidden one.
const ABSENT: f32 = -3e38;

/// A query under way forward: the highest score so far, the sum of weights under it, the mixed values.
struct Query<'a> {
    own: &'a Own,
    query: Vec<Expr>,
    top: Expr,
    total: Expr,
    mixed: Vec<Expr>,
}

/// A query on its way to its gradient.
struct QueryGradient<'a> {
    own: &'a Own,
    query: Vec<Expr>,
    gradient: Vec<Expr>,
    log_sum_exp: Expr,
    mean: Expr,
    sums: Vec<Expr>,
}

/// A key and its value on their way to their gradients.
struct KeyGradient<'a> {
    own: &'a Own,
    key: Vec<Expr>,
    value: Vec<Expr>,
    shown: Option<Expr>,
    of_key: Vec<Expr>,
    of_value: Vec<Expr>,
}

/// The sum of products of two rows.
fn product(b: &mut Builder, own: &[Expr], other: &[Expr]) -> Expr {
    let terms = own.iter().zip(other).map(|(own, other)| own * other);
    let sum = terms.reduce(|sum, term| sum + term);
    let sum = sum.unwrap_or_else(|| Expr::from(0.0f32).splat());
    let sum = b.copy("products", sum);
    let [x, y, z, w] = [0, 1, 2, 3].map(|part| sum.component(part));
    (x + y) + (z + w)
}

/// What holds where all conditions do; none where there is no condition.
fn all(conditions: impl IntoIterator<Item = Expr>) -> Option<Expr> {
    conditions.into_iter().reduce(|left, right| left.and(right))
}

/// The value where the condition holds, if there is one.
fn unless_hidden(condition: Option<&Expr>, value: Expr, otherwise: impl Into<Expr>) -> Expr {
    match condition {
        Some(condition) => condition.select(value, otherwise),
        None => value,
    }
}

impl Frame<'_> {
    fn zeros(&self, b: &mut Builder, name: &str, wanted: bool) -> Vec<Expr> {
        let zero = Expr::from(0.0f32).splat();
        let chunks = if wanted { self.q.chunks() } else { 0 };
        (0..chunks)
            .map(|chunk| b.var(&format!("{name}_{chunk}"), &zero))
            .collect()
    }

    /// A row of this lane, where the operand is bound.
    fn read(b: &mut Builder, name: &str, rows: Option<&Rows>, own: &Own) -> Vec<Expr> {
        rows.map_or_else(Vec::new, |rows| rows.read(b, name, &own.row))
    }

    fn wants(&self, result: AttentionResult) -> bool {
        self.outputs.iter().any(|(given, _)| *given == result)
    }

    fn write(&self, b: &mut Builder, result: AttentionResult, own: &Own, row: &[Expr]) {
        for (_, rows) in self.outputs.iter().filter(|(given, _)| *given == result) {
            b.when(&own.inside, |b| rows.write(b, &own.row, row));
        }
    }

    fn stream<'a>(
        &self,
        rows: [Option<&'a Rows>; 2],
        numbers: Vec<&'a Numbers>,
        count: &Expr,
    ) -> Stream<'a> {
        Stream {
            rows: rows.into_iter().flatten().collect(),
            numbers,
            last: count - 1u32,
            lanes: self.lanes,
            step: self.step,
            tile: self.tile,
        }
    }

    /// Keys and values as the walked side.
    fn over_keys(&self) -> Stream<'_> {
        let rows = [Some(&self.k), self.v.as_ref()];
        self.stream(rows, self.mask.iter().collect(), &self.keys)
    }

    /// The keys that the queries of this workgroup walk over.
    fn key_range(&self, b: &mut Builder) -> [Expr; 2] {
        let mut end = self.keys.clone();
        if self.attention.walks_part() {
            let more = &self.keys - &self.queries;
            let seen = &self.first + self.rows + more;
            end = b.bind("last_key", seen.min(&self.keys));
        }
        [Expr::from(0u32), end]
    }

    /// All fours of row `i` of an operand, for all lanes.
    fn row(&self, b: &mut Builder, step: &Step, operand: usize, i: usize) -> Vec<Expr> {
        (0..self.q.chunks())
            .map(|chunk| b.copy("passing", step.chunk(operand, i, chunk)))
            .collect()
    }

    /// Adds weighted rows of an operand to the sums of every row of the lane.
    fn accumulate(
        &self,
        b: &mut Builder,
        step: &Step,
        operand: usize,
        into: &[(&[Expr], &[Expr])],
    ) {
        for chunk in 0..self.q.chunks() {
            let rows: Vec<Expr> = (0..self.step)
                .map(|i| b.copy("passing", step.chunk(operand, i, chunk)))
                .collect();
            for (sums, weights) in into {
                let Some(sum) = sums.get(chunk) else { continue };
                let terms = rows.iter().zip(*weights);
                let total = terms.fold(sum.clone(), |total, (row, weight)| total + row * weight);
                b.assign(sum, total);
            }
        }
    }

    /// Whether a query sees row i of a step of keys, and whether that key exists; none where it surely
    /// does.
    fn shown(
        &self,
        b: &mut Builder,
        own: &Own,
        first: &Expr,
        step: &Step,
        i: usize,
    ) -> [Option<Expr>; 2] {
        let key = b.bind("key", first + i as u32);
        let mask = self.mask.as_ref();
        let mask = mask.map(|_| step.number(0, i).differs(0u32));
        let causal = self.attention.causal;
        let causal = causal.then(|| (&key + &self.queries).at_most(&own.row + &self.keys));
        let ends = self.may_end(self.attention.keys, step);
        let exists = ends.then(|| key.less(&self.keys));
        [all(mask.into_iter().chain(causal)), exists]
    }

    /// Whether a walk over so many rows may end inside a step.
    fn may_end(&self, rows: usize, step: &Step) -> bool {
        match step {
            Step::Held { .. } => !rows.is_multiple_of(self.step),
            Step::Shared { .. } => true,
        }
    }

    pub(super) fn forward(&self, b: &mut Builder) {
        let mixes = self.wants(AttentionResult::Mixed);
        let queries: Vec<Query> = self
            .own
            .iter()
            .map(|own| Query {
                own,
                query: self.q.read(b, "query", &own.row),
                top: b.var("top", ABSENT),
                total: b.var("total", 0.0f32),
                mixed: self.zeros(b, "mixed", mixes),
            })
            .collect();
        let [from, to] = self.key_range(b);
        self.over_keys().walk(b, &from, &to, |b, first, step| {
            let mut scores = vec![Vec::new(); queries.len()];
            for i in 0..self.step {
                let key = self.row(b, step, 0, i);
                for (query, scores) in queries.iter().zip(&mut scores) {
                    scores.push(self.score(b, query, &key, (first, step, i)));
                }
            }
            let weights: Vec<Vec<Expr>> = queries
                .iter()
                .zip(&scores)
                .map(|(query, scores)| query.weigh(b, scores))
                .collect();
            if mixes {
                let sums = queries.iter().map(|query| query.mixed.as_slice());
                let into: Vec<_> = sums.zip(weights.iter().map(Vec::as_slice)).collect();
                self.accumulate(b, step, 1, &into);
            }
        });
        for query in &queries {
            let share = b.bind("share", Expr::from(1.0f32) / &query.total);
            let mixed: Vec<Expr> = query.mixed.iter().map(|sum| sum * &share).collect();
            self.write(b, AttentionResult::Mixed, query.own, &mixed);
            let log_sum_exp = b.bind("log_sum_exp", &query.top + query.total.log());
            self.write(
                b,
                AttentionResult::LogSumExp,
                query.own,
                &[log_sum_exp.splat()],
            );
        }
    }

    fn score(
        &self,
        b: &mut Builder,
        query: &Query,
        key: &[Expr],
        place: (&Expr, &Step, usize),
    ) -> Expr {
        let score = product(b, &query.query, key) * self.attention.scale as f32;
        let (first, step, i) = place;
        let [seen, exists] = self.shown(b, query.own, first, step, i);
        let score = unless_hidden(seen.as_ref(), score, HIDDEN as f32);
        let score = unless_hidden(exists.as_ref(), score, ABSENT);
        b.copy("score", score)
    }

    pub(super) fn gradient_of_queries(&self, b: &mut Builder) {
        let queries: Vec<QueryGradient> = self
            .own
            .iter()
            .map(|own| {
                let [log_sum_exp, mean] = [0, 1].map(|number| {
                    let numbers: &Numbers = &self.per_query[number];
                    b.copy("of_query", numbers.at(&own.row))
                });
                QueryGradient {
                    own,
                    query: self.q.read(b, "query", &own.row),
                    gradient: Self::read(b, "gradient", self.gradient.as_ref(), own),
                    log_sum_exp,
                    mean,
                    sums: self.zeros(b, "sum", true),
                }
            })
            .collect();
        let [from, to] = self.key_range(b);
        let scale = self.attention.scale as f32;
        self.over_keys().walk(b, &from, &to, |b, first, step| {
            let mut flows = vec![Vec::new(); queries.len()];
            for i in 0..self.step {
                let key = self.row(b, step, 0, i);
                let value = self.row(b, step, 1, i);
                for (query, flows) in queries.iter().zip(&mut flows) {
                    let score = product(b, &query.query, &key) * scale;
                    let weight = (score - &query.log_sum_exp).exp();
                    let change = product(b, &query.gradient, &value) - &query.mean;
                    let shown = self.shown(b, query.own, first, step, i);
                    let shown = all(shown.into_iter().flatten());
                    let flow = unless_hidden(shown.as_ref(), change * weight * scale, 0.0f32);
                    flows.push(b.copy("flow", flow));
                }
            }
            let sums = queries.iter().map(|query| query.sums.as_slice());
            let into: Vec<_> = sums.zip(flows.iter().map(Vec::as_slice)).collect();
            self.accumulate(b, step, 0, &into);
        });
        for query in &queries {
            self.write(b, AttentionResult::Queries, query.own, &query.sums);
        }
    }

    pub(super) fn gradient_of_keys(&self, b: &mut Builder) {
        let [wants_keys, wants_values] =
            [AttentionResult::Keys, AttentionResult::Values].map(|it| self.wants(it));
        let keys: Vec<KeyGradient> = self
            .own
            .iter()
            .map(|own| KeyGradient {
                own,
                key: self.k.read(b, "key", &own.row),
                value: Self::read(b, "value", self.v.as_ref(), own),
                shown: self
                    .mask
                    .as_ref()
                    .map(|mask| b.copy("shown", mask.at(&own.row).differs(0u32))),
                of_key: self.zeros(b, "key_sum", wants_keys),
                of_value: self.zeros(b, "value_sum", wants_values),
            })
            .collect();
        let mut from = Expr::from(0u32);
        if self.attention.walks_part() {
            let more = b.bind("more_keys", &self.keys - &self.queries);
            from = b.bind("first_query_seen", self.first.max(&more) - more);
        }
        let rows = [Some(&self.q), self.gradient.as_ref()];
        let stream = self.stream(rows, self.per_query.iter().collect(), &self.queries);
        stream.walk(b, &from, &self.queries, |b, first, step| {
            let mut weights = vec![Vec::new(); keys.len()];
            let mut flows = vec![Vec::new(); keys.len()];
            for i in 0..self.step {
                let query = self.row(b, step, 0, i);
                let gradient = if wants_keys {
                    self.row(b, step, 1, i)
                } else {
                    Vec::new()
                };
                for (number, key) in keys.iter().enumerate() {
                    let passing = [query.as_slice(), &gradient];
                    let [weight, flow] = self.flow(b, key, passing, (first, step, i));
                    weights[number].push(weight);
                    flows[number].push(flow);
                }
            }
            let of_value = keys.iter().map(|key| key.of_value.as_slice());
            let of_value: Vec<_> = of_value.zip(weights.iter().map(Vec::as_slice)).collect();
            let of_key = keys.iter().map(|key| key.of_key.as_slice());
            let of_key: Vec<_> = of_key.zip(flows.iter().map(Vec::as_slice)).collect();
            if wants_values {
                self.accumulate(b, step, 1, &of_value);
            }
            if wants_keys {
                self.accumulate(b, step, 0, &of_key);
            }
        });
        for key in &keys {
            self.write(b, AttentionResult::Keys, key.own, &key.of_key);
            self.write(b, AttentionResult::Values, key.own, &key.of_value);
        }
    }

    /// The weight that row i of a step of queries gives a key, and what flows back to their logit.
    fn flow(
        &self,
        b: &mut Builder,
        key: &KeyGradient,
        [query, gradient]: [&[Expr]; 2],
        place: (&Expr, &Step, usize),
    ) -> [Expr; 2] {
        let (first, step, i) = place;
        let scale = self.attention.scale as f32;
        let number = b.bind("query_number", first + i as u32);
        let causal = self.attention.causal;
        let causal = causal.then(|| (&key.own.row + &self.queries).at_most(&number + &self.keys));
        let seen = all(key.shown.clone().into_iter().chain(causal));
        // A walk that starts inside a step may end inside one too.
        let ends = self.attention.walks_part() || self.may_end(self.attention.queries, step);
        let exists = ends.then(|| number.less(&self.queries));
        let log_sum_exp = b.copy("log_sum_exp", step.number(0, i));
        let score = product(b, &key.key, query) * scale;
        let mut weight = b.copy("weight", (score - &log_sum_exp).exp());
        if let Some(seen) = &seen {
            let even = Expr::from(1.0f32) / self.keys.convert(Scalar::F32);
            let none = log_sum_exp.less(SEES_NONE as f32);
            weight = b.copy("weight", seen.select(&weight, none.select(even, 0.0f32)));
        }
        let mut flow = Expr::from(0.0f32);
        if !gradient.is_empty() {
            let change = product(b, &key.value, gradient) - step.number(1, i);
            let shown = all(seen.into_iter().chain(exists.clone()));
            flow = unless_hidden(shown.as_ref(), change * &weight * scale, 0.0f32);
            flow = b.copy("flow", flow);
        }
        let weight = unless_hidden(exists.as_ref(), weight, 0.0f32);
        [b.bind("weight", weight), flow]
    }
}

impl Query<'_> {
    /// The weights of a step under the highest score so far, to which what was summed before fades.
    fn weigh(&self, b: &mut Builder, scores: &[Expr]) -> Vec<Expr> {
        let highest = scores
            .iter()
            .fold(self.top.clone(), |top, score| top.max(score));
        let highest = b.copy("highest", highest);
        let fade = b.copy("fade", (&self.top - &highest).exp());
        let weights: Vec<Expr> = scores
            .iter()
            .map(|score| b.copy("weight", (score - &highest).exp()))
            .collect();
        let faded = &self.total * &fade;
        b.assign(
            &self.total,
            weights.iter().fold(faded, |sum, weight| sum + weight),
        );
        for sum in &self.mixed {
            b.assign(sum, sum * &fade);
        }
        b.assign(&self.top, &highest);
        weights
    }
}
