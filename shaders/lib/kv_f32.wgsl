// Slot KV: the cache holds f32. The interface is lib/kv_f16's.
alias kv4 = vec4<f32>;

fn kv_pack(values: vec4<f32>) -> kv4 {
    return values;
}

fn kv_unpack(values: kv4) -> vec4<f32> {
    return values;
}
