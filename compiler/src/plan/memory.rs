//! Placement of intermediate values: lifetimes, then the largest first at the lowest free offset.

/// One value to place: its length and the commands between which it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    /// Length in bytes, a multiple of the alignment.
    pub(super) bytes: u64,
    /// First command that writes it.
    pub(super) first: usize,
    /// Last command that reads it.
    pub(super) last: usize,
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) arena: usize,
    pub(super) offset: u64,
}

/// Places all values in arenas of at most `arena_bytes`; values of one arena overlap only when
/// their lifetimes do not. Gives the places and the size of each arena.
pub(super) fn place(values: &[Lifetime], arena_bytes: u64) -> (Vec<Place>, Vec<u64>) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|index| (std::cmp::Reverse(values[*index].bytes), *index));
    let mut places: Vec<Option<Place>> = vec![None; values.len()];
    let mut arenas: Vec<u64> = Vec::new();
    for index in order {
        let value = values[index];
        let mut arena = 0;
        let offset = loop {
            let offset = lowest_gap(values, &places, index, arena);
            // A value larger than an arena gets one of its own; the runtime reports the limit.
            if offset == 0 || offset + value.bytes <= arena_bytes {
                break offset;
            }
            arena += 1;
        };
        if arenas.len() <= arena {
            arenas.resize(arena + 1, 0);
        }
        arenas[arena] = arenas[arena].max(offset + value.bytes);
        places[index] = Some(Place { arena, offset });
    }
    let placed = places.into_iter().map(|place| {
        place.unwrap_or(Place {
            arena: 0,
            offset: 0,
        })
    });
    (placed.collect(), arenas)
}

/// The lowest offset in `arena` where value `index` meets no value that lives at the same time.
fn lowest_gap(values: &[Lifetime], places: &[Option<Place>], index: usize, arena: usize) -> u64 {
    let value = values[index];
    let mut taken: Vec<(u64, u64)> = values
        .iter()
        .zip(places)
        .filter(|(other, _)| other.first <= value.last && value.first <= other.last)
        .filter_map(|(other, place)| {
            let place = (*place)?;
            (place.arena == arena).then_some((place.offset, place.offset + other.bytes))
        })
        .collect();
    taken.sort_unstable();
    let mut offset = 0;
    for (start, end) in taken {
        if offset + value.bytes <= start {
            break;
        }
        offset = offset.max(end);
    }
    offset
}

/// Bytes that live at the busiest command: no placement can use fewer.
pub(super) fn lower_bound(values: &[Lifetime]) -> u64 {
    let last = values.iter().map(|value| value.last).max().unwrap_or(0);
    let mut change = vec![0i128; last + 2];
    for value in values {
        change[value.first] += i128::from(value.bytes);
        change[value.last + 1] -= i128::from(value.bytes);
    }
    let mut live = 0i128;
    let mut most = 0i128;
    for step in change {
        live += step;
        most = most.max(live);
    }
    u64::try_from(most).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: u64, first: usize, last: usize) -> Lifetime {
        Lifetime { bytes, first, last }
    }

    #[test]
    fn values_that_never_meet_share_memory() {
        let values = [value(256, 0, 1), value(512, 1, 2), value(256, 2, 3)];
        let (places, arenas) = place(&values, u64::MAX);
        assert_eq!(arenas, vec![768]);
        assert_eq!(places[0], places[2]);
        assert_eq!(lower_bound(&values), 768);
    }

    #[test]
    fn a_full_arena_opens_the_next() {
        let values = [value(512, 0, 1), value(512, 0, 1)];
        let (places, arenas) = place(&values, 600);
        assert_eq!(arenas, vec![512, 512]);
        assert_ne!(places[0].arena, places[1].arena);
    }
}
