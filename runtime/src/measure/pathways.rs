//! Which ways tokens take through several routers, as their first choices one after the other.

use super::routing::{Part, View, Watched};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Ways that are told, the most frequent ones.
const TOLD: usize = 10;

/// The most frequent ways of a stream's tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pathways {
    /// The routers on the way.
    pub routers: Vec<String>,
    /// Tokens in all.
    pub tokens: u64,
    /// Different ways in all.
    pub different: u64,
    /// The first choices at each router, and how many tokens make them; the most frequent first.
    pub most: Vec<(Vec<u32>, u64)>,
}

/// Counted so far.
pub(super) struct Counts {
    chains: Vec<Chain>,
}

/// Routers of the same tokens, by their places in the list of all.
struct Chain {
    routers: Vec<usize>,
    names: Vec<String>,
    /// By part.
    ways: BTreeMap<String, BTreeMap<Vec<u32>, u64>>,
}

impl Counts {
    /// Routers with streams of the same names and sizes route the same tokens.
    pub(super) fn new(routers: &[Watched], parts: &[Vec<Part>]) -> Self {
        let mut chains: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (index, (router, parts)) in routers.iter().zip(parts).enumerate() {
            let parts: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
            let same = (router.streams.clone(), parts.join(" "));
            chains.entry(same).or_default().push(index);
        }
        let chain = |own: Vec<usize>| Chain {
            names: own.iter().map(|it| routers[*it].path.clone()).collect(),
            routers: own,
            ways: BTreeMap::new(),
        };
        let several = chains.into_values().filter(|own| own.len() > 1);
        Self {
            chains: several.map(chain).collect(),
        }
    }

    /// Adds the tokens of a batch that count.
    pub(super) fn add(&mut self, views: &[View], parts: &[Vec<Part>]) {
        for chain in &mut self.chains {
            let own = chain.routers.iter().filter_map(|index| views.get(*index));
            let own: Vec<&View> = own.collect();
            let (Some(first), Some(index)) = (own.first(), chain.routers.first()) else {
                continue;
            };
            for part in &parts[*index] {
                let ways = chain.ways.entry(part.name.clone()).or_default();
                for row in 0..first.rows {
                    let tokens = first.positions(part, row).into_iter();
                    for (_, at) in tokens.filter(|(_, at)| first.counts(*at)) {
                        let way = own.iter().map(|view| view.first_choice(at)).collect();
                        *ways.entry(way).or_default() += 1;
                    }
                }
            }
        }
    }

    /// The ways of a part up to a router, if it is the last one of several.
    pub(super) fn of(&self, router: usize, part: &str) -> Option<Pathways> {
        let ends = |chain: &&Chain| chain.routers.last() == Some(&router);
        let chain = self.chains.iter().find(ends)?;
        let ways = chain.ways.get(part)?;
        let mut most: Vec<(Vec<u32>, u64)> = ways
            .iter()
            .map(|(way, count)| (way.clone(), *count))
            .collect();
        most.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        most.truncate(TOLD);
        Some(Pathways {
            routers: chain.names.clone(),
            tokens: ways.values().sum(),
            different: ways.len() as u64,
            most,
        })
    }
}
