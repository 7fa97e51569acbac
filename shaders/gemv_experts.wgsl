// Rows × weightᵀ of the experts that a token was routed to, one activation row at a time: only the chosen experts'
// weights are read. Workgroups along x cover an expert's rows, along y a token's choices, along z tokens. LANES
// invocations share ROWS_PER_LANE weight rows and stride over their chunks, as in gemv.
#import step
#import WEIGHTS
#import TILE
#import REDUCE

override COLS: u32;          // input features, a multiple of 4
override ROWS: u32;          // rows of this slice
override FIRST_ROW: u32;     // the slice's first row in the weight
override EXPERT_ROWS: u32;   // rows of an expert; the weight holds one expert after the other
override TOP_K: u32;
override SHARED_INPUT: bool; // all choices read the token's row; otherwise each has its own
override WORKGROUP: u32 = 128u;
override LANES: u32 = 128u;
override CHUNKS: u32 = (COLS + CHUNK - 1u) / CHUNK;

@bind var<storage, read> input: array<vec4<f32>>;      // (tokens or tokens · top_k, cols / 4)
@bind var<storage, read> selection: array<vec2<f32>>;  // (tokens, top_k): expert, weight
@bind var<storage, read_write> output: array<f32>;     // (tokens, top_k, expert rows)

fn input4(row: u32, at: u32) -> vec4<f32> {
    // Dense formats pad a row's last chunk with zeros; the input has nothing there.
    if COLS % CHUNK != 0u && at >= COLS / 4u {
        return vec4<f32>();
    }
    return input[row * (COLS / 4u) + at];
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let choice = group.z * TOP_K + group.y;
    let expert = u32(selection[choice].x);
    let first = (group.x * (WORKGROUP / LANES) + lid / LANES) * ROWS_PER_LANE;
    let lane = lid % LANES;
    let x_row = select(choice, group.z, SHARED_INPUT);
    // Rows of this slice, counted from its first; what lies outside is another slice's and is not stored.
    var rows: array<u32, ROWS_PER_LANE>;
    var stored: array<bool, ROWS_PER_LANE>;
    for (var r = 0u; r < ROWS_PER_LANE; r++) {
        let row = expert * EXPERT_ROWS + min(first + r, EXPERT_ROWS - 1u);
        stored[r] = first + r < EXPERT_ROWS && row >= FIRST_ROW && row - FIRST_ROW < ROWS;
        rows[r] = min(max(row, FIRST_ROW) - FIRST_ROW, ROWS - 1u);
    }
    var sums: array<f32, ROWS_PER_LANE>;
    for (var at = lane; at < CHUNKS; at += LANES) {
        for (var r = 0u; r < ROWS_PER_LANE; r++) {
            let chunk = load_chunk(rows[r], at);
            for (var i = 0u; i < CHUNK / 4u; i++) {
                sums[r] += dot(chunk4(chunk, i), input4(x_row, at * (CHUNK / 4u) + i));
            }
        }
    }
    for (var r = 0u; r < ROWS_PER_LANE; r++) {
        let sum = reduce_sum(sums[r], lid);
        if lane == 0u && stored[r] {
            output[choice * EXPERT_ROWS + first + r] = sum;
        }
    }
}
