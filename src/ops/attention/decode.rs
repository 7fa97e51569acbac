//! Decode's kernels: each token by itself, whatever else is in the forward.
//!
//! A token that sees few positions is one workgroup's a head, which writes the result; the positions of one that sees
//! more are split, so that a long context fills the adapter, and `attention_combine` joins the pieces. Both kinds are
//! dispatched by what the forward needs: the other kind has no workgroups then. Where the cache has no blocks a third
//! kernel does all of it from the fused row, rope and append included. Invariants: what a token sees depends on its
//! position, never on how much room the cache has; the fused kernel and the others make the same bits.

use super::{Attention, KvFormat, Pieces, StateType};
use crate::ops::quantize_row::quantized_slot;
use crate::ops::{Bind, Call, Extent, Kernel, RopeAppend, Traits, reduce_slot};
use crate::tensor::{DType, FEW_ROWS};

/// Positions that one workgroup attends to by itself at most. More take another two dispatches, fewer leave most of a
/// large GPU idle for longer.
const ALONE: u32 = 512;
/// Positions of a longest piece where there are more, or a little more than that; on a software adapter of all pieces, since
/// starting a workgroup costs more there than idle processors.
const SPLIT: u32 = 256;
/// Invocations of a workgroup where there is room for as many: of few that run at a time more, since each must ask for
/// much; of many as few as leave each the registers for what it asks for.
const ALONE_LANES: u32 = 256;
const SPLIT_LANES: u32 = 128;
/// Values that a lane asks for before it uses the first at most; `MAX_AT_ONCE` of attend.wgsl. None waits for memory on
/// a software adapter.
const AT_ONCE: u32 = 8;
/// Quads of them where many workgroups run: more would cost registers that these share.
const QUADS_AT_ONCE: u32 = 16;
/// Query heads that share the reads of such a workgroup at most; `MAX_HEADS` of attend.wgsl.
const SPLIT_HEADS: u32 = 4;
/// Invocations of a workgroup that joins pieces; twice as many as a head has quads.
const COMBINE_LANES: u32 = 128;
/// Lanes of a workgroup that hold a head's quads while they are turned; `TURN_LANES` of turn.wgsl.
const TURN_LANES: u32 = 64;

/// Where a kernel finds the operands of its op.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Operands {
    /// What queries are made of: `q`, or `qkv` and `table`.
    pub(in crate::ops) queries: Vec<(&'static str, Bind)>,
    pub(in crate::ops) keys: Bind,
    pub(in crate::ops) values: Bind,
    /// Slopes, or what stands in for them.
    pub(in crate::ops) slopes: Bind,
    pub(in crate::ops) output: Bind,
    pub(in crate::ops) rounded: Bind,
}

/// One kernel's share of a token.
struct Share {
    /// Query heads of a workgroup.
    heads: u32,
    /// Its invocations.
    lanes: u32,
    /// How what a token sees is cut.
    pieces: Pieces,
    /// Whether it is all of what the token sees.
    whole: bool,
}

impl Attention {
    /// Kernels for up to `tokens` tokens, each with the bits that it has alone. Keys and values are in the cache.
    ///
    /// # Panics
    /// If `tokens` is more than [`FEW_ROWS`].
    pub(in crate::ops) fn by_decode(&self, call: &Call<'_>, tokens: u32) -> Vec<Kernel> {
        assert!(tokens <= FEW_ROWS, "{tokens} tokens are a prompt");
        let operands = Operands {
            queries: vec![("q", Bind::Input(0))],
            keys: Bind::Input(1),
            values: Bind::Input(2),
            // Without ALiBi nothing reads slopes: q stands in for them.
            slopes: Bind::Input(if self.alibi.is_some() { 3 } else { 0 }),
            output: Bind::Output(0),
            rounded: Bind::Output(1),
        };
        Decode {
            attention: self,
            rope: None,
            state: Call::state(&call.inputs[1]),
            traits: call.traits,
            tokens,
            operands,
        }
        .kernels()
    }

    /// Kernels for one token from its fused row: rope and append, too.
    pub(in crate::ops) fn fused(
        &self,
        rope: &RopeAppend,
        state: StateType,
        traits: &Traits,
        operands: Operands,
    ) -> Vec<Kernel> {
        Decode { attention: self, rope: Some(rope), state, traits, tokens: 1, operands }.kernels()
    }
}

struct Decode<'a> {
    attention: &'a Attention,
    /// Set where queries, key and value come from the fused row.
    rope: Option<&'a RopeAppend>,
    state: StateType,
    traits: &'a Traits,
    /// Most tokens of a forward.
    tokens: u32,
    operands: Operands,
}

