// ALiBi (Press et al. 2022): a bias that grows linearly with the key's position, with a slope for every head.
// Depends on the kernel's binding `slopes: array<f32>`. Twin of `Alibi` in src/ops/attention.rs.
override ALIBI: u32;         // 0 none; 1 exact, of the distance; 2 rounded to bf16, of the position, then scaled
override ALIBI_SCALE: f32;   // what a rounded bias is multiplied by

// The nearest bf16, ties to even, of a finite value.
fn round_bf16(value: f32) -> f32 {
    let bits = bitcast<u32>(value);
    return bitcast<f32>((bits + 0x7FFFu + ((bits >> 16u) & 1u)) & 0xFFFF0000u);
}

// `score` with the bias of key position `key` for the query at `position` of `head`. Written as fma, so that every
// kernel makes the same bits of it.
fn biased(score: f32, head: u32, key: u32, position: u32) -> f32 {
    if ALIBI == 1u {
        // Softmax takes no notice of what all keys of a query have in common; distances keep the numbers small.
        return fma(slopes[head], f32(key) - f32(position), score);
    }
    if ALIBI == 2u {
        return fma(round_bf16(slopes[head] * round_bf16(f32(key))), ALIBI_SCALE, score);
    }
    return score;
}

// The bias alone.
fn alibi(head: u32, key: u32, position: u32) -> f32 {
    return biased(0.0, head, key, position);
}
