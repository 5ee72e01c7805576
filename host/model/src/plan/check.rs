//! The rules that executors rely on, checked.

use super::{Activation, KeyValue, Op, Operand, Plan, PlanError, Role, View, Weight, WeightId};

impl Plan {
    /// Proves the rules in this module's documentation that executors rely on for memory safety: every view lies in its
    /// buffer, shapes agree, constants are not written, outputs overlap inputs only where an op allows it.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn check(&self, weights: &[Weight]) -> Result<(), PlanError> {
        for (index, op) in self.ops.iter().enumerate() {
            self.check_op(op, weights).map_err(|rule| PlanError { plan: self.name, op: index, rule })?;
        }
        Ok(())
    }

    fn check_op(&self, op: &Op, weights: &[Weight]) -> Result<(), &'static str> {
        let weight = |id: &WeightId, role: Role| {
            let weight = weights.get(id.0).ok_or("weight does not exist")?;
            ensure(weight.role == role, "weight has another role").map(|()| weight)
        };
        let same = |a: &View, b: &View| (a.rows, a.columns) == (b.rows, b.columns);
        match op {
            Op::Gemm { input, weight: id, bias, activation, residual, output, .. } => {
                let w = weight(id, Role::Factor)?;
                let either = *activation == Activation::Identity || residual.is_none();
                ensure(either, "gemm: both an activation and a residual")?;
                ensure(input.columns == w.columns && output.columns == w.rows, "gemm: widths differ")?;
                ensure(input.rows == output.rows, "gemm: rows differ")?;
                for operand in [bias, residual].into_iter().flatten() {
                    let (rows, columns) = match operand {
                        Operand::Weight(id) => weight(id, Role::Table).map(|w| (w.rows, w.columns))?,
                        Operand::View(v) => (v.rows, v.columns),
                    };
                    ensure(columns == output.columns, "gemm: operand is not as wide as the output")?;
                    ensure(rows > 0 && output.rows % rows == 0, "gemm: operand's rows do not divide the output's")?;
                }
                if let Some(Operand::View(v)) = bias {
                    self.check_apart(&[v], output)?;
                }
                if let Some(Operand::View(v)) = residual
                    && v != output
                {
                    self.check_apart(&[v], output)?;
                }
                self.check_apart(&[input], output)
            }
            Op::LayerNorm { input, weight: w, bias, output, .. } => {
                ensure(same(input, output), "layer norm: shapes differ")?;
                for id in [w, bias] {
                    let w = weight(id, Role::Table)?;
                    ensure(w.rows == 1 && w.columns == input.columns, "layer norm: weight's shape")?;
                }
                self.check_apart(&[input], output)
            }
            Op::RmsNorm { input, weight: w, output, .. } => {
                ensure(same(input, output), "rms norm: shapes differ")?;
                let w = weight(w, Role::Table)?;
                ensure(w.rows == 1 && w.columns == input.columns, "rms norm: weight's shape")?;
                self.check_apart(&[input], output)
            }
            Op::Rope { view, batch, head_dim, first_position, positions, .. } => {
                ensure(head_dim % 2 == 0 && *head_dim > 0, "rope: head_dim is odd")?;
                ensure(view.columns % head_dim == 0, "rope: width is not a number of heads")?;
                ensure(*batch > 0 && view.rows % batch == 0, "rope: batch")?;
                ensure(first_position + view.rows / batch <= *positions, "rope: position beyond the last")?;
                self.check_apart(&[], view)
            }
            Op::Attention { batch, frames, heads, kv_heads, head_dim, query, past, own, output, mask } => {
                ensure(*kv_heads > 0 && heads % kv_heads == 0, "attention: heads do not group")?;
                ensure(query.columns == heads * head_dim && same(query, output), "attention: query's shape")?;
                ensure(*batch > 0 && query.rows % batch == 0, "attention: batch")?;
                ensure(*frames > 0 && batch % frames == 0, "attention: frames")?;
                let mut keys = 0;
                for KeyValue { key, value } in past.iter().chain([own]) {
                    ensure(key.columns == kv_heads * head_dim && same(key, value), "attention: key's shape")?;
                    ensure(key.rows % batch == 0, "attention: keys in a block")?;
                    // Kernels bind both at once.
                    ensure(key.buffer == value.buffer, "attention: keys and values lie in different buffers")?;
                    self.check_apart(&[key, value], output)?;
                    keys += key.rows / batch;
                }
                let square = past.is_none() && own.key.rows == query.rows;
                ensure(*frames == 1 || square, "attention: frames need equal keys and queries")?;
                ensure(mask.visible(0, keys) > 0, "attention: no keys")?;
                self.check_apart(&[query], output)
            }
            Op::SwiGlu { input, output } => {
                ensure(input.rows == output.rows && input.columns == 2 * output.columns, "swiglu: shapes")?;
                self.check_apart(&[input], output)
            }
            Op::PixelShuffle { input, side, factor, output } => {
                ensure(*factor > 0 && side % factor == 0, "pixel shuffle: factor does not divide side")?;
                ensure(*side > 0 && input.rows % (side * side) == 0, "pixel shuffle: rows are no grids")?;
                ensure(output.rows * factor * factor == input.rows, "pixel shuffle: rows")?;
                ensure(output.columns == input.columns * factor * factor, "pixel shuffle: columns")?;
                self.check_apart(&[input], output)
            }
            Op::Axpy { input, output, .. } => {
                ensure(same(input, output), "axpy: shapes differ")?;
                self.check_apart(&[input], output)
            }
        }
    }

    /// All views lie in their buffers, `output` is no constant, and it shares no element with any of `inputs`.
    fn check_apart(&self, inputs: &[&View], output: &View) -> Result<(), &'static str> {
        for view in inputs.iter().copied().chain([output]) {
            let buffer = self.buffers.get(view.buffer.0).ok_or("buffer does not exist")?;
            let inside = view.row + view.rows <= buffer.rows && view.column + view.columns <= buffer.columns;
            ensure(inside, "view leaves its buffer")?;
        }
        ensure(self.buffers[output.buffer.0].initial.is_none(), "constant is written")?;
        ensure(!inputs.iter().any(|view| view.overlaps(output)), "output overlaps an input")
    }
}

fn ensure(holds: bool, rule: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(rule) }
}