impl Decode<'_> {
    fn kernels(&self) -> Vec<Kernel> {
        let mut kernels = vec![self.attend(&self.whole())];
        if self.most_seen() > ALONE {
            let share = self.piece();
            kernels.extend([self.attend(&share), self.combine(&share)]);
        }
        kernels
    }

    /// A head's share where a workgroup takes all that its token sees.
    fn whole(&self) -> Share {
        let lanes = self.lanes(ALONE_LANES, |_| ALONE, 1, true);
        Share { heads: 1, lanes, pieces: Pieces::one(ALONE), whole: true }
    }

    /// The share of some heads where it is more.
    fn piece(&self) -> Share {
        let &Attention { heads, kv_heads, .. } = self.attention;
        let group = (heads / kv_heads).min(SPLIT_HEADS);
        let cut = |lanes: u32| match self.traits.software {
            true => Pieces::new(SPLIT, u32::MAX, SPLIT, self.most_seen()),
            false => Pieces::new(lanes / self.runs() * self.at_once(false), self.tiles(group), SPLIT, self.most_seen()),
        };
        let lanes = self.lanes(SPLIT_LANES, |lanes| cut(lanes).longest(), group, false);
        Share { heads: group, lanes, pieces: cut(lanes), whole: false }
    }

    /// Workgroups of a token's part, by the query heads of each.
    fn tiles(&self, heads: u32) -> u32 {
        let &Attention { heads: all, kv_heads, .. } = self.attention;
        kv_heads * (all / kv_heads).div_ceil(heads)
    }

    /// Positions that a token sees at most.
    fn most_seen(&self) -> u32 {
        self.attention.window.unwrap_or(u32::MAX).min(self.state.context_length)
    }

    fn scratch(&self, pieces: Pieces) -> Vec<u64> {
        let Attention { heads, head_dim, .. } = self.attention;
        let quads = 1 + u64::from(head_dim / 4);
        vec![u64::from(self.tokens * heads) * u64::from(pieces.most()) * quads * 16]
    }

    fn attend(&self, share: &Share) -> Kernel {
        let mut overrides = self.attention.score_overrides(self.state);
        let reduce = reduce_slot(self.traits, share.lanes, &mut overrides);
        overrides.extend([
            ("WORKGROUP", f64::from(share.lanes)),
            ("LANES", f64::from(share.lanes)),
            ("TILE_HEADS", f64::from(share.heads)),
            ("ALONE", f64::from(ALONE)),
            ("AT_ONCE", f64::from(self.at_once(share.whole))),
            // Where few workgroups run registers are plenty.
            ("AHEAD", f64::from(u8::from(share.whole))),
        ]);
        overrides.extend(share.pieces.overrides());
        let tiles = self.tiles(share.heads);
        let mut kernel = Kernel {
            source: "attention_decode",
            slots: vec![("KV", self.state.format.run_reader(self.attention.head_dim)), reduce],
            overrides,
            bindings: self.operands.queries.clone(),
            workgroups: [
                Extent::ContextUpTo { most: ALONE, count: 1 },
                Extent::Fixed(tiles),
                Extent::Tokens { per: 1 },
            ],
            scratch: vec![],
        };
        kernel.bindings.extend([
            ("key_cache", self.operands.keys),
            ("value_cache", self.operands.values),
            ("slopes", self.operands.slopes),
        ]);
        if let Some(rope) = self.rope {
            kernel.source = "attention_fused";
            kernel.slots[0] = ("CACHES", self.state.format.decode_writer(self.attention.head_dim));
            kernel.overrides.extend(rope.rotary_overrides());
        }
        if share.whole {
            kernel.slots.push(("RESULT", "lib/result_row".into()));
            if self.most_seen() <= ALONE {
                kernel.workgroups[0] = Extent::Fixed(1);
            }
            self.row(&mut kernel);
        } else {
            kernel.slots.extend([("RESULT", "lib/result_piece".into()), quantized_slot(false)]);
            kernel.overrides.push(("PIECES", f64::from(share.pieces.most())));
            kernel.bindings.push(("partials", Bind::Scratch(0)));
            kernel.workgroups[0] = Extent::Pieces(share.pieces);
            kernel.workgroups[1] = Extent::ContextBeyond { most: ALONE, count: tiles };
            kernel.scratch = self.scratch(share.pieces);
        }
        kernel
    }

    fn combine(&self, share: &Share) -> Kernel {
        let Attention { heads, head_dim, window, .. } = self.attention;
        let quads = head_dim / 4;
        let workgroup = if self.traits.software { quads.next_power_of_two().max(16) } else { COMBINE_LANES };
        let mut overrides = vec![
            ("WORKGROUP", f64::from(workgroup)),
            ("LANES", f64::from(workgroup)),
            ("HEADS", f64::from(*heads)),
            ("HEAD_DIM", f64::from(*head_dim)),
            ("PIECES", f64::from(share.pieces.most())),
            ("ALONE", f64::from(ALONE)),
            ("WINDOW", f64::from(window.unwrap_or(0))),
        ];
        overrides.extend(share.pieces.overrides());
        let reduce = reduce_slot(self.traits, workgroup, &mut overrides);
        let mut kernel = Kernel {
            source: "attention_combine",
            slots: vec![reduce],
            overrides,
            bindings: vec![("partials", Bind::Scratch(0))],
            workgroups: [
                Extent::ContextBeyond { most: ALONE, count: *heads },
                Extent::Fixed(1),
                Extent::Tokens { per: 1 },
            ],
            scratch: self.scratch(share.pieces),
        };
        self.row(&mut kernel);
        kernel
    }

    /// What a kernel that writes rows of the output has besides.
    fn row(&self, kernel: &mut Kernel) {
        let Attention { heads, head_dim, quantized, .. } = self.attention;
        assert!(!quantized || head_dim.is_multiple_of(DType::Q8_BLOCK as u32), "lowering rounds whole blocks of heads");
        kernel.slots.push(quantized_slot(*quantized));
        kernel.overrides.push(("COLS", f64::from(heads * head_dim)));
        kernel.overrides.extend(self.state.format.turn_overrides(self.attention.head_dim));
        kernel.overrides.push(("TURN_LANES", if self.turns() { f64::from(TURN_LANES) } else { 1.0 }));
        kernel.bindings.push(("output", self.operands.output));
        kernel.bindings.extend(self.attention.quantized.then_some(("quantized", self.operands.rounded)));
    }

    fn turns(&self) -> bool {
        self.state.format.span(self.attention.head_dim) > 1
    }

    /// Values that a lane asks for before it uses the first.
    fn at_once(&self, whole: bool) -> u32 {
        let run_quads = self.state.format.run_quads(self.attention.head_dim);
        match self.traits.software {
            true => 1,
            false if whole => AT_ONCE,
            false => AT_ONCE.min(QUADS_AT_ONCE / run_quads),
        }
    }

    /// Loads that bring a key or a value.
    fn runs(&self) -> u32 {
        (self.attention.head_dim / 4).div_ceil(self.state.format.run_quads(self.attention.head_dim))
    }

    /// Invocations of a workgroup of so many heads: what is wanted, or half of it until it fits with the positions it
    /// then has; on a software adapter the fewest.
    fn lanes(&self, wanted: u32, positions: impl Fn(u32) -> u32, heads: u32, whole: bool) -> u32 {
        let run_quads = self.state.format.run_quads(self.attention.head_dim);
        let least = self.runs().max(self.attention.head_dim / 4).next_power_of_two().max(16);
        if self.traits.software {
            return least;
        }
        let quads_of = |lanes: u32| {
            // Room for the fused kernel's own key and value in every case: lanes decide the order of sums.
            let prepared = self.runs() * run_quads * (heads + 2);
            let row_quads = if whole && self.attention.quantized { lanes } else { 0 };
            let turning = if whole && self.turns() { TURN_LANES } else { 1 };
            prepared + run_quads * lanes + row_quads + turning
        };
        let bytes = |lanes| 16 * quads_of(lanes) + 4 * (heads * positions(lanes) + lanes) + 64;
        let mut lanes = wanted.max(least);
        while lanes > least && (lanes > self.traits.invocations || bytes(lanes) > self.traits.workgroup_storage) {
            lanes /= 2;
        }
        lanes
    }
}

impl KvFormat {
    /// The snippet that reads caches with heads of this size in the largest loads: fills the slot `KV`.
    pub(super) fn run_reader(self, head_dim: u32) -> String {
        if self.runs(head_dim) { "lib/kv_f16_runs".into() } else { self.reader() }
    }

    /// The snippet by which the fused kernel reads and writes them: fills the slot `CACHES`.
    fn decode_writer(self, head_dim: u32) -> String {
        if self.runs(head_dim) { "lib/caches_f16_runs".into() } else { format!("lib/caches_{}", self.name()) }
    }

    /// Whether rows of f16 are whole 16-byte loads.
    fn runs(self, head_dim: u32) -> bool {
        self == Self::F16 && head_dim.is_multiple_of(8)
    }

    /// Quads that a load brings; `RUN_QUADS` of the reader.
    fn run_quads(self, head_dim: u32) -> u32 {
        match self {
            Self::F16 if self.runs(head_dim) => 2,
            Self::F16 | Self::F32 => 1,
            Self::Q8_0 | Self::Q4_0 => 4,
        }
    }
}
