// Rows rounded to 8 bits, sixteen neighbouring values to a scale, for integer dot products. Twin: src/ops/quantize_row.rs.
// Depends on `WORKGROUP`, a multiple of four, on `COLS`, a multiple of 32, and on put_quantized(at, word). A row is
// COLS / 4 words of codes, then for each sixteen values their scale and their sum as f32.
#import rounding

override QUADS_HELD: u32 = WORKGROUP;
var<workgroup> quads_held: array<vec4<f32>, QUADS_HELD>;

// Takes quad `quad` of row `row` from each invocation, neighbours from neighbours; quads behind the row's end are left out.
// Called by the whole workgroup together.
fn store_quantized(row: u32, quad: u32, value: vec4<f32>, lid: u32) {
    workgroupBarrier();  // an earlier call's quads may still be read
    quads_held[lid] = value;
    workgroupBarrier();
    if quad >= COLS / 4u {
        return;
    }
    let first = lid / 4u * 4u;
    var greatest = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        greatest = max(greatest, abs(quads_held[first + i]));
    }
    let most = max(max(greatest.x, greatest.y), max(greatest.z, greatest.w));
    let scale = scale_of(most);
    let start = row * (COLS / 8u * 3u);
    put_quantized(start + quad, pack4xI8(codes_of(value, scale.y)));
    if quad % 4u == 0u {
        var sums = vec4<i32>();
        for (var i = 0u; i < 4u; i++) {
            sums += codes_of(quads_held[first + i], scale.y);
        }
        let side = start + COLS / 4u + quad / 2u;
        put_quantized(side, bitcast<u32>(scale.x));
        put_quantized(side + 1u, bitcast<u32>(scale.x * f32(sums.x + sums.y + sums.z + sums.w)));
    }
}
