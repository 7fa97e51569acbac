// Quads as f16 caches hold them.
#import pack_f16

fn unpacked(values: vec2<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(values.x), unpack2x16float(values.y));
}

// Quads on their way into the cache, as words: what is unpacked where it was packed may come back unrounded.
alias Held = vec2<u32>;

fn held(values: vec4<f32>) -> Held {
    return packed(values);
}

fn from_held(words: Held) -> vec4<f32> {
    return unpacked(words);
}
