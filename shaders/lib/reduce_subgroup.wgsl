// Slot REDUCE, through subgroups: the interface of lib/reduce_workgroup, and
//     SUBGROUP  the adapter's one subgroup size, a power of two that divides WORKGROUP (`Traits::subgroup`)
// Assumes that subgroups are runs of consecutive local_invocation_index, as every 1-D workgroup has them on the
// drivers we know (WGSL leaves it open). Exchanges by XOR instead of subgroupAdd: the order of additions is then
// the same fixed tree for LANES below, at and above the subgroup size.
override SUBGROUP: u32;

// Named, since naga 30 loses count of overrides where a size is an expression without a name.
override SUBGROUPS: u32 = WORKGROUP / SUBGROUP;
var<workgroup> reduce_subgroups: array<f32, SUBGROUPS>;  // one value of each subgroup

fn reduce_sum(value: f32, lid: u32) -> f32 {
    var sum = value;
    for (var distance = 1u; distance < min(LANES, SUBGROUP); distance <<= 1u) {
        sum += subgroupShuffleXor(sum, distance);
    }
    if LANES > SUBGROUP {
        workgroupBarrier();  // an earlier call's values may still be read
        if lid % SUBGROUP == 0u {
            reduce_subgroups[lid / SUBGROUP] = sum;
        }
        workgroupBarrier();
        let first = (lid - lid % LANES) / SUBGROUP;
        sum = reduce_subgroups[first];
        for (var other = 1u; other < LANES / SUBGROUP; other++) {
            sum += reduce_subgroups[first + other];
        }
    }
    return sum;
}

fn reduce_max(value: f32, lid: u32) -> f32 {
    var maximum = value;
    for (var distance = 1u; distance < min(LANES, SUBGROUP); distance <<= 1u) {
        maximum = max(maximum, subgroupShuffleXor(maximum, distance));
    }
    if LANES > SUBGROUP {
        workgroupBarrier();
        if lid % SUBGROUP == 0u {
            reduce_subgroups[lid / SUBGROUP] = maximum;
        }
        workgroupBarrier();
        let first = (lid - lid % LANES) / SUBGROUP;
        maximum = reduce_subgroups[first];
        for (var other = 1u; other < LANES / SUBGROUP; other++) {
            maximum = max(maximum, reduce_subgroups[first + other]);
        }
    }
    return maximum;
}
