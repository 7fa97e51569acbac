// LayerNorm (Ba et al. 2016): (x − mean) / sqrt(variance + eps) · weight + bias. One workgroup per output row;
// lanes stride over the row's quads and share the sums. The mean comes first, then the squared deviations: the
// one-pass E[x²] − E[x]² cancels in f32. With LOGIT_ROWS_ONLY the output holds only the step's trailing rows. Workgroups
// along y are the one or two ways in which a normed row is weighted.
#import step
#import REDUCE
#import STORED
#import WEIGHTED
#import QUANTIZED

override WORKGROUP: u32;         // invocations
override LANES: u32;             // = WORKGROUP
override COLS: u32;              // hidden_size
override EPS: f32;
override LOGIT_ROWS_ONLY: bool;
override RESIDUAL: bool;          // something is added to the normed row

@bind var<storage, read> x: array<vec4<f32>>;             // (tokens, hidden_size / 4)
@bind var<storage, read> residual: array<vec4<f32>>;      // as the output; read with RESIDUAL only

var<private> beside: bool;  // the second way

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    beside = group.y == 1u;
    let quads = COLS / 4u;
    let row = group.x + select(0u, step.tokens - step.logit_rows, LOGIT_ROWS_ONLY);
    var sum = vec4(0.0);
    for (var at = lid; at < quads; at += WORKGROUP) {
        sum += x[row * quads + at];
    }
    let mean = reduce_sum(dot(sum, vec4(1.0)), lid) / f32(COLS);
    var squares = 0.0;
    for (var at = lid; at < quads; at += WORKGROUP) {
        let deviation = x[row * quads + at] - mean;
        squares += dot(deviation, deviation);
    }
    let scale = inverseSqrt(reduce_sum(squares, lid) / f32(COLS) + EPS);
    for (var start = 0u; start < quads; start += WORKGROUP) {
        let at = start + lid;
        var value = vec4(0.0);
        if at < quads {
            value = weighted((x[row * quads + at] - mean) * scale, at);
            if RESIDUAL {
                value += residual[group.x * quads + at];
            }
            put(group.x * quads + at, value);
        }
        store_quantized(group.x, at, value, lid);
    }
}
