//! Which computed nodes share a launch.
//!
//! Nodes are visited in topological order. Each starts alone and joins the group of one of its
//! operands when the union has a kernel spec ([`build::spec`]) and no path leaves the group and
//! comes back. Then other groups that feed the union join by the same rule.

use super::build::{self, Kind};
use super::{Context, FuseError, attention, cross_entropy, route};
use crate::graph::ValueId;
use crate::ops::Op;
use std::collections::BTreeMap;

/// Nodes of one launch, in topological order.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) kind: Kind,
    pub(super) members: Vec<ValueId>,
}

struct State<'a, 'b> {
    context: &'a Context<'b>,
    clusters: Vec<Option<Cluster>>,
    of: BTreeMap<ValueId, usize>,
}

/// Groups in an order that respects their reads.
pub(super) fn cluster(context: &Context) -> Result<Vec<Cluster>, FuseError> {
    let mut state = State {
        context,
        clusters: Vec::new(),
        of: BTreeMap::new(),
    };
    let routes = route::patterns(context).into_iter();
    let walks = attention::patterns(context).into_iter();
    let losses = cross_entropy::patterns(context).into_iter();
    let together: Vec<Cluster> = routes
        .map(|members| (Kind::Route, members))
        .chain(walks.map(|members| (Kind::Attention, members)))
        .chain(losses.map(|members| (Kind::CrossEntropy, members)))
        .map(|(kind, members)| Cluster { kind, members })
        .collect();
    for id in context.graph.ids() {
        if !context.computed(id) {
            continue;
        }
        if let Some(known) = together.iter().find(|it| it.members.contains(&id)) {
            if known.members.first() == Some(&id) {
                build::spec(context, known)?;
                state.start(known.kind, known.members.clone());
            }
            continue;
        }
        if let Op::Concat(_) = context.graph.node(id).op {
            for part in 0..context.graph.operands(id).len() {
                state.start(Kind::ConcatPart(part), vec![id]);
            }
            continue;
        }
        state.place(id)?;
    }
    Ok(state.ordered())
}

impl State<'_, '_> {
    fn start(&mut self, kind: Kind, members: Vec<ValueId>) -> usize {
        let index = self.clusters.len();
        for member in &members {
            self.of.insert(*member, index);
        }
        self.clusters.push(Some(Cluster { kind, members }));
        index
    }

    fn place(&mut self, id: ValueId) -> Result<(), FuseError> {
        let kind = build::kind_of(self.context, id)?;
        if kind.joins() && !self.is_prologue_of_column(id, kind) {
            for candidate in self.candidates(id, kind) {
                if let Some(joined) = self.try_join(candidate, id, kind) {
                    self.absorb_feeders(joined);
                    return Ok(());
                }
            }
        }
        let alone = Cluster {
            kind,
            members: vec![id],
        };
        build::spec(self.context, &alone)?;
        let started = self.start(kind, alone.members);
        if kind == Kind::Matmul {
            // A short chain that feeds a single tile of columns is its prologue.
            self.absorb_feeders(started);
        }
        if kind.takes_sums() {
            self.absorb_sums(started, id);
        }
        Ok(())
    }

    /// Sums over the right operand of a contraction are added up beside it.
    fn absorb_sums(&mut self, target: usize, id: ValueId) {
        let Some(right) = self.context.graph.operands(id).get(1).copied() else {
            return;
        };
        let base = self.context.source(right).base;
        let readers = self.context.readers[base.0 as usize].clone();
        for reader in readers {
            let Some(other) = self.of.get(&reader).copied() else {
                continue;
            };
            let (Some(to), Some(from)) = (&self.clusters[target], &self.clusters[other]) else {
                continue;
            };
            let alone = from.kind.is_sum() && from.members.len() == 1;
            if other == target || !alone || self.reaches(other, target) {
                continue;
            }
            let mut union = to.clone();
            union.members.extend(&from.members);
            if self.may_be(&union) {
                self.of.insert(reader, target);
                self.clusters[other] = None;
                self.clusters[target] = Some(union);
            }
        }
    }

    /// An elementwise value read by one column reduction only is computed inside that reduction.
    fn is_prologue_of_column(&self, id: ValueId, kind: Kind) -> bool {
        let readers = &self.context.readers[id.0 as usize];
        kind == Kind::Pointwise
            && !self.context.kept[id.0 as usize]
            && readers.len() == 1
            && matches!(
                build::kind_of(self.context, readers[0]),
                Ok(Kind::Column(_))
            )
    }

