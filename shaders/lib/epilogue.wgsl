// What becomes of a matmul's sum: bias, activation, residual, and its place in the output. Imports activation's
// interface; kernels that add whole sums call `finish` once for each.
#import activation

override FIRST_COLUMN: u32;  // where the weight's first row lands in the output
override COLUMNS: u32;       // columns of the output
override BIAS: bool;
override RESIDUAL: bool;

@bind var<storage, read> bias: array<f32>;          // (rows of the weight)
@bind var<storage, read> residual: array<f32>;      // (tokens, columns)
@bind var<storage, read_write> output: array<f32>;  // (tokens, columns)

// Returns what it writes.
fn finish(token: u32, row: u32, sum: f32) -> f32 {
    let at = token * COLUMNS + FIRST_COLUMN + row;
    var value = sum;
    if BIAS {
        value += bias[row];
    }
    value = activate(value);
    if RESIDUAL {
        value += residual[at];
    }
    output[at] = value;
    return value;
}
