//! Cross-entropy with its logits written out.

use super::*;
use crate::kernel::spec::CrossEntropyResult;

pub(super) fn run(
    spec: &KernelSpec,
    inputs: &[&[f64]],
    outputs: &mut [Vec<f64>],
) -> Result<(), String> {
    let KernelSpec::CrossEntropy {
        rows,
        width,
        classes,
        x,
        w,
        outputs: results,
        transpose,
        further,
        first,
    } = spec
    else {
        return Err("no cross-entropy".to_owned());
    };
    let element = |input: usize, matrix: &Matrix, row: usize, column: usize| {
        let place = matrix.offset + row * matrix.row_stride + column * matrix.column_stride;
        at(inputs[input], place)
    };
    let own = classes - further.iter().map(|(_, classes)| classes).sum::<usize>();
    let picks = usize::from(results.contains(&CrossEntropyResult::Loss));
    // Element (d, v) of w, whose classes may lie in several matrices.
    let weight = |d: usize, v: usize| {
        let (mut start, mut found) = (own, (1, w, v));
        for (number, (matrix, classes)) in further.iter().enumerate() {
            if v >= start {
                found = (2 + picks + number, matrix, v - start);
            }
            start += classes;
        }
        element(found.0, found.1, d, found.2)
    };
    for (output, result) in results.iter().enumerate() {
        if result.is_gradient() {
            outputs[output].fill(0.0);
        }
    }
    for row in 0..*rows {
        let logit = |v: usize| -> Result<f64, String> {
            let mut sum = 0.0;
            for d in 0..*width {
                sum += element(0, x, row, d)? * weight(d, v)?;
            }
            Ok(sum)
        };
        let logits: Vec<f64> = (0..*classes).map(logit).collect::<Result<_, _>>()?;
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total = top + logits.iter().map(|z| (z - top).exp()).sum::<f64>().ln();
        for (output, result) in results.iter().enumerate() {
            match result {
                CrossEntropyResult::Loss => {
                    let target = at(inputs[2], row)? as usize;
                    write(outputs, output, row, total - at(&logits, target)?)?;
                }
                CrossEntropyResult::LogSumExp => write(outputs, output, row, total)?,
                CrossEntropyResult::Rows | CrossEntropyResult::Classes => {
                    let (target, total) = (at(inputs[2], row)? as usize, at(inputs[3], row)?);
                    for (v, z) in logits.iter().enumerate() {
                        let hot = f64::from(u8::from(first + v == target));
                        let flow = at(inputs[4], row)? * ((z - total).exp() - hot);
                        for d in 0..*width {
                            let (place, term) = match (result, transpose) {
                                (CrossEntropyResult::Rows, _) => {
                                    (row * width + d, flow * weight(d, v)?)
                                }
                                (_, false) => (d * classes + v, flow * element(0, x, row, d)?),
                                (_, true) => (v * width + d, flow * element(0, x, row, d)?),
                            };
                            let before = at(&outputs[output], place)?;
                            write(outputs, output, place, before + term)?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}
