// What appending to a cache in blocks of 32 values takes, whatever the codes. Sixteen neighbouring lanes bring 64
// values of a head, two blocks, whose scales share a word: each word of a cache is written by one lane only. Lanes of
// the workgroup: 64. Depends on KEYS and VALUES.
#import cache_rows

@bind var<storage, read_write> key_cache: array<u32>;    // (kv_heads, context_length, codes), then scales
@bind var<storage, read_write> value_cache: array<u32>;  // (kv_heads, context_length, codes), then scales

var<workgroup> far_of_lane: array<f32, 64>;  // of a lane's quad, the value farthest from 0

fn farther(a: f32, b: f32) -> f32 {
    return select(a, b, abs(b) > abs(a));
}

// Bounded as an f16 cache is, and a little more: the largest code times a scale rounded up must stay in f16's range.
fn bounded(values: vec4<f32>) -> vec4<f32> {
    return clamp(values, vec4(-65000.0), vec4(65000.0));
}

fn share_farthest(values: vec4<f32>, lid: u32) {
    far_of_lane[lid] = farther(farther(farther(values.x, values.y), values.z), values.w);
    workgroupBarrier();
}

// The value farthest from 0 in the block that starts with lane `first`, the first of several.
fn farthest_from(first: u32) -> f32 {
    var far = 0.0;
    for (var lane = 0u; lane < 8u; lane++) {
        far = farther(far, far_of_lane[first + lane]);
    }
    return far;
}

// 1 / scale; of a scale that f16 has no number for, 0.
fn inverse(scale: f32) -> f32 {
    return select(1.0 / scale, 0.0, abs(scale) < 1.0e-30);
}

fn put(cache: u32, at: u32, word: u32) {
    if cache == KEYS {
        key_cache[at] = word;
    } else if cache == VALUES {
        value_cache[at] = word;
    }
}
