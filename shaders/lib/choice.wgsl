// How a token is chosen: the rule, logits as sortable keys, their weights, and the slices that the first kernel of
// the choice sums up. Twin of src/ops/choose.rs, whose definition of the filters is src/sampler.rs.
// Logits are bound as words: whether one is a number is asked of its bits, since a compiler may assume that all are.
@bind var<storage, read> rule: array<f32>;  // temperature, top_k, top_p, min_p, uniform, limit

const SLICES = 512u;
const NONE = 0xffffffffu;
const MASKED = 0x007fffffu;  // the key of minus infinity

// A run of the vocabulary.
struct Slice {
    key: u32,    // of its largest logit; 0 where all are masked
    token: u32,  // the first token of that logit
    bad: u32,    // the first token whose logit is no number, or NONE
    mass: f32,   // sum of its weights beside the largest logit's; with temperature only
}

fn limit() -> u32 {
    return u32(rule[5]);
}

fn slice_length() -> u32 {
    return (limit() + SLICES - 1u) / SLICES;
}

// Keys rank as the floats do (IEEE totalOrder).
fn key_of(bits: u32) -> u32 {
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

fn logit_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key ^ 0x80000000u, key >= 0x80000000u));
}

// NaN of either sign, or plus infinity.
fn is_bad(bits: u32) -> bool {
    return bits == 0x7f800000u || (bits & 0x7fffffffu) > 0x7f800000u;
}

// A logit's probability divided by that of `best`, which is not smaller.
fn weight(key: u32, best: u32) -> f32 {
    if key == best {
        return 1.0;
    }
    let below = logit_of(best) - logit_of(key);
    if key <= MASKED || below > 87.0 * rule[0] {
        return 0.0;  // what f32 holds of it
    }
    return exp(-below / rule[0]);
}

// The better of two; of equals the lower token.
fn better(a: Slice, b: Slice) -> Slice {
    var best = a;
    if b.key > a.key || (b.key == a.key && b.token < a.token) {
        best.key = b.key;
        best.token = b.token;
    }
    best.bad = min(a.bad, b.bad);
    return best;
}
