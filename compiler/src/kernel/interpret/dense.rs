//! Pointwise, row, column and matmul.

use super::*;

pub(super) fn run(
    spec: &KernelSpec,
    inputs: &[&[f64]],
    outputs: &mut [Vec<f64>],
    draws: Draws,
) -> Result<(), String> {
    match spec {
        KernelSpec::Pointwise {
            space,
            inputs: operands,
            program,
            outputs: stores,
        } => {
            let all = Elements {
                operands,
                inputs,
                program,
                draws,
            };
            all.run(space, stores, outputs, &|_| Ok(0.0))
        }
        KernelSpec::Row {
            rows,
            columns,
            inputs: operands,
            program,
            outputs: stores,
        } => {
            let all = Elements {
                operands,
                inputs,
                program,
                draws,
            };
            all.rows(rows, *columns, stores, outputs)
        }
        KernelSpec::Column {
            batch,
            rows,
            columns,
            inputs: operands,
            program,
            outputs: stores,
        } => {
            let all = Elements {
                operands,
                inputs,
                program,
                draws,
            };
            all.columns([*batch, *rows, *columns], stores, outputs)
        }
        KernelSpec::Matmul {
            batch,
            m,
            n,
            k,
            a,
            b,
            packed,
            inputs: operands,
            program,
            outputs: stores,
            column_sums,
        } => {
            let (left, right) = (&inputs[..a.inputs()], inputs[a.inputs()]);
            let right = &*unpacked(packed.as_ref(), right);
            if let Some(operand) = column_sums {
                for column in 0..*n {
                    let mut sum = 0.0;
                    for row in 0..*k {
                        let place = b.offset + row * b.row_stride + column * b.column_stride;
                        sum += at(right, place)?;
                    }
                    write(outputs, stores.len(), offset(operand, &[column]), sum)?;
                }
            }
            let all = Elements {
                operands,
                inputs: &inputs[a.inputs() + 1..],
                program,
                draws,
            };
            let mut space = batch.clone();
            space.extend([*m, *n]);
            let axes = batch.len();
            all.run(&space, stores, outputs, &|index| {
                let element = |matrix: &Matrix, row: usize, column: usize| {
                    let lead: usize = matrix
                        .batch_strides
                        .iter()
                        .zip(index)
                        .map(|(s, i)| s * i)
                        .sum();
                    matrix.offset + lead + row * matrix.row_stride + column * matrix.column_stride
                };
                let of_left = |step: usize| match a {
                    Left::Matrix(a) => at(left[0], element(a, index[axes], step)),
                    Left::Computed {
                        inputs: operands,
                        program,
                        value,
                    } => {
                        let mut place = index[..=axes].to_vec();
                        place.push(step);
                        let elements = Elements {
                            operands,
                            inputs: left,
                            program,
                            draws,
                        };
                        Ok(elements.values(&place, 0, 0.0)?[*value])
                    }
                };
                let mut sum = 0.0;
                for step in 0..*k {
                    sum += of_left(step)? * at(right, element(b, step, index[axes + 1]))?;
                }
                Ok(sum)
            })
        }
        _ => Err("not a dense family".to_owned()),
    }
}

pub(super) struct Elements<'a> {
    pub(super) operands: &'a [Operand],
    pub(super) inputs: &'a [&'a [f64]],
    pub(super) program: &'a Program,
    pub(super) draws: Draws,
}

impl Elements<'_> {
    fn values(
        &self,
        index: &[usize],
        element: usize,
        accumulator: f64,
    ) -> Result<Vec<f64>, String> {
        let point = Point {
            index,
            element: element as u64,
            accumulator,
            draws: self.draws,
        };
        let mut values = Vec::with_capacity(self.program.instrs.len());
        for id in 0..self.program.instrs.len() {
            values.push(instruction(
                self.program,
                id,
                &values,
                self.operands,
                self.inputs,
                &point,
            )?);
        }
        Ok(values)
    }

    fn run(
        &self,
        space: &[usize],
        stores: &[Store],
        outputs: &mut [Vec<f64>],
        accumulator: &dyn Fn(&[usize]) -> Result<f64, String>,
    ) -> Result<(), String> {
        for (element, index) in indices(space).enumerate() {
            let values = self.values(&index, element, accumulator(&index)?)?;
            for (output, store) in stores.iter().enumerate() {
                write(
                    outputs,
                    output,
                    offset(&store.operand, &index),
                    values[store.value],
                )?;
            }
        }
        Ok(())
    }

    fn rows(
        &self,
        rows: &[usize],
        columns: usize,
        stores: &[Store],
        outputs: &mut [Vec<f64>],
    ) -> Result<(), String> {
        for (row, index) in indices(rows).enumerate() {
            let points: Vec<Vec<usize>> = (0..columns)
                .map(|column| index.iter().copied().chain([column]).collect())
                .collect();
            // One list per instruction, one entry per column; reductions fill all columns.
            let mut table: Vec<Vec<f64>> = vec![Vec::new(); columns];
            for id in 0..self.program.instrs.len() {
                self.extend_row(id, row, columns, &points, &mut table)?;
            }
            for (output, store) in stores.iter().enumerate() {
                let per_row = store.operand.view.strides.len() == rows.len();
                for (point, values) in
                    points
                        .iter()
                        .zip(&table)
                        .take(if per_row { 1 } else { columns })
                {
                    write(
                        outputs,
                        output,
                        offset(&store.operand, point),
                        values[store.value],
                    )?;
                }
            }
        }
        Ok(())
    }

    fn extend_row(
        &self,
        id: InstrId,
        row: usize,
        columns: usize,
        points: &[Vec<usize>],
        table: &mut [Vec<f64>],
    ) -> Result<(), String> {
        if let Instr::Reduce(kind, value) = self.program.instrs[id] {
            let all = table.iter().map(|values| values[value]);
            let result = match kind {
                Reduce::Sum => all.sum(),
                Reduce::Maximum => all.fold(f64::NEG_INFINITY, f64::max),
            };
            table.iter_mut().for_each(|values| values.push(result));
            return Ok(());
        }
        for (column, values) in table.iter_mut().enumerate() {
            let element = (row * columns + column) as u64;
            let point = Point {
                index: &points[column],
                element,
                accumulator: 0.0,
                draws: self.draws,
            };
            let value = instruction(self.program, id, values, self.operands, self.inputs, &point)?;
            values.push(value);
        }
        Ok(())
    }

    fn columns(
        &self,
        sizes: [usize; 3],
        stores: &[(Reduce, Store)],
        outputs: &mut [Vec<f64>],
    ) -> Result<(), String> {
        let [_, rows, _] = sizes;
        for (element, index) in indices(&sizes).enumerate() {
            let values = self.values(&index, element, 0.0)?;
            let kept = [index[0], index[2]];
            for (output, (kind, store)) in stores.iter().enumerate() {
                let place = offset(&store.operand, &kept);
                let before = at(&outputs[output], place)?;
                let value = values[store.value];
                let combined = match kind {
                    _ if index[1] == 0 => value,
                    Reduce::Sum => before + value,
                    Reduce::Maximum => before.max(value),
                };
                debug_assert!(rows > 0);
                write(outputs, output, place, combined)?;
            }
        }
        Ok(())
    }
}
