// Scale and min of group `group` (of eight) of a q4_k or q5_k block, from its four words of packed scales.
fn group_scales(packed: vec4<u32>, group: u32) -> vec2<f32> {
    let low = (packed.yz >> vec2<u32>(4u * group)) & vec2<u32>(15u);
    let high = (vec2<u32>(packed.w) >> vec2<u32>(4u * group, 4u * group + 2u)) & vec2<u32>(3u);
    return unpack2x16float(packed.x) * vec2<f32>(low | (high << vec2<u32>(4u)));
}
