//! Cross-entropy in parts of the classes: logits of one part live in scratch memory and are forgotten.
//!
//! ```text
//! forward   per part:  logits = x w_part         -> log-sum-exp and target's logit of the part
//!           then:      log-sum-exp of the parts  -> log-sum-exp, loss
//! backward  per part:  flow = g (exp(x w_part - log-sum-exp) - one-hot)
//!                      gradient of x  += flow w_part^T
//!                      gradient of w_part = x^T flow
//! ```
//!
//! Every step is a matmul or a row kernel of its own spec; the logits are computed once more on the way back.

use super::spec::{
    Binary, CrossEntropyResult, Instr, InstrId, KernelSpec, Matrix, Operand, Program, Reduce,
    Store, Unary, View,
};
use super::{Lowered, Slot, lower};
use crate::graph::DType;
use crate::plan::Limits;

/// Logits of a part: rows times classes stay below this many, as far as a part of [`LEAST_PART`] allows.
const MOST_LOGITS: usize = 2 << 20;

/// Least classes of a part, and what a part is a multiple of.
const LEAST_PART: usize = 256;

/// A cross-entropy group under lowering.
pub(crate) struct CrossEntropy<'a> {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) classes: usize,
    pub(crate) x: &'a Matrix,
    pub(crate) w: &'a Matrix,
    pub(crate) outputs: &'a [CrossEntropyResult],
    pub(crate) transpose: bool,
    pub(crate) further: &'a [(Matrix, usize)],
    pub(crate) first: usize,
}

/// One part of the classes, inside one of the matrices that w consists of.
#[derive(Clone, Copy)]
struct Part {
    number: usize,
    matrix: usize,
    /// Its first class in that matrix, and in all.
    start: usize,
    first: usize,
    classes: usize,
}

const LOGITS: usize = 0;
const TOTALS: usize = 1;
const PICKED: usize = 2;

/// The matrix with rows and columns exchanged.
fn transposed(matrix: &Matrix) -> Matrix {
    Matrix {
        row_stride: matrix.column_stride,
        column_stride: matrix.row_stride,
        ..matrix.clone()
    }
}

fn operand(dtype: DType, elements: usize, offset: usize, strides: &[usize]) -> Operand {
    let strides = strides.to_vec();
    Operand {
        dtype,
        elements,
        view: View { offset, strides },
    }
}

/// Programs of f32 in a readable form.
#[derive(Default)]
struct Arithmetic(Program);

impl Arithmetic {
    fn float(&mut self, instr: Instr) -> InstrId {
        self.0.push(instr, DType::F32)
    }

    fn load(&mut self, input: usize) -> InstrId {
        self.float(Instr::Load { input })
    }

    fn binary(&mut self, function: Binary, x: InstrId, y: InstrId) -> InstrId {
        self.float(Instr::Binary(function, x, y))
    }

    fn unary(&mut self, function: Unary, x: InstrId) -> InstrId {
        self.float(Instr::Unary(function, x))
    }

    fn constant(&mut self, value: f64) -> InstrId {
        self.float(Instr::Constant(value))
    }

    fn log_sum_exp(&mut self, x: InstrId) -> InstrId {
        let top = self.float(Instr::Reduce(Reduce::Maximum, x));
        let shifted = self.binary(Binary::Subtract, x, top);
        let exp = self.unary(Unary::Exp, shifted);
        let sum = self.float(Instr::Reduce(Reduce::Sum, exp));
        let log = self.unary(Unary::Log, sum);
        self.binary(Binary::Add, top, log)
    }

    /// Whether the column of a part is the class of the target in `input`.
    fn is_target(&mut self, input: usize, part: Part) -> InstrId {
        let target = self.0.push(Instr::Load { input }, DType::U32);
        let first = u32::try_from(part.first).unwrap_or(u32::MAX);
        let first = self.0.push(Instr::Word(first), DType::U32);
        let local = Instr::Binary(Binary::Subtract, target, first);
        let local = self.0.push(local, DType::U32);
        let column = self.0.push(Instr::Index { axis: 1 }, DType::U32);
        let same = Instr::Binary(Binary::Equal, column, local);
        self.0.push(same, DType::Bool)
    }
}

