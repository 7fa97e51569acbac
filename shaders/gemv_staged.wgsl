// One activation row × weightᵀ (decode) for formats whose 16-byte chunks hold many weights. Neighbouring lanes read
// neighbouring chunks, but the activations that belong to those lie far apart, and reading them so would cost more
// than the weights. So the activations of LANES chunks at a time pass through workgroup memory, where the lanes find
// them side by side. Otherwise as gemv: LANES invocations share ROWS_PER_LANE rows; WORKGROUP / LANES such teams
// share the activations.
#import step
#import WEIGHTS
#import VALUES_OF
#import TILE
#import REDUCE
#import epilogue

override COLS: u32;          // input features, whole chunks
override ROWS: u32;          // rows of this slice
override FIRST_ROW: u32;     // the slice's first row in the weight
override WORKGROUP: u32 = 128u;
override LANES: u32 = 32u;
override CHUNKS: u32 = COLS / CHUNK;
override STRIDE: u32 = LANES + 1u;  // so that what is written side by side falls into distinct banks
override STAGE: u32 = STRIDE * CHUNK / 4u;

@bind var<storage, read> input: array<vec4<f32>>;    // (cols / 4)

var<workgroup> stage: array<vec4<f32>, STAGE>;       // (quads of a chunk, lanes)

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    const QUADS = CHUNK / 4u;
    let team = (group.x + group.y * groups.x) * (WORKGROUP / LANES) + lid / LANES;
    let first = team * ROWS_PER_LANE;
    let lane = lid % LANES;
    prepare_values(lid);
    var sums: array<f32, ROWS_PER_LANE>;
    for (var start = 0u; start < CHUNKS; start += LANES) {
        // The weights are on their way while the activations are staged.
        var chunks: array<Chunk, ROWS_PER_LANE>;
        let at = min(start + lane, CHUNKS - 1u);
        for (var r = 0u; r < ROWS_PER_LANE; r++) {
            chunks[r] = load_chunk(min(first + r, ROWS - 1u), at);
        }
        for (var i = lid; i < LANES * QUADS; i += WORKGROUP) {
            var value = vec4<f32>();  // behind the row's end: the chunks read there count nothing
            if start + i / QUADS < CHUNKS {
                value = input[start * QUADS + i];
            }
            stage[i % QUADS * STRIDE + i / QUADS] = value;
        }
        workgroupBarrier();
        for (var i = 0u; i < QUADS; i++) {
            let x = stage[i * STRIDE + lane];
            for (var r = 0u; r < ROWS_PER_LANE; r++) {
                sums[r] += dot(values4(chunks[r], i), x);
            }
        }
        workgroupBarrier();
    }
    for (var r = 0u; r < ROWS_PER_LANE; r++) {
        let sum = reduce_sum(sums[r], lid);
        if lane == 0u && first + r < ROWS {
            finish(0u, FIRST_ROW + first + r, sum);
        }
    }
}
