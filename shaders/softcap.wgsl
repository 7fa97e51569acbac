// Soft cap (Gemma Team 2024): cap · tanh(x / cap). One invocation per value; workgroups along x cover a row, along y
// rows.
#import tanh

override COLS: u32;  // columns of a row
override CAP: f32;

@bind var<storage, read> x: array<f32>;             // (rows, cols)
@bind var<storage, read_write> output: array<f32>;  // (rows, cols)

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= COLS {
        return;
    }
    let at = id.y * COLS + id.x;
    output[at] = CAP * safe_tanh(vec4(x[at] / CAP)).x;
}
