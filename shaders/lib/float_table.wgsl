// Values of a table of sixteen floats. Four levels of choice by bits: an array that is indexed by a variable would go
// through memory.
fn look_up_floats(table: array<vec4<f32>, 4>, codes: vec4<u32>) -> vec4<f32> {
    let bit0 = (codes & vec4<u32>(1u)) != vec4<u32>();
    let bit1 = (codes & vec4<u32>(2u)) != vec4<u32>();
    let first = of_four(table[0], bit0, bit1);
    let second = of_four(table[1], bit0, bit1);
    let third = of_four(table[2], bit0, bit1);
    let fourth = of_four(table[3], bit0, bit1);
    let bit2 = (codes & vec4<u32>(4u)) != vec4<u32>();
    return select(select(first, second, bit2), select(third, fourth, bit2), codes >= vec4<u32>(8u));
}

fn of_four(values: vec4<f32>, bit0: vec4<bool>, bit1: vec4<bool>) -> vec4<f32> {
    let low = select(vec4<f32>(values.x), vec4<f32>(values.y), bit0);
    let high = select(vec4<f32>(values.z), vec4<f32>(values.w), bit0);
    return select(low, high, bit1);
}

// The same table in workgroup memory, for kernels that look up many values: sixteen neighbouring words lie in as many
// banks, so a look-up takes one load. `hold_table` comes first, then a barrier.
var<workgroup> held: array<f32, 16>;

fn hold_table(table: array<vec4<f32>, 4>, lid: u32) {
    var values = table;
    if lid < 16u {
        held[lid] = values[lid / 4u][lid % 4u];
    }
}

fn look_up_held(codes: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(held[codes.x], held[codes.y], held[codes.z], held[codes.w]);
}
