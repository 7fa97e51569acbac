// A few activation rows × weightᵀ (one at decode) for formats whose 16-byte chunks hold many weights. Neighbouring lanes
// read neighbouring chunks, but the activations that belong to those lie far apart, and reading them so would cost more
// than the weights. So the activations of LANES chunks at a time pass through workgroup memory, STAGED quads of each
// chunk at once, where the lanes find them side by side. Otherwise as gemv: LANES invocations share ROWS_PER_LANE rows
// and TOKENS_PER_LANE tokens; WORKGROUP / LANES such teams share the activations.
#import step
#import WEIGHTS
#import VALUES_OF
#import TILE
#import ROW
#import accumulate
#import epilogue
#import KEEP
#import SUMS

override COLS: u32;          // input features, whole chunks
override ROWS: u32;          // rows of this slice
override FIRST_ROW: u32;     // the slice's first row in the weight
override LOGIT_ROWS: bool;   // as many rows as logits are wanted, else one per token
override WORKGROUP: u32 = 128u;
override LANES: u32 = 32u;
override STAGED: u32 = 1u;   // divides the quads of a chunk
override CHUNKS: u32 = COLS / CHUNK;
override STRIDE: u32 = LANES + 1u;  // so that what is written side by side falls into distinct banks
override STAGE: u32 = STRIDE * STAGED * TOKENS_PER_LANE;

var<workgroup> stage: array<vec4<f32>, STAGE>;       // (tokens, staged quads of a chunk, lanes)

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    const QUADS = CHUNK / 4u;
    let tokens = select(step.tokens, step.logit_rows, LOGIT_ROWS);
    let team = (group.y + group.z * groups.y) * (WORKGROUP / LANES) + lid / LANES;
    let first = team * ROWS_PER_LANE;
    let first_token = group.x * TOKENS_PER_LANE;
    let count = select(min(tokens - first_token, TOKENS_PER_LANE), 1u, TOKENS_PER_LANE == 1u);
    let lane = lid % LANES;
    prepare_values(lid);
    var sums: array<array<f32, ROWS_PER_LANE>, TOKENS_PER_LANE>;
    for (var start = 0u; start < CHUNKS; start += LANES) {
        // The weights are on their way while the activations are staged.
        var chunks: array<Chunk, ROWS_PER_LANE>;
        let at = min(start + lane, CHUNKS - 1u);
        for (var r = 0u; r < ROWS_PER_LANE; r++) {
            chunks[r] = load_chunk(min(first + r, ROWS - 1u), at);
        }
        for (var quad = 0u; quad < QUADS; quad += STAGED) {
            for (var i = lid; i < LANES * STAGED * count; i += WORKGROUP) {
                let token = i / (LANES * STAGED);
                let chunk = i / STAGED % LANES;
                var value = vec4<f32>();  // behind the row's end: the chunks read there count nothing
                if start + chunk < CHUNKS {
                    value = row4(first_token + token, (start + chunk) * QUADS + quad + i % STAGED);
                }
                stage[(token * STAGED + i % STAGED) * STRIDE + chunk] = value;
            }
            workgroupBarrier();
            for (var i = 0u; i < STAGED; i++) {
                var w: array<vec4<f32>, ROWS_PER_LANE>;
                for (var r = 0u; r < ROWS_PER_LANE; r++) {
                    w[r] = values4(chunks[r], quad + i);
                }
                for (var t = 0u; t < TOKENS_PER_LANE; t++) {
                    if t < count {
                        let x = stage[(t * STAGED + i) * STRIDE + lane];
                        for (var r = 0u; r < ROWS_PER_LANE; r++) {
                            sums[t][r] = accumulate(sums[t][r], w[r], x);
                        }
                    }
                }
            }
            workgroupBarrier();
        }
    }
    add_up(sums, first, first_token, count, lid);
}
