//! Which records an epoch's batches hold.

use std::collections::BTreeMap;

use super::error::DataError;
use super::random::Random;

/// The random coordinate that keeps orders apart from augmentation.
const ORDER: u64 = u64::MAX;

/// Draws batches of records such that no two records of a batch belong to one group.
#[derive(Debug)]
pub(super) struct Order {
    groups: Vec<Vec<usize>>,
    batch: usize,
    /// Batches in an epoch.
    pub(super) batches: usize,
}

impl Order {
    /// `labels` holds the group of every record, or `None` if every record is its own.
    pub(super) fn new(
        records: usize,
        labels: Option<(&str, Vec<String>)>,
        batch: usize,
    ) -> Result<Self, DataError> {
        let (what, groups) = match labels {
            None => (
                "records".to_owned(),
                (0..records).map(|it| vec![it]).collect(),
            ),
            Some((field, labels)) => {
                let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
                for (record, label) in labels.into_iter().enumerate() {
                    groups.entry(label).or_default().push(record);
                }
                let what = format!("records with different `{field}`");
                (what, groups.into_values().collect::<Vec<_>>())
            }
        };
        let batches = most_batches(&groups, batch);
        if batches == 0 {
            return Err(DataError::TooFew {
                batch,
                what,
                count: groups.len(),
            });
        }
        Ok(Self {
            groups,
            batch,
            batches,
        })
    }

    /// The batches of an epoch, one after the other.
    ///
    /// Groups are laid out in random order and the records are dealt to the batches in turn, like
    /// cards: a group never has more records than there are batches, so two of its records never
    /// meet. Surplus records rest until another epoch.
    pub(super) fn epoch(&self, seed: u64, epoch: u64) -> Vec<usize> {
        let mut random = Random::at(seed, &[ORDER, epoch]);
        let mut groups = self.groups.clone();
        random.shuffle(&mut groups);
        let mut hands: Vec<Vec<usize>> = vec![Vec::new(); self.batches];
        let mut turn = 0;
        for group in &mut groups {
            random.shuffle(group);
            for record in group.iter().take(self.batches) {
                hands[turn % self.batches].push(*record);
                turn += 1;
            }
        }
        random.shuffle(&mut hands);
        for hand in &mut hands {
            random.shuffle(hand);
            hand.truncate(self.batch);
        }
        hands.concat()
    }
}

/// The largest number of batches that can be filled when a group gives each at most one record.
fn most_batches(groups: &[Vec<usize>], batch: usize) -> usize {
    let total: usize = groups.iter().map(Vec::len).sum();
    let enough = |batches: usize| {
        groups.iter().map(|it| it.len().min(batches)).sum::<usize>() >= batches * batch
    };
    // Whoever can fill some batches can fill fewer: search by halving.
    let (mut low, mut high) = (0, total / batch);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        match enough(middle) {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_batch_holds_a_group_twice() {
        // Group `n % 10`, and group 0 has many more records than there are batches.
        let label = |it: usize| if it < 60 { it % 10 } else { 0 };
        let labels = (0..100).map(|it| label(it).to_string()).collect();
        let order = Order::new(100, Some(("group", labels)), 7).unwrap();
        assert_eq!(order.batches, 9);
        for epoch in 0..20 {
            let records = order.epoch(3, epoch);
            assert_eq!(records.len(), 63);
            for hand in records.chunks(7) {
                let mut labels: Vec<usize> = hand.iter().map(|it| label(*it)).collect();
                labels.sort_unstable();
                labels.dedup();
                assert_eq!(labels.len(), 7);
            }
        }
    }

    #[test]
    fn an_epoch_without_groups_is_a_permutation() {
        let order = Order::new(12, None, 4).unwrap();
        let mut records = order.epoch(1, 0);
        assert_ne!(records, order.epoch(1, 1));
        records.sort_unstable();
        assert_eq!(records, (0..12).collect::<Vec<_>>());
        assert!(matches!(
            Order::new(3, None, 4),
            Err(DataError::TooFew { count: 3, .. })
        ));
    }
}
