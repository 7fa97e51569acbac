// One activation row × weightᵀ (decode). LANES invocations share ROWS_PER_LANE weight rows: each lane strides over
// the rows' 16-byte chunks, so that neighbouring lanes read neighbouring 16 bytes; then the lanes' sums are added.
// A workgroup holds WORKGROUP / LANES such groups.
#import WEIGHTS
#import TILE
#import REDUCE
#import activation

override COLS: u32;          // input features, a multiple of 4
override ROWS: u32;          // rows of this slice
override FIRST_ROW: u32;     // the slice's first row in the weight
override FIRST_COLUMN: u32;  // where the weight's first row lands in the output
override COLUMNS: u32;       // columns of the output (unused by one row, kept for one set of constants)
override BIAS: bool;
override RESIDUAL: bool;
override WORKGROUP: u32 = 128u;
override LANES: u32 = 128u;
override CHUNKS: u32 = (COLS + CHUNK - 1u) / CHUNK;

@bind var<storage, read> input: array<vec4<f32>>;    // (cols / 4)
@bind var<storage, read> bias: array<f32>;           // (rows of the weight)
@bind var<storage, read> residual: array<f32>;       // (columns)
@bind var<storage, read_write> output: array<f32>;   // (columns)

fn input4(at: u32) -> vec4<f32> {
    // Dense formats pad a row's last chunk with zeros; the input has nothing there.
    if COLS % CHUNK != 0u && at >= COLS / 4u {
        return vec4<f32>();
    }
    return input[at];
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let team = (group.x + group.y * groups.x) * (WORKGROUP / LANES) + lid / LANES;
    let first = team * ROWS_PER_LANE;
    let lane = lid % LANES;
    var sums: array<f32, ROWS_PER_LANE>;
    for (var at = lane; at < CHUNKS; at += LANES) {
        var x: array<vec4<f32>, CHUNK / 4u>;
        for (var i = 0u; i < CHUNK / 4u; i++) {
            x[i] = input4(at * (CHUNK / 4u) + i);
        }
        for (var r = 0u; r < ROWS_PER_LANE; r++) {
            let chunk = load_chunk(min(first + r, ROWS - 1u), at);
            for (var i = 0u; i < CHUNK / 4u; i++) {
                sums[r] += dot(chunk4(chunk, i), x[i]);
            }
        }
    }
    for (var r = 0u; r < ROWS_PER_LANE; r++) {
        let sum = reduce_sum(sums[r], lid);
        if lane == 0u && first + r < ROWS {
            let row = FIRST_ROW + first + r;
            var value = sum;
            if BIAS {
                value += bias[row];
            }
            value = activate(value);
            if RESIDUAL {
                value += residual[FIRST_COLUMN + row];
            }
            output[FIRST_COLUMN + row] = value;
        }
    }
}
