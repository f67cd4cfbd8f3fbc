use super::*;

const FLAVA: BlockMask = BlockMask {
    grid: 14,
    count: 75,
    least: 16,
    aspect: 0.3,
};

/// The figures of the reference implementation over 20,000 draws: mean 74.47, all 75 in 66.6 %, never
/// below 64; patches in the middle 72 %, in the corners 4 %.
#[test]
fn blocks_have_the_statistics_of_the_reference() {
    const DRAWS: usize = 20_000;
    let mut hidden = vec![0_usize; 14 * 14];
    let mut counts = Vec::with_capacity(DRAWS);
    for draw in 0..DRAWS {
        let mask = FLAVA.draw(&mut Random::at(7, &[draw as u64]));
        counts.push(mask.iter().filter(|it| **it).count());
        for (sum, it) in hidden.iter_mut().zip(&mask) {
            *sum += usize::from(*it);
        }
    }
    let share = |count: usize| count as f64 / DRAWS as f64;
    let mean = share(counts.iter().sum());
    assert!((mean - 74.47).abs() < 0.03, "mean {mean}");
    let full = share(counts.iter().filter(|it| **it == 75).count());
    assert!((full - 0.666).abs() < 0.015, "full {full}");
    assert!(counts.iter().all(|it| (60..=75).contains(it)));
    let middle = share(hidden[6 * 14 + 6]);
    let corner = share(hidden[0]);
    assert!((middle - 0.72).abs() < 0.02, "middle {middle}");
    assert!((corner - 0.04).abs() < 0.01, "corner {corner}");
}

#[test]
fn blocks_are_rectangles_that_stay_below_the_grid() {
    let small = BlockMask {
        grid: 4,
        count: 6,
        least: 2,
        aspect: 0.3,
    };
    for draw in 0..500 {
        let mask = small.draw(&mut Random::at(0, &[draw]));
        let count = mask.iter().filter(|it| **it).count();
        assert!((1..=6).contains(&count), "{count}");
    }
    let none = BlockMask { count: 0, ..small };
    assert!(!none.draw(&mut Random::at(0, &[])).contains(&true));
}

fn rule(unit: MaskUnit) -> TokenMask {
    TokenMask {
        share: 0.15,
        unit,
        token: 4,
        replaced: 0.8,
        random: 0.1,
        vocabulary: 1_000,
    }
}

/// Twenty-two tokens: one added at each end, twenty in ten words of one, two or three.
fn pieces() -> Pieces {
    let sizes = [1, 2, 3, 1, 2, 3, 1, 2, 3, 2];
    let words = sizes.iter().zip(0..);
    let inner = words.flat_map(|(size, word)| std::iter::repeat_n(Some(word), *size));
    let words: Vec<Option<u32>> = std::iter::once(None)
        .chain(inner)
        .chain(std::iter::once(None))
        .collect();
    Pieces {
        ids: (500..500 + words.len() as u32).collect(),
        words,
    }
}

#[test]
fn tokens_are_hidden_in_the_stated_shares() {
    let (rule, pieces) = (rule(MaskUnit::Token), pieces());
    let [mut hidden, mut replaced, mut kept, mut other] = [0_usize; 4];
    const DRAWS: usize = 20_000;
    for draw in 0..DRAWS {
        let (read, mask) = rule.draw(&pieces, &mut Random::at(1, &[draw as u64]));
        assert!(!mask[0] && !mask[21], "added tokens are never hidden");
        for place in 0..22 {
            let (now, own) = (read[place], pieces.ids[place]);
            hidden += usize::from(mask[place]);
            replaced += usize::from(mask[place] && now == 4);
            kept += usize::from(mask[place] && now == own);
            other += usize::from(mask[place] && now != own && now != 4);
            assert!(mask[place] || now == own, "what is not hidden is as it was");
        }
    }
    let share = |count: usize, of: usize| count as f64 / of as f64;
    let close = |found: f64, expected: f64| {
        assert!(
            (found - expected).abs() < 0.005,
            "{found} is not {expected}"
        );
    };
    close(share(hidden, 20 * DRAWS), 0.15);
    close(share(replaced, hidden), 0.8);
    close(share(kept, hidden), 0.1);
    close(share(other, hidden), 0.1);
}

#[test]
fn words_are_hidden_whole() {
    let (rule, pieces) = (rule(MaskUnit::Word), pieces());
    let mut total = 0;
    for draw in 0..2_000 {
        let (_, mask) = rule.draw(&pieces, &mut Random::at(2, &[draw]));
        let count = mask.iter().filter(|it| **it).count();
        assert_eq!(count, 3, "15 % of twenty tokens, and some words have one");
        total += count;
        for place in 2..21 {
            if pieces.words[place] == pieces.words[place - 1] {
                assert_eq!(mask[place], mask[place - 1]);
            }
        }
    }
    assert_eq!(total, 6_000);
}
