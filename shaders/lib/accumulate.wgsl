// A sum plus the products of four weights and values, in an order and with roundings that are written out: what a
// compiler may join into one rounding in one kernel and not in the next is left to none. So a token has the same bits
// whether a kernel computes it alone or beside others.
fn accumulate(sum: f32, w: vec4<f32>, x: vec4<f32>) -> f32 {
    return fma(w.w, x.w, fma(w.z, x.z, fma(w.y, x.y, fma(w.x, x.x, sum))));
}
