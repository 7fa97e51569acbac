// Slot KV: the caches hold ggml's q8_0, a byte a value (128 more than the code) and an f16 scale for 32. The
// interface is lib/kv_f16's; a load brings 16 values.
#import codes
#import cache_rows

@bind var<storage, read> key_cache: array<vec4<u32>>;    // (kv_heads, context_length, runs), then scales
@bind var<storage, read> value_cache: array<vec4<u32>>;  // (kv_heads, context_length, runs), then scales

const RUN_QUADS: u32 = 4u;

fn unpacked(word: u32, scale: f32) -> vec4<f32> {
    return numbers4(word, 128.0) * scale;
}

// The word with the scale of run `run`.
fn scale_at(row: u32, run: u32) -> u32 {
    return CACHE_RUNS * 4u + row * ROW_SCALES + run / 4u;
}

fn key4(row: u32, quad: u32) -> vec4<f32> {
    let run = quad / 4u;
    let at = scale_at(row, run);
    return unpacked(key_cache[row * ROW_RUNS + run][quad % 4u], run_scale(key_cache[at / 4u][at % 4u], run));
}

fn value4(row: u32, quad: u32) -> vec4<f32> {
    let run = quad / 4u;
    let at = scale_at(row, run);
    return unpacked(value_cache[row * ROW_RUNS + run][quad % 4u], run_scale(value_cache[at / 4u][at % 4u], run));
}

fn unpacked_run(codes: vec4<u32>, scale: f32) -> array<vec4<f32>, RUN_QUADS> {
    return array(unpacked(codes.x, scale), unpacked(codes.y, scale), unpacked(codes.z, scale), unpacked(codes.w, scale));
}

fn key_run(row: u32, run: u32) -> array<vec4<f32>, RUN_QUADS> {
    let at = scale_at(row, run);
    return unpacked_run(key_cache[row * ROW_RUNS + run], run_scale(key_cache[at / 4u][at % 4u], run));
}

fn value_run(row: u32, run: u32) -> array<vec4<f32>, RUN_QUADS> {
    let at = scale_at(row, run);
    return unpacked_run(value_cache[row * ROW_RUNS + run], run_scale(value_cache[at / 4u][at % 4u], run));
}
