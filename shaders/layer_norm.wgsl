// LayerNorm (Ba et al. 2016): (x − mean) / sqrt(variance + eps) · weight + bias. One workgroup per output row;
// lanes stride over the row's quads and share the sums. The mean comes first, then the squared deviations: the
// one-pass E[x²] − E[x]² cancels in f32. With LOGIT_ROWS_ONLY the output holds only the step's trailing rows.
#import step
#import REDUCE
#import QUANTIZED

override WORKGROUP: u32;         // invocations
override LANES: u32;             // = WORKGROUP
override COLS: u32;              // hidden_size
override EPS: f32;
override LOGIT_ROWS_ONLY: bool;
override RESIDUAL: bool;          // something is added to the normed row

@bind var<storage, read> x: array<vec4<f32>>;             // (tokens, hidden_size / 4)
@bind var<storage, read> weight: array<vec4<f32>>;        // (hidden_size / 4)
@bind var<storage, read> bias: array<vec4<f32>>;          // (hidden_size / 4)
@bind var<storage, read> residual: array<vec4<f32>>;      // as the output; read with RESIDUAL only
@bind var<storage, read_write> output: array<vec4<f32>>;  // (tokens or logit_rows, hidden_size / 4)

// Quads of a lane that are loaded once, with their weights and biases, all before the first sum is known: a row that one
// workgroup holds costs one wait for memory. What is behind them is loaded again when it is needed.
const HELD = 2u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let quads = COLS / 4u;
    let row = group.x + select(0u, step.tokens - step.logit_rows, LOGIT_ROWS_ONLY);
    var held: array<vec4<f32>, HELD>;
    var weights: array<vec4<f32>, HELD>;
    var biases: array<vec4<f32>, HELD>;
    for (var i = 0u; i < HELD; i++) {
        let at = lid + i * WORKGROUP;
        if at < quads {
            held[i] = x[row * quads + at];
            weights[i] = weight[at];
            biases[i] = bias[at];
        }
    }
    var sum = held[0] + held[1];
    for (var at = lid + HELD * WORKGROUP; at < quads; at += WORKGROUP) {
        sum += x[row * quads + at];
    }
    let mean = reduce_sum(dot(sum, vec4(1.0)), lid) / f32(COLS);
    var squares = 0.0;
    for (var i = 0u; i < HELD; i++) {
        if lid + i * WORKGROUP < quads {
            let deviation = held[i] - mean;
            squares += dot(deviation, deviation);
        }
    }
    for (var at = lid + HELD * WORKGROUP; at < quads; at += WORKGROUP) {
        let deviation = x[row * quads + at] - mean;
        squares += dot(deviation, deviation);
    }
    let scale = inverseSqrt(reduce_sum(squares, lid) / f32(COLS) + EPS);
    for (var i = 0u; i < HELD; i++) {
        if i * WORKGROUP < quads {
            store(group.x, lid + i * WORKGROUP, (held[i] - mean) * scale * weights[i] + biases[i], lid);
        }
    }
    for (var start = HELD * WORKGROUP; start < quads; start += WORKGROUP) {
        let at = min(start + lid, quads - 1u);
        store(group.x, start + lid, (x[row * quads + at] - mean) * scale * weight[at] + bias[at], lid);
    }
}

// Called by the whole workgroup together.
fn store(row: u32, at: u32, normed: vec4<f32>, lid: u32) {
    let quads = COLS / 4u;
    var value = normed;
    if at < quads {
        if RESIDUAL {
            value += residual[row * quads + at];
        }
        output[row * quads + at] = value;
    }
    store_quantized(row, at, value, lid);
}
