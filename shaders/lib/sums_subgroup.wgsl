// Slot SUMS, through subgroups. `add_up` adds what each lane of a team has of the team's sums, ROWS_PER_LANE rows from
// `first` on by `count` of TOKENS_PER_LANE tokens, and finishes them (lib/epilogue). Called once, by the whole workgroup
// together. Depends on WORKGROUP, LANES, ROWS, FIRST_ROW and the slot TILE; and on SUBGROUP, as lib/reduce_subgroup.
// Of two lanes that exchange sums each keeps one half of them and gives the other: all are added up in the steps that
// one takes, in the order in which lib/reduce_subgroup adds one. Sums of a lane are a power of two.
override SUBGROUP: u32;

const SUMS: u32 = ROWS_PER_LANE * TOKENS_PER_LANE;

override SUMS_HELD: u32 = WORKGROUP / SUBGROUP * SUMS;
var<workgroup> subgroup_sums: array<f32, SUMS_HELD>;  // (subgroups, sums)

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
    // Written out: a loop that is not unrolled would keep the sums in memory.
    exchange(&values, 1u, lid);
    exchange(&values, 2u, lid);
    exchange(&values, 4u, lid);
    exchange(&values, 8u, lid);
    exchange(&values, 16u, lid);
    exchange(&values, 32u, lid);
    exchange(&values, 64u, lid);
    let span = min(LANES, SUBGROUP);
    // Lane l has sums l, l + apart, l + 2 apart …; lanes from `apart` on have them once more.
    let apart = min(span, SUMS);
    let lane = lid % span;
    if LANES <= SUBGROUP {
        for (var i = 0u; i < SUMS / apart; i++) {
            if lane < apart {
                finish_sum(i * apart + lane, values[i], first, first_token, count);
            }
        }
        return;
    }
    for (var i = 0u; i < SUMS / apart; i++) {
        if lane < apart {
            subgroup_sums[lid / SUBGROUP * SUMS + i * apart + lane] = values[i];
        }
    }
    workgroupBarrier();
    let team = lid / LANES * (LANES / SUBGROUP) * SUMS;
    for (var at = lid % LANES; at < SUMS; at += LANES) {
        var sum = subgroup_sums[team + at];
        for (var other = 1u; other < LANES / SUBGROUP; other++) {
            sum += subgroup_sums[team + other * SUMS + at];
        }
        finish_sum(at, sum, first, first_token, count);
    }
}

// One step, between lanes that are so far apart: SUMS / distance sums become half as many, or stay one.
fn exchange(values: ptr<function, array<f32, SUMS>>, distance: u32, lid: u32) {
    if distance >= min(LANES, SUBGROUP) {
        return;
    }
    if distance >= SUMS {
        (*values)[0] += subgroupShuffleXor((*values)[0], distance);
        return;
    }
    let second = (lid & distance) != 0u;
    for (var i = 0u; i < SUMS / 2u; i++) {
        if i < SUMS / (2u * distance) {
            let kept = select((*values)[2u * i], (*values)[2u * i + 1u], second);
            let given = select((*values)[2u * i + 1u], (*values)[2u * i], second);
            (*values)[i] = kept + subgroupShuffleXor(given, distance);
        }
    }
}

fn finish_sum(at: u32, sum: f32, first: u32, first_token: u32, count: u32) {
    let t = at / ROWS_PER_LANE;
    let row = first + at % ROWS_PER_LANE;
    if t < count && row < ROWS {
        keep(t, FIRST_ROW + row, finish(first_token + t, FIRST_ROW + row, sum));
    }
}
