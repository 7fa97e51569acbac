//! `qk_norm`: norms of queries and keys before they are rotated.

use super::{Bind, Call, Case, CaseInput, Extent, HostInput, Kernel, NormKind, Op, Step, reduce_slot};
use crate::tensor::{Dim, TensorType};

/// Neighbouring groups of columns, each normalised by itself: heads, or all of them as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormGroups {
    /// How many.
    pub count: u32,
    /// Columns of each, a multiple of 4.
    pub cols: u32,
}

impl NormGroups {
    const fn all_cols(self) -> u32 {
        self.count * self.cols
    }
}

/// Inputs: fused rows `[q | k | v]` `(tokens, cols)`, weight and bias, vectors of the columns of q and k. Output: the
/// same rows with q and k normalised group by group (Henry et al. 2020; per head in Qwen3 and Gemma 3, whole rows in
/// OLMo 2).
#[derive(Debug, Clone)]
pub struct QkNorm {
    /// Which norm.
    pub kind: NormKind,
    /// Keeps the root away from zero.
    pub eps: f32,
    /// Groups of q.
    pub q: NormGroups,
    /// Groups of k, right behind.
    pub k: NormGroups,
    /// Columns of v, which are copied.
    pub v_cols: u32,
}

impl QkNorm {
    /// First column and columns of every group.
    fn groups(&self) -> impl Iterator<Item = (usize, usize)> {
        let (q, k) = (self.q, self.k);
        let of_q = (0..q.count).map(move |at| (at * q.cols, q.cols));
        let of_k = (0..k.count).map(move |at| (q.all_cols() + at * k.cols, k.cols));
        of_q.chain(of_k).map(|(start, cols)| (start as usize, cols as usize))
    }
}

impl Op for QkNorm {
    fn name(&self) -> &'static str {
        "qk_norm"
    }

    fn kernels(&self, call: &Call<'_>) -> Vec<Kernel> {
        let most = if call.traits.software { 8 } else { 256 };
        let workgroup = (self.q.cols.max(self.k.cols) / 4).next_power_of_two().max(8).min(most);
        let workgroup = call.traits.subgroup.unwrap_or(1).max(workgroup).min(call.traits.invocations);
        let mut overrides = vec![
            ("WORKGROUP", f64::from(workgroup)),
            ("LANES", f64::from(workgroup)),
            ("Q_GROUPS", f64::from(self.q.count)),
            ("Q_COLS", f64::from(self.q.cols)),
            ("K_GROUPS", f64::from(self.k.count)),
            ("K_COLS", f64::from(self.k.cols)),
            ("V_COLS", f64::from(self.v_cols)),
            ("EPS", f64::from(self.eps)),
            ("CENTRED", f64::from(u8::from(self.kind == NormKind::Layer))),
        ];
        let reduce = reduce_slot(call.traits, workgroup, &mut overrides);
        vec![Kernel {
            source: "qk_norm",
            slots: vec![reduce],
            overrides,
            bindings: vec![
                ("qkv", Bind::Input(0)),
                ("weight", Bind::Input(1)),
                ("bias", Bind::Input(2)),
                ("output", Bind::Output(0)),
            ],
            workgroups: [Extent::Fixed(self.q.count + self.k.count + 1), Extent::Tokens { per: 1 }, Extent::Fixed(1)],
            scratch: vec![],
        }]
    }

    fn reference(&self, _step: Step, inputs: &[HostInput<'_>], outputs: &mut [&mut [f32]]) {
        let (qkv, weight, bias) = (inputs[0].f32(), inputs[1].f32(), inputs[2].f32());
        let cols = (self.q.all_cols() + self.k.all_cols() + self.v_cols) as usize;
        outputs[0].copy_from_slice(qkv);
        for (row, output) in qkv.chunks_exact(cols).zip(outputs[0].chunks_exact_mut(cols)) {
            for (start, width) in self.groups() {
                let group = &row[start..start + width];
                let mean =
                    |of: &dyn Fn(f64) -> f64| group.iter().map(|x| of(f64::from(*x))).sum::<f64>() / width as f64;
                let centre = if self.kind == NormKind::Layer { mean(&|x| x) } else { 0.0 };
                let scale = (mean(&|x| (x - centre) * (x - centre)) + f64::from(self.eps)).sqrt().recip();
                for at in start..start + width {
                    let normed = (f64::from(row[at]) - centre) * scale * f64::from(weight[at]);
                    output[at] = (normed + f64::from(bias[at])) as f32;
                }
            }
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [NormKind::Rms, NormKind::Layer] {
        // (tokens, q groups, their columns, k groups, their columns, v columns)
        for (tokens, q, q_cols, k, k_cols, v_cols) in
            [(1, 5, 64, 1, 64, 64), (3, 4, 20, 4, 20, 80), (5, 1, 576, 1, 192, 192), (1, 1, 4096, 1, 1024, 1024)]
        {
            let op = QkNorm {
                kind,
                eps: 1e-6,
                q: NormGroups { count: q, cols: q_cols },
                k: NormGroups { count: k, cols: k_cols },
                v_cols,
            };
            let normed = q * q_cols + k * k_cols;
            let rows = CaseInput::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(normed + v_cols)]));
            let vector = CaseInput::Vector(normed as usize);
            cases.push(Case {
                label: format!("{tokens} tokens {op:?}"),
                op: Box::new(op),
                inputs: vec![rows.clone(), vector.clone(), vector],
                outputs: vec![rows],
                step: Step::new(tokens, 3, 1),
                max_nmse: 1e-11,
            });
        }
    }
    cases
}