    /// Groups worth joining, best first: those of the operands (the latest first), then for a
    /// column reduction its siblings over the same operand.
    fn candidates(&self, id: ValueId, kind: Kind) -> Vec<usize> {
        let reads = self.context.reads(id);
        let mut found: Vec<usize> = reads
            .iter()
            .filter_map(|base| self.of.get(base).copied())
            .collect();
        if kind.is_column() || kind.is_sum() {
            let siblings = reads
                .iter()
                .flat_map(|base| &self.context.readers[base.0 as usize]);
            found.extend(siblings.filter_map(|reader| self.of.get(reader).copied()));
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.dedup();
        found
    }

    fn try_join(&mut self, candidate: usize, id: ValueId, kind: Kind) -> Option<usize> {
        let cluster = self.clusters.get(candidate)?.as_ref()?;
        let joined_kind = cluster.kind.with(kind)?;
        let prologue = kind.is_column() && !cluster.kind.is_column() && !cluster.kind.takes_sums();
        if prologue && !self.only_read_by(cluster, id) {
            return None;
        }
        let outside = self.context.reads(id);
        let comes_back = outside
            .iter()
            .filter_map(|base| self.of.get(base))
            .any(|other| *other != candidate && self.reaches(candidate, *other));
        if comes_back {
            return None;
        }
        let mut members = cluster.members.clone();
        members.push(id);
        let joined = Cluster {
            kind: joined_kind,
            members,
        };
        if !self.may_be(&joined) {
            return None;
        }
        self.of.insert(id, candidate);
        self.clusters[candidate] = Some(joined);
        Some(candidate)
    }

    /// Whether these nodes may share a launch, and a kernel can be stated for them.
    fn may_be(&self, union: &Cluster) -> bool {
        self.context.apart.allows(&union.members) && build::spec(self.context, union).is_ok()
    }

    fn only_read_by(&self, cluster: &Cluster, id: ValueId) -> bool {
        cluster.members.iter().all(|member| {
            let readers = &self.context.readers[member.0 as usize];
            !self.context.kept[member.0 as usize]
                && readers
                    .iter()
                    .all(|reader| *reader == id || cluster.members.contains(reader))
        })
    }

    /// Elementwise groups that only feed `target` join it.
    fn absorb_feeders(&mut self, target: usize) {
        let Some(cluster) = self.clusters[target].clone() else {
            return;
        };
        let mut feeders: Vec<usize> = cluster
            .members
            .iter()
            .flat_map(|member| self.context.reads(*member))
            .filter_map(|base| self.of.get(&base).copied())
            .filter(|feeder| *feeder != target)
            .collect();
        feeders.sort_unstable();
        feeders.dedup();
        for feeder in feeders {
            self.absorb(target, feeder);
        }
    }

    fn absorb(&mut self, target: usize, feeder: usize) {
        let (Some(to), Some(from)) = (&self.clusters[target], &self.clusters[feeder]) else {
            return;
        };
        let takes = matches!(to.kind, Kind::Pointwise | Kind::Row(_) | Kind::Matmul);
        if from.kind != Kind::Pointwise || !takes {
            return;
        }
        // Every reader of the feeder must be in the union: then no path can leave and come back.
        let mut members: Vec<ValueId> = to.members.iter().chain(&from.members).copied().collect();
        members.sort_unstable();
        if from
            .members
            .iter()
            .any(|member| self.context.leaves(*member, &members))
        {
            return;
        }
        let union = Cluster {
            kind: to.kind,
            members,
        };
        if !self.may_be(&union) {
            return;
        }
        for member in &from.members.clone() {
            self.of.insert(*member, target);
        }
        self.clusters[feeder] = None;
        self.clusters[target] = Some(union);
    }

    /// Whether cluster `to` reads, directly or not, from cluster `from`.
    fn reaches(&self, from: usize, to: usize) -> bool {
        let mut seen = vec![false; self.clusters.len()];
        let mut pending = vec![to];
        while let Some(cluster) = pending.pop() {
            if cluster == from {
                return true;
            }
            if std::mem::replace(&mut seen[cluster], true) {
                continue;
            }
            pending.extend(self.feeders(cluster));
        }
        false
    }

    fn feeders(&self, cluster: usize) -> Vec<usize> {
        let Some(cluster) = self.clusters[cluster].as_ref() else {
            return Vec::new();
        };
        let reads = cluster
            .members
            .iter()
            .flat_map(|member| self.context.reads(*member));
        reads
            .filter(|base| !cluster.members.contains(base))
            .flat_map(|base| self.writers(base))
            .collect()
    }

    /// All groups that write a value: several for a concat.
    fn writers(&self, base: ValueId) -> Vec<usize> {
        match self.context.graph.node(base).op {
            Op::Concat(_) => (0..self.clusters.len())
                .filter(|index| {
                    self.clusters[*index]
                        .as_ref()
                        .is_some_and(|c| c.members.contains(&base))
                })
                .collect(),
            _ => self.of.get(&base).copied().into_iter().collect(),
        }
    }

    /// Topological order; among ready groups the one with the earliest first member.
    fn ordered(self) -> Vec<Cluster> {
        let count = self.clusters.len();
        let mut waits: Vec<usize> = vec![0; count];
        let mut followers: Vec<Vec<usize>> = vec![Vec::new(); count];
        for (index, wait) in waits.iter_mut().enumerate() {
            let mut feeders = self.feeders(index);
            feeders.sort_unstable();
            feeders.dedup();
            *wait = feeders.len();
            for feeder in feeders {
                followers[feeder].push(index);
            }
        }
        let key = |index: usize| {
            self.clusters[index]
                .as_ref()
                .and_then(|cluster| cluster.members.last().copied())
        };
        let mut ready: std::collections::BTreeSet<(Option<ValueId>, usize)> = (0..count)
            .filter(|index| waits[*index] == 0)
            .map(|index| (key(index), index))
            .collect();
        let mut order = Vec::with_capacity(count);
        while let Some((_, index)) = ready.pop_first() {
            order.push(index);
            for follower in &followers[index] {
                waits[*follower] -= 1;
                if waits[*follower] == 0 {
                    ready.insert((key(*follower), *follower));
                }
            }
        }
        let mut clusters = self.clusters;
        order
            .into_iter()
            .filter_map(|index| clusters[index].take())
            .collect()
    }
}
