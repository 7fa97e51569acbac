// Slot KEEP: the rows that a workgroup finishes are also written rounded, as lib/quantized_row lays them out. Depends on
// WORKGROUP, LANES, ROWS_PER_LANE, TOKENS_PER_LANE and ROWS, all rows of the output, a multiple of 32.
#import rounding

override KEPT: u32 = WORKGROUP / LANES * ROWS_PER_LANE;  // rows of a workgroup: whole blocks of sixteen
override HELD: u32 = KEPT * TOKENS_PER_LANE;

@bind var<storage, read_write> rounded: array<u32>;  // (tokens, 3 rows / 8)

var<workgroup> kept: array<f32, HELD>;  // (tokens, rows)

// Row `row` of the output for the workgroup's token `t`.
fn keep(t: u32, row: u32, value: f32) {
    kept[t * KEPT + row % KEPT] = value;
}

// Rounds what was kept: rows from `first_row` on, of so many tokens. Called by the whole workgroup together.
fn round_kept(first_row: u32, first_token: u32, count: u32, lid: u32) {
    workgroupBarrier();
    for (var at = lid; at < count * (KEPT / 4u); at += WORKGROUP) {
        let row = first_row + at % (KEPT / 4u) * 4u;
        if row < ROWS {
            round_quad((first_token + at / (KEPT / 4u)) * (ROWS / 8u * 3u), row, at);
        }
    }
}

// Quad `quad` of what was kept, which is row `row` and the three behind it; `start` is where the token's words begin.
fn round_quad(start: u32, row: u32, quad: u32) {
    let first = quad / 4u * 4u;
    var greatest = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        greatest = max(greatest, abs(kept_quad(first + i)));
    }
    let scale = scale_of(max(max(greatest.x, greatest.y), max(greatest.z, greatest.w)));
    rounded[start + row / 4u] = pack4xI8(codes_of(kept_quad(quad), scale.y));
    if quad == first {
        var sums = vec4<i32>();
        for (var i = 0u; i < 4u; i++) {
            sums += codes_of(kept_quad(first + i), scale.y);
        }
        let side = start + ROWS / 4u + row / 8u;
        rounded[side] = bitcast<u32>(scale.x);
        rounded[side + 1u] = bitcast<u32>(scale.x * f32(sums.x + sums.y + sums.z + sums.w));
    }
}

fn kept_quad(quad: u32) -> vec4<f32> {
    let at = quad * 4u;
    return vec4(kept[at], kept[at + 1u], kept[at + 2u], kept[at + 3u]);
}
