// Mixture of experts: softmax over a token's expert scores, the TOP_K best of them in falling order with their
// weights. One invocation per token: experts are few and their scores are small beside a layer's matrices.
#import step

override EXPERTS: u32;
override TOP_K: u32;      // at most MAX_TOP_K
override NORMALIZE: bool;  // the chosen weights are made to add up to 1
override SCALE: f32;       // weights are multiplied by it

const MAX_TOP_K = 16u;

@bind var<storage, read> scores: array<f32>;                    // (tokens, experts)
@bind var<storage, read_write> selection: array<vec2<f32>>;     // (tokens, top_k): expert, weight

@compute @workgroup_size(8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= step.tokens {
        return;
    }
    let row = id.x * EXPERTS;
    var maximum = scores[row];
    for (var expert = 1u; expert < EXPERTS; expert++) {
        maximum = max(maximum, scores[row + expert]);
    }
    var total = 0.0;
    for (var expert = 0u; expert < EXPERTS; expert++) {
        total += exp(scores[row + expert] - maximum);
    }
    // Each round takes the best of those behind the one before; of equal scores the lower number comes first.
    var weights: array<f32, MAX_TOP_K>;
    var experts: array<u32, MAX_TOP_K>;
    var chosen = 0.0;
    var last = EXPERTS;
    for (var k = 0u; k < TOP_K; k++) {
        var best = EXPERTS;
        for (var expert = 0u; expert < EXPERTS; expert++) {
            let score = scores[row + expert];
            let behind = last == EXPERTS || score < scores[row + min(last, EXPERTS - 1u)]
                || (score == scores[row + min(last, EXPERTS - 1u)] && expert > last);
            if behind && (best == EXPERTS || score > scores[row + min(best, EXPERTS - 1u)]) {
                best = expert;
            }
        }
        last = min(best, EXPERTS - 1u);  // NaN scores find none
        experts[k] = last;
        weights[k] = exp(scores[row + last] - maximum) / total;
        chosen += weights[k];
    }
    let scale = SCALE * select(1.0, 1.0 / chosen, NORMALIZE);
    for (var k = 0u; k < TOP_K; k++) {
        selection[id.x * TOP_K + k] = vec2(f32(experts[k]), weights[k] * scale);
    }
}
