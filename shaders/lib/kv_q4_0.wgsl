// Slot KV: the caches hold ggml's q4_0, four bits a value, in order, and an f16 scale for 32. The interface is
// lib/kv_f16's; a load brings 16 values.
#import codes
#import cache_rows

@bind var<storage, read> key_cache: array<vec2<u32>>;    // (kv_heads, context_length, runs), then scales
@bind var<storage, read> value_cache: array<vec2<u32>>;  // (kv_heads, context_length, runs), then scales

const RUN_QUADS: u32 = 4u;

// The quad in the lower half of a word.
fn unpacked(word: u32, scale: f32) -> vec4<f32> {
    return numbers((vec4<u32>(word) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u), 8.0) * scale;
}

// The word with the scale of run `run`.
fn scale_at(row: u32, run: u32) -> u32 {
    return CACHE_RUNS * 2u + row * ROW_SCALES + run / 4u;
}

fn key4(row: u32, quad: u32) -> vec4<f32> {
    let run = quad / 4u;
    let at = scale_at(row, run);
    let word = key_cache[row * ROW_RUNS + run][quad / 2u % 2u] >> (quad % 2u * 16u);
    return unpacked(word, run_scale(key_cache[at / 2u][at % 2u], run));
}

fn value4(row: u32, quad: u32) -> vec4<f32> {
    let run = quad / 4u;
    let at = scale_at(row, run);
    let word = value_cache[row * ROW_RUNS + run][quad / 2u % 2u] >> (quad % 2u * 16u);
    return unpacked(word, run_scale(value_cache[at / 2u][at % 2u], run));
}

fn unpacked_run(codes: vec2<u32>, scale: f32) -> array<vec4<f32>, RUN_QUADS> {
    return array(
        unpacked(codes.x, scale),
        unpacked(codes.x >> 16u, scale),
        unpacked(codes.y, scale),
        unpacked(codes.y >> 16u, scale),
    );
}

fn key_run(row: u32, run: u32) -> array<vec4<f32>, RUN_QUADS> {
    let at = scale_at(row, run);
    return unpacked_run(key_cache[row * ROW_RUNS + run], run_scale(key_cache[at / 2u][at % 2u], run));
}

fn value_run(row: u32, run: u32) -> array<vec4<f32>, RUN_QUADS> {
    let at = scale_at(row, run);
    return unpacked_run(value_cache[row * ROW_RUNS + run], run_scale(value_cache[at / 2u][at % 2u], run));
}
