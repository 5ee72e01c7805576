//! What the builders of plans share: weights by name, and the commonest ops.

use std::ops::Range;
use std::sync::Arc;

use super::{Activation, Buffer, BufferId, Layout, Op, Operand, Pick, Plan, PlanError, Role, View, Weight, WeightId};

#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    pub weight: WeightId,
    pub bias: WeightId,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    pub weight: WeightId,
    pub bias: WeightId,
}

/// Collects weights and hands out their ids.
#[derive(Default)]
pub(super) struct Collector(pub Vec<Weight>);

impl Collector {
    pub fn add(&mut self, weight: Weight) -> WeightId {
        self.0.push(weight);
        WeightId(self.0.len() - 1)
    }

    /// The right-hand side of a product: matrices of equal width, one under the other.
    pub fn stack(&mut self, tensors: Vec<String>, rows: usize, columns: usize) -> WeightId {
        self.add(Weight { rows, columns, tensors, take: 0..columns, pick: Pick::All, role: Role::Factor })
    }

    pub fn matrix(&mut self, tensor: String, rows: usize, columns: usize) -> WeightId {
        self.stack(vec![tensor], rows, columns)
    }

    /// The right-hand side of a product: some columns, or some rows, of a matrix.
    pub fn part(&mut self, tensor: String, rows: Range<usize>, columns: Range<usize>) -> WeightId {
        let (count, width) = (rows.len(), columns.len());
        let pick = Pick::Range(rows);
        self.add(Weight { rows: count, columns: width, tensors: vec![tensor], take: columns, pick, role: Role::Factor })
    }

    /// Vectors side by side, to be added or multiplied; all of one width.
    pub fn vectors(&mut self, tensors: Vec<String>, width: usize) -> WeightId {
        let columns = tensors.len() * width;
        self.add(Weight { rows: 1, columns, tensors, take: 0..width, pick: Pick::All, role: Role::Table })
    }

    pub fn vector(&mut self, tensor: String, columns: usize) -> WeightId {
        self.vectors(vec![tensor], columns)
    }

    pub fn linear(&mut self, module: &str, rows: usize, columns: usize) -> Linear {
        Linear {
            weight: self.matrix(format!("{module}.weight"), rows, columns),
            bias: self.vector(format!("{module}.bias"), rows),
        }
    }

    pub fn norm(&mut self, module: &str, columns: usize) -> Norm {
        Norm {
            weight: self.vector(format!("{module}.weight"), columns),
            bias: self.vector(format!("{module}.bias"), columns),
        }
    }
}

/// The buffers of a plan in the making.
#[derive(Default)]
pub(super) struct Buffers(Vec<Buffer>);

impl Buffers {
    pub fn add(&mut self, name: &'static str, rows: usize, columns: usize) -> View {
        self.push(Buffer { name, rows, columns, initial: None, kept: false })
    }

    /// Memory that lasts from run to run.
    pub fn kept(&mut self, name: &'static str, rows: usize, columns: usize) -> View {
        self.push(Buffer { name, rows, columns, initial: None, kept: true })
    }

    pub fn constant(&mut self, name: &'static str, columns: usize, numbers: Vec<f32>) -> View {
        let rows = numbers.len() / columns;
        self.push(Buffer { name, rows, columns, initial: Some(Arc::from(numbers)), kept: false })
    }

    fn push(&mut self, buffer: Buffer) -> View {
        let (rows, columns) = (buffer.rows, buffer.columns);
        self.0.push(buffer);
        View { buffer: BufferId(self.0.len() - 1), row: 0, rows, column: 0, columns }
    }

    /// A plan of these buffers alone.
    ///
    /// # Errors
    /// If it breaks a rule.
    pub fn plan(self, name: &'static str, ops: Vec<Op>, weights: &[Weight]) -> Result<Plan, PlanError> {
        let plan = Plan { name, layout: Layout::new(), variant: 0, buffers: Arc::from(self.0), ops };
        plan.check(weights)?;
        Ok(plan)
    }
}

pub(super) fn rms_norm(input: View, weight: WeightId, epsilon: f32, output: View) -> Op {
    Op::RmsNorm { input, weight, epsilon, output }
}

fn gemm(input: View, weight: WeightId, bias: Option<WeightId>, residual: Option<View>, output: View) -> Op {
    let (bias, residual) = (bias.map(Operand::Weight), residual.map(Operand::View));
    Op::Gemm { input, weight, scale: 1.0, bias, activation: Activation::Identity, residual, output }
}

pub(super) fn matmul(input: View, weight: WeightId, output: View) -> Op {
    gemm(input, weight, None, None, output)
}

pub(super) fn add_matmul(input: View, weight: WeightId, residual: View, output: View) -> Op {
    gemm(input, weight, None, Some(residual), output)
}

pub(super) fn linear(input: View, linear: Linear, output: View) -> Op {
    gemm(input, linear.weight, Some(linear.bias), None, output)
}

pub(super) fn add_linear(input: View, linear: Linear, stream: View) -> Op {
    gemm(input, linear.weight, Some(linear.bias), Some(stream), stream)
}

pub(super) fn activated(input: View, linear: Linear, activation: Activation, output: View) -> Op {
    let bias = Some(Operand::Weight(linear.bias));
    Op::Gemm { input, weight: linear.weight, scale: 1.0, bias, activation, residual: None, output }
}
