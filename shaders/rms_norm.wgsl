// RMSNorm (Zhang & Sennrich 2019): x / sqrt(mean(x²) + eps) · weight. One workgroup per output row; lanes stride
// over the row's quads and share one sum. With LOGIT_ROWS_ONLY the output holds only the step's trailing rows.
#import step
#import REDUCE
#import QUANTIZED
#import STORED

override WORKGROUP: u32;         // invocations
override LANES: u32;             // = WORKGROUP
override COLS: u32;              // hidden_size
override EPS: f32;
override LOGIT_ROWS_ONLY: bool;
override RESIDUAL: bool;          // something is added to the normed row

@bind var<storage, read> x: array<vec4<f32>>;             // (tokens, hidden_size / 4)
@bind var<storage, read> weight: array<vec4<f32>>;        // (hidden_size / 4)
@bind var<storage, read> residual: array<vec4<f32>>;      // as the output; read with RESIDUAL only
@bind var<storage, read_write> output: array<Stored>;     // (tokens or logit_rows, hidden_size / 4)

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let quads = COLS / 4u;
    let row = group.x + select(0u, step.tokens - step.logit_rows, LOGIT_ROWS_ONLY);
    var squares = 0.0;
    for (var at = lid; at < quads; at += WORKGROUP) {
        let value = x[row * quads + at];
        squares += dot(value, value);
    }
    let scale = inverseSqrt(reduce_sum(squares, lid) / f32(COLS) + EPS);
    for (var start = 0u; start < quads; start += WORKGROUP) {
        let at = start + lid;
        var value = vec4(0.0);
        if at < quads {
            value = x[row * quads + at] * scale * weight[at];
            if RESIDUAL {
                value += residual[group.x * quads + at];
            }
            output[group.x * quads + at] = stored(value);
        }
        store_quantized(group.x, at, value, lid);
    }
}
