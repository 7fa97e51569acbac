// Joins attention_decode's pieces of the context: weights each piece's sums by exp(its maximum − the overall one)
// (Milakov & Gimelshein 2018), in the order of the pieces, and turns the result back where the cache is turned. One
// workgroup per head; lanes stride over its quads.
#import step
#import turn

override HEAD_DIM: u32;
override CONTEXT_LENGTH: u32;  // positions that the cache has room for
override PIECE: u32;           // positions of a piece
override WINDOW: u32;          // positions seen, the token's own included; 0: all
override FIRST_COLUMN: u32;    // where the result begins in the output

@bind var<storage, read> partials: array<vec4<f32>>;      // (heads, pieces, 1 + head_dim / 4): maximum, sum; values
@bind var<storage, read_write> output: array<vec4<f32>>;  // (columns / 4), of which (heads, head_dim / 4) are the result

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let quads = HEAD_DIM / 4u;
    let oldest = select(0u, step.context - min(WINDOW, step.context), WINDOW > 0u);
    let pieces = (CONTEXT_LENGTH + PIECE - 1u) / PIECE;
    let row = workgroup.x * pieces;
    let first = row + oldest / PIECE;
    let end = row + (step.context + PIECE - 1u) / PIECE;
    var maximum = partials[first * (1u + quads)].x;
    for (var piece = first + 1u; piece < end; piece++) {
        maximum = max(maximum, partials[piece * (1u + quads)].x);
    }
    for (var start = 0u; start < quads; start += 32u) {
        let quad = start + lid;
        // Lanes behind the last quad repeat it and store nothing.
        let at = min(quad, quads - 1u);
        var total = 0.0;
        var values = vec4(0.0);
        for (var piece = first; piece < end; piece++) {
            let head = partials[piece * (1u + quads)];
            let weight = exp(head.x - maximum);
            total += weight * head.y;
            values += weight * partials[piece * (1u + quads) + 1u + at];
        }
        values = turned(values / total, lid);
        if quad < quads {
            output[FIRST_COLUMN / 4u + workgroup.x * quads + quad] = values;
        }
    }
}
