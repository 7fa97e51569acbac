// Norms of queries and keys inside a token's fused row [q | k | v]; the values are copied. One workgroup per group of
// columns that share a norm (a head, or all of q), and one for the values; workgroups along y are tokens.
#import step
#import REDUCE

override WORKGROUP: u32;  // invocations
override LANES: u32;      // = WORKGROUP
override Q_GROUPS: u32;
override Q_COLS: u32;     // columns of a group of q, a multiple of 4
override K_GROUPS: u32;
override K_COLS: u32;     // columns of a group of k, a multiple of 4
override V_COLS: u32;     // columns of v, a multiple of 4
override EPS: f32;
override CENTRED: bool;   // LayerNorm; otherwise RMSNorm

@bind var<storage, read> qkv: array<vec4<f32>>;           // (tokens, row / 4)
@bind var<storage, read> weight: array<vec4<f32>>;        // (columns of q and k / 4)
@bind var<storage, read> bias: array<vec4<f32>>;          // (columns of q and k / 4)
@bind var<storage, read_write> output: array<vec4<f32>>;  // (tokens, row / 4)

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let k_start = Q_GROUPS * Q_COLS;
    let v_start = k_start + K_GROUPS * K_COLS;
    let row = group.y * (v_start + V_COLS) / 4u;
    var start = group.x * Q_COLS;
    var cols = Q_COLS;
    if group.x >= Q_GROUPS {
        start = k_start + (group.x - Q_GROUPS) * K_COLS;
        cols = K_COLS;
    }
    let is_value = group.x >= Q_GROUPS + K_GROUPS;
    if is_value {
        start = v_start;
        cols = V_COLS;
    }
    let first = start / 4u;
    let quads = cols / 4u;
    var sum = vec4(0.0);
    for (var at = lid; at < quads; at += WORKGROUP) {
        sum += qkv[row + first + at];
    }
    let mean = select(0.0, reduce_sum(dot(sum, vec4(1.0)), lid) / f32(cols), CENTRED);
    var squares = 0.0;
    for (var at = lid; at < quads; at += WORKGROUP) {
        let deviation = qkv[row + first + at] - mean;
        squares += dot(deviation, deviation);
    }
    let scale = inverseSqrt(reduce_sum(squares, lid) / f32(cols) + EPS);
    for (var at = lid; at < quads; at += WORKGROUP) {
        let value = qkv[row + first + at];
        if is_value {
            output[row + first + at] = value;
        } else {
            output[row + first + at] = (value - mean) * scale * weight[first + at] + bias[first + at];
        }
    }
}
