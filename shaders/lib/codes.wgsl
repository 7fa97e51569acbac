// Codes 4i to 4i + 3 of a group of 32 weights, from their 4-, 2- and 1-bit parts as src/quant/codes.rs packs them:
// in every width two neighbouring weights lie next to each other, the next two a byte further up.

fn nibbles4(words: vec4<u32>, i: u32) -> vec4<u32> {
    return (vec4<u32>(words[i / 2u] >> (i % 2u * 16u)) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u);
}

// Codes as numbers, less `offset`: bits under the exponent of 2^23 are the code plus 2^23, from which the rest follows
// exactly. Cheaper than a conversion, which large GPUs do at half their rate or less.
fn numbers4(codes: vec4<u32>, offset: f32) -> vec4<f32> {
    return bitcast<vec4<f32>>(codes | vec4<u32>(0x4B000000u)) - (8388608.0 + offset);
}

fn pairs4(words: vec2<u32>, i: u32) -> vec4<u32> {
    let word = select(words.x, words.y, i >= 4u) >> (i % 2u * 16u + i / 2u % 2u * 4u);
    return (vec4<u32>(word) >> vec4<u32>(0u, 2u, 8u, 10u)) & vec4<u32>(3u);
}

fn bits4(word: u32, i: u32) -> vec4<u32> {
    return (vec4<u32>(word >> (i % 2u * 16u + i / 2u * 2u)) >> vec4<u32>(0u, 1u, 8u, 9u)) & vec4<u32>(1u);
}

// Values of a table of sixteen signed bytes. Two levels of choice by bits: an array that is indexed by a variable
// would go through memory.
fn look_up(table: vec4<u32>, codes: vec4<u32>) -> vec4<f32> {
    let odd = (codes & vec4<u32>(4u)) != vec4<u32>();
    let low = select(vec4<u32>(table.x), vec4<u32>(table.y), odd);
    let high = select(vec4<u32>(table.z), vec4<u32>(table.w), odd);
    let words = select(low, high, codes >= vec4<u32>(8u));
    // The byte to the top, then down again with its sign.
    let top = words << (vec4<u32>(24u) - (codes & vec4<u32>(3u)) * 8u);
    return vec4<f32>(bitcast<vec4<i32>>(top) >> vec4<u32>(24u));
}
