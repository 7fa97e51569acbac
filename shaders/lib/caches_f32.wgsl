// Slot CACHES: f32. The interface is lib/caches_f16_runs'.
#import quads_f32

@bind var<storage, read_write> key_cache: array<vec4<f32>>;    // (kv_heads, context_length, head_dim / 4)
@bind var<storage, read_write> value_cache: array<vec4<f32>>;  // (kv_heads, context_length, head_dim / 4)

alias Held = vec4<f32>;

fn held(values: vec4<f32>) -> Held {
    return values;
}

fn from_held(values: Held) -> vec4<f32> {
    return values;
}

fn store_key(row: u32, run: u32, quads: array<Held, RUN_QUADS>) {
    key_cache[row * (HEAD_DIM / 4u) + run] = quads[0];
}

fn store_value(row: u32, run: u32, quads: array<Held, RUN_QUADS>) {
    value_cache[row * (HEAD_DIM / 4u) + run] = quads[0];
}
