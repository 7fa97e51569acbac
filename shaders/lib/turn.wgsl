// Turns heads by an orthonormal Hadamard matrix in spans of SPAN values, SPAN / 4 neighbouring lanes each: an outlier
// becomes a little of every value of its span, and no longer decides the scale of its block alone (Ashkboos et al.
// 2024, QuaRot). Its own inverse; products of two turned heads are those of the heads. Every lane of the workgroup
// calls it; the first TURN_LANES have values. Twin: src/ops/kv.rs.
override SPAN: u32;        // a power of two from 4 to 64; 1: nothing is turned
override SPAN_SCALE: f32;  // 1 / √SPAN
override TURN_LANES: u32 = 64u;  // a multiple of SPAN / 4

var<workgroup> turning: array<vec4<f32>, TURN_LANES>;

fn turned(values: vec4<f32>, lid: u32) -> vec4<f32> {
    if SPAN == 1u {
        return values;
    }
    // The four values of a lane first, then lane by lane: the sign is the parity of what two indices have in common.
    let pairs = vec4(values.x + values.y, values.x - values.y, values.z + values.w, values.z - values.w);
    if lid < TURN_LANES {
        turning[lid] = vec4(pairs.xy + pairs.zw, pairs.xy - pairs.zw);
    }
    workgroupBarrier();
    let lanes = max(SPAN / 4u, 1u);  // not 0: compilers see the division even where it never runs
    let first = min(lid, TURN_LANES - 1u) / lanes * lanes;
    var sum = vec4(0.0);
    for (var lane = 0u; lane < lanes; lane++) {
        sum += turning[first + lane] * select(1.0, -1.0, countOneBits(lane & lid) % 2u == 1u);
    }
    workgroupBarrier();
    return sum * SPAN_SCALE;
}
