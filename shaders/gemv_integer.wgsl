// One activation row × weightᵀ (decode) by integer dot products: weights of up to 8 bits as they lie, activations that
// were rounded to 8 bits before (lib/quantized_row). LANES invocations share ROWS_PER_LANE weight rows and stride over
// their chunks; a workgroup holds WORKGROUP / LANES such teams.
#import step
#import WEIGHTS
#import TILE
#import REDUCE
#import epilogue

override COLS: u32;          // input features, whole chunks
override ROWS: u32;          // rows of this slice
override FIRST_ROW: u32;     // the slice's first row in the weight
override WORKGROUP: u32 = 128u;
override LANES: u32 = 32u;
override CHUNKS: u32 = COLS / CHUNK;

@bind var<storage, read> quantized: array<vec4<u32>>;  // (cols / 16) codes, then (cols / 32) pairs of scale and sum

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    const HALVES = CHUNK / 16u;
    let team = (group.x + group.y * groups.x) * (WORKGROUP / LANES) + lid / LANES;
    let first = team * ROWS_PER_LANE;
    let lane = lid % LANES;
    var sums: array<f32, ROWS_PER_LANE>;
    for (var at = lane; at < CHUNKS; at += LANES) {
        var chunks: array<Chunk, ROWS_PER_LANE>;
        for (var r = 0u; r < ROWS_PER_LANE; r++) {
            chunks[r] = load_chunk(min(first + r, ROWS - 1u), at);
        }
        for (var half = 0u; half < HALVES; half++) {
            let block = at * HALVES + half;
            let x = quantized[block];
            let sides = bitcast<vec4<f32>>(quantized[COLS / 16u + block / 2u]);
            let scale_sum = select(sides.xy, sides.zw, block % 2u == 1u);
            for (var r = 0u; r < ROWS_PER_LANE; r++) {
                var products = 0i;
                for (var i = 0u; i < 4u; i++) {
                    products += dot4I8Packed(chunk_codes(chunks[r], half * 4u + i), x[i]);
                }
                let scale_min = half_scale(chunks[r], half);
                sums[r] += f32(products) * scale_sum.x * scale_min.x - scale_sum.y * scale_min.y;
            }
        }
    }
    for (var r = 0u; r < ROWS_PER_LANE; r++) {
        let sum = reduce_sum(sums[r], lid);
        if lane == 0u && first + r < ROWS {
            finish(0u, FIRST_ROW + first + r, sum);
        }
    }
}
