// Slot REDUCE, through workgroup memory: runs everywhere. A kernel that imports it declares
//     override WORKGROUP: u32;  // invocations, a 1-D workgroup
//     override LANES: u32;      // invocations that share one sum: a power of two that divides WORKGROUP
// and calls `reduce_sum` and `reduce_max` in uniform control flow, as often as it likes, with lid =
// local_invocation_index. Each group of LANES consecutive invocations gets its own result, all of them the same
// bits: the order of additions is a fixed tree.
var<workgroup> reduce_values: array<f32, WORKGROUP>;

fn reduce_sum(value: f32, lid: u32) -> f32 {
    reduce_values[lid] = value;
    for (var half = LANES / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if lid % LANES < half {
            reduce_values[lid] += reduce_values[lid + half];
        }
    }
    workgroupBarrier();
    let sum = reduce_values[lid - lid % LANES];
    workgroupBarrier();  // the next call overwrites what slower invocations may still read
    return sum;
}

fn reduce_max(value: f32, lid: u32) -> f32 {
    reduce_values[lid] = value;
    for (var half = LANES / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if lid % LANES < half {
            reduce_values[lid] = max(reduce_values[lid], reduce_values[lid + half]);
        }
    }
    workgroupBarrier();
    let maximum = reduce_values[lid - lid % LANES];
    workgroupBarrier();
    return maximum;
}
