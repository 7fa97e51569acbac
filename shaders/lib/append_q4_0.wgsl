// Slot APPEND: the caches hold ggml's q4_0 (layout: lib/kv_q4_0). The interface is lib/append_f16's.
#import cache_blocks

var<workgroup> halves: array<u32, 64>;  // a lane's codes: half a word

// The value farthest from zero becomes code 0, that is -8: the sign goes into the scale.
fn scale_of(far: f32) -> f32 {
    return far / -8.0;
}

fn append(cache: u32, row: u32, quad: u32, values: vec4<f32>, lid: u32) {
    let within = bounded(values);
    share_farthest(within, lid);
    let steps = within * inverse(scale_of(farthest_from(lid / 8u * 8u)));
    let codes = clamp(vec4<i32>(steps + 8.5), vec4<i32>(0), vec4<i32>(15));
    let nibbles = vec4<u32>(codes) << vec4<u32>(0u, 4u, 8u, 12u);
    halves[lid] = nibbles.x | nibbles.y | nibbles.z | nibbles.w;
    workgroupBarrier();
    if quad % 2u == 0u && quad < ROW_RUNS * 4u {
        put(cache, row * ROW_RUNS * 2u + quad / 2u, halves[lid] | (halves[lid + 1u] << 16u));
    }
    if quad % 16u == 0u {
        let scales = vec2(scale_of(farthest_from(lid)), scale_of(farthest_from(lid + 8u)));
        put(cache, CACHE_RUNS * 2u + row * ROW_SCALES + quad / 16u, pack2x16float(scales));
    }
}
