// Slot SUMS, through workgroup memory: the interface of lib/sums_subgroup. Here too lanes exchange halves of their sums,
// over distances that are halved, as lib/reduce_workgroup adds one.
const SUMS: u32 = ROWS_PER_LANE * TOKENS_PER_LANE;
const SUMS_GIVEN: u32 = max(SUMS / 2u, 1u);

override GIVEN: u32 = WORKGROUP * SUMS_GIVEN;
var<workgroup> given: array<f32, GIVEN>;  // (sums that a lane gives, invocations)

fn add_up(
    sums: array<array<f32, ROWS_PER_LANE>, TOKENS_PER_LANE>,
    first: u32,
    first_token: u32,
    count: u32,
    lid: u32,
) {
    var values: array<f32, SUMS>;
    for (var t = 0u; t < TOKENS_PER_LANE; t++) {
        for (var r = 0u; r < ROWS_PER_LANE; r++) {
            values[t * ROWS_PER_LANE + r] = sums[t][r];
        }
    }
    // The lane holds sums at, at + apart, at + 2 apart …; lanes that differ in `alike` hold the same.
    var held = SUMS;
    var at = 0u;
    var apart = 1u;
    var alike = 0u;
    for (var distance = LANES / 2u; distance > 0u; distance >>= 1u) {
        let second = (lid & distance) != 0u;
        let single = held == 1u;
        held = max(held / 2u, 1u);
        for (var i = 0u; i < held; i++) {
            given[i * WORKGROUP + lid] = values[select(2u * i + select(1u, 0u, second), 0u, single)];
        }
        workgroupBarrier();
        for (var i = 0u; i < held; i++) {
            let kept = values[select(2u * i + select(0u, 1u, second), 0u, single)];
            values[i] = kept + given[i * WORKGROUP + (lid ^ distance)];
        }
        workgroupBarrier();
        if single {
            alike |= distance;
        } else {
            at += select(0u, apart, second);
            apart *= 2u;
        }
    }
    if (lid & alike) != 0u {
        return;
    }
    for (var i = 0u; i < held; i++) {
        let t = (at + i * apart) / ROWS_PER_LANE;
        let row = first + (at + i * apart) % ROWS_PER_LANE;
        if t < count && row < ROWS {
            keep(t, FIRST_ROW + row, finish(first_token + t, FIRST_ROW + row, values[i]));
        }
    }
}