impl CrossEntropy<'_> {
    /// Launches for all parts.
    pub(crate) fn lower(&self, limits: &Limits) -> Result<Lowered, String> {
        if self.rows * self.width * self.classes == 0 {
            return Ok(Lowered::default());
        }
        match self.outputs.iter().all(|it| it.is_gradient()) {
            true => self.backward(limits),
            false => self.forward(limits),
        }
    }

    fn parts(&self) -> Vec<Part> {
        let fit = MOST_LOGITS / self.rows / LEAST_PART * LEAST_PART;
        let each = fit.max(LEAST_PART);
        let mut parts = Vec::new();
        let mut before = self.first;
        for matrix in 0..=self.further.len() {
            let all = self.classes_of(matrix);
            for start in (0..all).step_by(each) {
                parts.push(Part {
                    number: parts.len(),
                    matrix,
                    start,
                    first: before + start,
                    classes: each.min(all - start),
                });
            }
            before += all;
        }
        parts
    }

    fn classes_of(&self, matrix: usize) -> usize {
        let further = || self.further.iter().map(|(_, classes)| classes);
        match matrix {
            0 => self.classes - further().sum::<usize>(),
            _ => further().nth(matrix - 1).copied().unwrap_or(0),
        }
    }

    /// Where the matrix of a part is given: behind the targets, when there are any.
    fn input(&self, part: Part, picks: bool) -> Slot {
        Slot::Input(match part.matrix {
            0 => 1,
            further => 1 + usize::from(picks) + further,
        })
    }

    /// Logits of the largest part, in words.
    fn logits(&self) -> usize {
        let most = self.parts().iter().map(|part| part.classes).max();
        self.rows * most.unwrap_or(0)
    }

    /// A matrix in the scratch memory of a part's logits.
    fn scratch(&self, part: Part) -> Matrix {
        Matrix {
            elements: self.logits(),
            offset: 0,
            batch_strides: Vec::new(),
            row_stride: part.classes,
            column_stride: 1,
        }
    }

    /// The columns of w that a part covers.
    fn columns(&self, part: Part) -> Matrix {
        let w = match part.matrix {
            0 => self.w,
            further => self.further.get(further - 1).map_or(self.w, |(w, _)| w),
        };
        Matrix {
            offset: w.offset + part.start * w.column_stride,
            ..w.clone()
        }
    }

    fn per_row(&self, dtype: DType) -> Operand {
        operand(dtype, self.rows, 0, &[1, 0])
    }

    /// x w over a part, then an epilogue, into the scratch memory.
    fn product(
        &self,
        part: Part,
        program: Arithmetic,
        value: InstrId,
        inputs: Vec<Operand>,
    ) -> KernelSpec {
        let stored = operand(DType::F32, self.logits(), 0, &[part.classes, 1]);
        KernelSpec::Matmul {
            batch: Vec::new(),
            m: self.rows,
            n: part.classes,
            k: self.width,
            a: self.x.clone().into(),
            b: self.columns(part),
            packed: None,
            inputs,
            program: program.0,
            outputs: vec![Store {
                value,
                operand: stored,
            }],
            column_sums: None,
        }
    }

    fn forward(&self, limits: &Limits) -> Result<Lowered, String> {
        let parts = self.parts();
        let picks = self.outputs.contains(&CrossEntropyResult::Loss);
        let table = self.rows * parts.len();
        let mut all = Lowered {
            launches: Vec::new(),
            scratch: vec![self.logits(), table, if picks { table } else { 1 }],
        };
        for part in &parts {
            let mut program = Arithmetic::default();
            let logit = program.float(Instr::Accumulator);
            let product = self.product(*part, program, logit, Vec::new());
            all.append(lower(&product, limits)?, |slot| match slot {
                Slot::Input(1) => self.input(*part, picks),
                Slot::Output(_) => Slot::Scratch(LOGITS),
                other => other,
            });
            let row = self.summary(*part, parts.len(), picks);
            all.append(lower(&row, limits)?, |slot| match slot {
                Slot::Input(0) => Slot::Scratch(LOGITS),
                Slot::Input(_) => Slot::Input(2),
                Slot::Output(0) => Slot::Scratch(TOTALS),
                Slot::Output(_) => Slot::Scratch(PICKED),
                other => other,
            });
        }
        let last = self.combine(parts.len(), picks);
        all.append(lower(&last, limits)?, |slot| match slot {
            Slot::Input(0) => Slot::Scratch(TOTALS),
            Slot::Input(_) => Slot::Scratch(PICKED),
            other => other,
        });
        Ok(all)
    }

    /// Log-sum-exp of a part's logits and, if wanted, the target's logit or zero, per row.
    fn summary(&self, part: Part, parts: usize, picks: bool) -> KernelSpec {
        let logits = operand(DType::F32, self.logits(), 0, &[part.classes, 1]);
        let mut inputs = vec![logits];
        let mut program = Arithmetic::default();
        let logit = program.load(0);
        let mut results = vec![program.log_sum_exp(logit)];
        if picks {
            inputs.push(self.per_row(DType::U32));
            let is_target = program.is_target(1, part);
            let zero = program.constant(0.0);
            let picked = program.float(Instr::Select(is_target, logit, zero));
            results.push(program.float(Instr::Reduce(Reduce::Sum, picked)));
        }
        let store = |value| Store {
            value,
            operand: operand(DType::F32, self.rows * parts, part.number, &[parts]),
        };
        KernelSpec::Row {
            rows: vec![self.rows],
            columns: part.classes,
            inputs,
            program: program.0,
            outputs: results.into_iter().map(store).collect(),
        }
    }

    /// Log-sum-exp and loss from what the parts say.
    fn combine(&self, parts: usize, picks: bool) -> KernelSpec {
        let table = operand(DType::F32, self.rows * parts, 0, &[parts, 1]);
        let mut program = Arithmetic::default();
        let total = program.load(0);
        let total = program.log_sum_exp(total);
        let mut loss = total;
        if picks {
            let picked = program.load(1);
            let picked = program.float(Instr::Reduce(Reduce::Sum, picked));
            loss = program.binary(Binary::Subtract, total, picked);
        }
        let store = |result: &CrossEntropyResult| Store {
            value: match result {
                CrossEntropyResult::Loss => loss,
                _ => total,
            },
            operand: operand(DType::F32, self.rows, 0, &[1]),
        };
        KernelSpec::Row {
            rows: vec![self.rows],
            columns: parts,
            inputs: vec![table; if picks { 2 } else { 1 }],
            program: program.0,
            outputs: self.outputs.iter().map(store).collect(),
        }
    }

    fn backward(&self, limits: &Limits) -> Result<Lowered, String> {
        let parts = self.parts();
        let place = |wanted| self.outputs.iter().position(|it| *it == wanted);
        let (rows, classes) = (
            place(CrossEntropyResult::Rows),
            place(CrossEntropyResult::Classes),
        );
        // The sum over parts goes to and fro between scratch memory and the result, where it ends.
        let sums = if rows.is_some() {
            self.rows * self.width
        } else {
            1
        };
        let mut all = Lowered {
            launches: Vec::new(),
            scratch: vec![self.logits(), sums],
        };
        for part in &parts {
            all.append(lower(&self.flow(*part), limits)?, |slot| match slot {
                Slot::Input(index @ (0 | 1)) => Slot::Input(index),
                Slot::Input(2) => Slot::Input(3),
                Slot::Input(3) => Slot::Input(2),
                Slot::Output(_) => Slot::Scratch(LOGITS),
                other => other,
            });
            if let Some(output) = rows {
                let ends = (parts.len() - 1 - part.number).is_multiple_of(2);
                let [to, from] = match ends {
                    true => [Slot::Output(output), Slot::Scratch(1)],
                    false => [Slot::Scratch(1), Slot::Output(output)],
                };
                all.append(lower(&self.of_rows(*part), limits)?, |slot| match slot {
                    Slot::Input(0) => Slot::Scratch(LOGITS),
                    Slot::Input(2) => from,
                    Slot::Output(_) => to,
                    other => other,
                });
            }
            if let Some(output) = classes {
                let [flow, x] = if self.transpose { [0, 1] } else { [1, 0] };
                all.append(lower(&self.of_classes(*part), limits)?, |slot| match slot {
                    Slot::Input(index) if index == flow => Slot::Scratch(LOGITS),
                    Slot::Input(index) if index == x => Slot::Input(0),
                    Slot::Output(_) => Slot::Output(output),
                    other => other,
                });
            }
        }
        Ok(all)
    }

    /// g (exp(x w - log-sum-exp) - one-hot) of a part; epilogue inputs log-sum-exp, target and g.
    fn flow(&self, part: Part) -> KernelSpec {
        let mut program = Arithmetic::default();
        let logit = program.float(Instr::Accumulator);
        let total = program.load(0);
        let shifted = program.binary(Binary::Subtract, logit, total);
        let softmax = program.unary(Unary::Exp, shifted);
        let is_target = program.is_target(1, part);
        let (one, zero) = (program.constant(1.0), program.constant(0.0));
        let hot = program.float(Instr::Select(is_target, one, zero));
        let missing = program.binary(Binary::Subtract, softmax, hot);
        let gradient = program.load(2);
        let flow = program.binary(Binary::Multiply, gradient, missing);
        let inputs = [DType::F32, DType::U32, DType::F32].map(|it| self.per_row(it));
        self.product(part, program, flow, inputs.to_vec())
    }

    /// flow w_part^T, added to what earlier parts gave.
    fn of_rows(&self, part: Part) -> KernelSpec {
        let dense = operand(DType::F32, self.rows * self.width, 0, &[self.width, 1]);
        let mut program = Arithmetic::default();
        let mut value = program.float(Instr::Accumulator);
        if part.number > 0 {
            let before = program.load(0);
            value = program.binary(Binary::Add, value, before);
        }
        KernelSpec::Matmul {
            batch: Vec::new(),
            m: self.rows,
            n: self.width,
            k: part.classes,
            a: self.scratch(part).into(),
            b: transposed(&self.columns(part)),
            packed: None,
            inputs: vec![dense.clone(); usize::from(part.number > 0)],
            program: program.0,
            outputs: vec![Store {
                value,
                operand: dense,
            }],
            column_sums: None,
        }
    }

    /// x^T flow, into the columns (or rows, when w lies transposed) of a part.
    fn of_classes(&self, part: Part) -> KernelSpec {
        let mut program = Arithmetic::default();
        let value = program.float(Instr::Accumulator);
        let flow = self.scratch(part);
        let elements = self.width * self.classes;
        let (m, n, a, b, stored) = match self.transpose {
            false => {
                let stored = operand(DType::F32, elements, part.start, &[self.classes, 1]);
                (self.width, part.classes, transposed(self.x), flow, stored)
            }
            true => {
                let offset = part.start * self.width;
                let stored = operand(DType::F32, elements, offset, &[self.width, 1]);
                (
                    part.classes,
                    self.width,
                    transposed(&flow),
                    self.x.clone(),
                    stored,
                )
            }
        };
        KernelSpec::Matmul {
            batch: Vec::new(),
            m,
            n,
            k: self.rows,
            a: a.into(),
            b,
            packed: None,
            inputs: Vec::new(),
            program: program.0,
            outputs: vec![Store {
                value,
                operand: stored,
            }],
            column_sums: None,
        }
    }
}
