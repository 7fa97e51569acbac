// Columns in another order: output column i is column order[i] of x. One invocation per value; workgroups along x cover
// a row, along y rows.
override COLS: u32;  // columns of a row

@bind var<storage, read> x: array<f32>;             // (rows, cols)
@bind var<storage, read> order: array<f32>;         // (cols), whole numbers
@bind var<storage, read_write> output: array<f32>;  // (rows, cols)

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= COLS {
        return;
    }
    output[id.y * COLS + id.x] = x[id.y * COLS + u32(order[id.x])];
}
