// Running sums over a workgroup, and where one of them passes a goal. A kernel that imports it declares
//     override WORKGROUP: u32;  // invocations, a 1-D workgroup, a power of two
// and calls `scan` and `locate` in uniform control flow, with lid = local_invocation_index. The order of additions is
// fixed, so the same values give the same bits.
const NOWHERE = 0xffffffffu;

var<workgroup> sums: array<f32, WORKGROUP>;
var<workgroup> earliest: atomic<u32>;
var<workgroup> latest: atomic<u32>;

// Leaves in `sums` the sums up to and including each invocation; returns the whole.
fn scan(mine: f32, lid: u32) -> f32 {
    workgroupBarrier();
    sums[lid] = mine;
    for (var distance = 1u; distance < WORKGROUP; distance <<= 1u) {
        workgroupBarrier();
        let other = select(0.0, sums[max(lid, distance) - distance], lid >= distance);
        workgroupBarrier();
        sums[lid] += other;
    }
    workgroupBarrier();
    return sums[WORKGROUP - 1u];
}

fn sum_before(lid: u32) -> f32 {
    return select(0.0, sums[max(lid, 1u) - 1u], lid > 0u);
}

// After `scan`: the first invocation of some weight where the sum exceeds `goal`, else the last one of some weight.
fn locate(mine: f32, goal: f32, lid: u32) -> u32 {
    if lid == 0u {
        atomicStore(&earliest, NOWHERE);
        atomicStore(&latest, 0u);
    }
    workgroupBarrier();
    if mine > 0.0 {
        atomicMax(&latest, lid);
        if sums[lid] > goal {
            atomicMin(&earliest, lid);
        }
    }
    workgroupBarrier();
    let found = atomicLoad(&earliest);
    return select(found, atomicLoad(&latest), found == NOWHERE);
}
