// Slot APPEND: the caches hold ggml's q8_0 (layout: lib/kv_q8_0). The interface is lib/append_f16's.
#import cache_blocks

fn scale_of(far: f32) -> f32 {
    return abs(far) / 127.0;
}

fn append(cache: u32, row: u32, quad: u32, values: vec4<f32>, lid: u32) {
    let within = bounded(values);
    share_farthest(within, lid);
    let steps = within * inverse(scale_of(farthest_from(lid / 8u * 8u)));
    // Halves go away from zero; WGSL's round would take them to even.
    let whole = trunc(abs(steps));
    let codes = sign(steps) * (whole + select(vec4(0.0), vec4(1.0), abs(steps) - whole >= vec4(0.5)));
    let bytes = (vec4<u32>(vec4<i32>(codes) + 128) & vec4<u32>(255u)) << vec4<u32>(0u, 8u, 16u, 24u);
    if quad < ROW_RUNS * 4u {
        put(cache, row * ROW_RUNS * 4u + quad, bytes.x | bytes.y | bytes.z | bytes.w);
    }
    if quad % 16u == 0u {
        let scales = vec2(scale_of(farthest_from(lid)), scale_of(farthest_from(lid + 8u)));
        put(cache, CACHE_RUNS * 4u + row * ROW_SCALES + quad / 16u, pack2x16float(scales));
    }
}
