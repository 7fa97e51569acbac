// A few activation rows × weightᵀ: one at decode, tiles of some where a forward has few or where workgroup memory does
// not pay. LANES invocations share ROWS_PER_LANE weight rows and TOKENS_PER_LANE activation rows: each lane strides over
// the rows' 16-byte chunks, so that neighbouring lanes read neighbouring 16 bytes; then the lanes' sums are added. A
// workgroup holds WORKGROUP / LANES such teams. Workgroups along x are tiles of tokens, so that those who read the same
// weights run at the same time; along y and z are rows. What a token's sums are added up from, and in which order,
// depends on LANES alone.
#import step
#import WEIGHTS
#import TILE
#import ROW
#import accumulate
#import epilogue
#import KEEP
#import SUMS

override COLS: u32;          // input features, a multiple of 4
override ROWS: u32;          // rows of this slice
override FIRST_ROW: u32;     // the slice's first row in the weight
override LOGIT_ROWS: bool;   // as many rows as logits are wanted, else one per token
override WORKGROUP: u32 = 128u;
override LANES: u32 = 128u;
override CHUNKS: u32 = (COLS + CHUNK - 1u) / CHUNK;

fn input4(token: u32, at: u32) -> vec4<f32> {
    // Dense formats pad a row's last chunk with zeros; the input has nothing there.
    if COLS % CHUNK != 0u && at >= COLS / 4u {
        return vec4<f32>();
    }
    return row4(token, at);
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let tokens = select(step.tokens, step.logit_rows, LOGIT_ROWS);
    let team = (group.y + group.z * groups.y) * (WORKGROUP / LANES) + lid / LANES;
    let first = team * ROWS_PER_LANE;
    let first_token = group.x * TOKENS_PER_LANE;
    let count = select(min(tokens - first_token, TOKENS_PER_LANE), 1u, TOKENS_PER_LANE == 1u);
    let lane = lid % LANES;
    var sums: array<array<f32, ROWS_PER_LANE>, TOKENS_PER_LANE>;
    for (var at = lane; at < CHUNKS; at += LANES) {
        var chunks: array<Chunk, ROWS_PER_LANE>;
        for (var r = 0u; r < ROWS_PER_LANE; r++) {
            chunks[r] = load_chunk(min(first + r, ROWS - 1u), at);
        }
        for (var i = 0u; i < CHUNK / 4u; i++) {
            var w: array<vec4<f32>, ROWS_PER_LANE>;
            for (var r = 0u; r < ROWS_PER_LANE; r++) {
                w[r] = chunk4(chunks[r], i);
            }
            for (var t = 0u; t < TOKENS_PER_LANE; t++) {
                if t < count {
                    let x = input4(first_token + t, at * (CHUNK / 4u) + i);
                    for (var r = 0u; r < ROWS_PER_LANE; r++) {
                        sums[t][r] = accumulate(sums[t][r], w[r], x);
                    }
                }
            }
        }
    }
    add_up(sums, first, first_token, count, lid);
}
