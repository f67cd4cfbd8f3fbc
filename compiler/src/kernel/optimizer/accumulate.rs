//! The mean of the gradients of several batches, in the order of the batches.

use super::{GRADIENTS, LANES, real};
use crate::kernel::ir::{Builder, Builtin, Expr, Scalar};
use crate::kernel::{Launch, Slot, linear_grid};
use crate::plan::{Limits, StepWord};

/// The launch that adds the share of a batch's gradients to the means; the first batch of a step
/// begins them anew. Slots: input 1 is the gradients, output 0 the means.
///
/// # Errors
/// Arenas that no kernel can address.
pub fn lower_accumulate(words: usize, batches: u32, limits: &Limits) -> Result<Launch, String> {
    let mut b = Builder::new("accumulate", [LANES as u32, 1, 1]);
    b.doc("Adds the gradients of one batch to the mean over the batches of a step.");
    let gradients = b.binding("gradients", Scalar::F32, true);
    let means = b.binding("means", Scalar::F32, true);
    let step = b.binding("step", Scalar::U32, false);
    let quads = words.div_ceil(4);
    let total = b.size("quads", quads);
    let group = b.linear_group();
    let item = group * LANES as u32 + Expr::builtin(Builtin::LocalIndex);
    let item = b.bind("item", item);
    b.when(item.less(total), |b| {
        let share = real(1.0 / f64::from(batches.max(1)));
        let share = b.bind("share", gradients.at4(&item) * share);
        b.choose(
            step.at(StepWord::Part as u32).equals(0u32),
            |b| b.store(means, item.clone(), share.clone()),
            |b| b.store(means, item.clone(), means.at4(&item) + &share),
        );
    });
    let slots = vec![GRADIENTS, Slot::Output(0), Slot::Step];
    let grid = linear_grid(quads.div_ceil(LANES), limits);
    Launch::new(b, slots, grid, 2 * words as u64, 12 * words as u64)
}
