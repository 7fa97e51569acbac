// Slot CACHES, the caches as a kernel has them that appends a row and reads the others: here f16 by runs of eight
// values. Defines key_run and value_run as lib/kv_f16 does; Held, a quad as the cache holds it, held and
// from_held, which make and read one; store_key and store_value, which write a run of them.
#import runs_f16

@bind var<storage, read_write> key_cache: array<vec4<u32>>;    // (kv_heads, context_length, head_dim / 8)
@bind var<storage, read_write> value_cache: array<vec4<u32>>;  // (kv_heads, context_length, head_dim / 8)

fn store_key(row: u32, run: u32, quads: array<Held, RUN_QUADS>) {
    key_cache[row * (HEAD_DIM / 8u) + run] = vec4(quads[0], quads[1]);
}

fn store_value(row: u32, run: u32, quads: array<Held, RUN_QUADS>) {
    value_cache[row * (HEAD_DIM / 8u) + run] = vec4(quads[0], quads[1]);
}
