// Codes 4i to 4i + 3 of a group of 32 weights as the bytes of a word, from their 4-, 2- and 1-bit parts as
// src/quant/codes.rs packs them: a shift and a mask in every width, so that parts join by `or`.

fn nibbles(words: vec4<u32>, i: u32) -> u32 {
    return (words[i / 2u] >> (i % 2u * 4u)) & 0x0F0F0F0Fu;
}

fn pairs(words: vec2<u32>, i: u32) -> u32 {
    return (select(words.x, words.y, i >= 4u) >> (i % 4u * 2u)) & 0x03030303u;
}

fn bits(word: u32, i: u32) -> u32 {
    return (word >> i) & 0x01010101u;
}

// Codes as numbers, less `offset`: bits under the exponent of 2^23 are the code plus 2^23, from which the rest follows
// exactly. Cheaper than a conversion, which large GPUs do at half their rate or less.
fn numbers4(codes: u32, offset: f32) -> vec4<f32> {
    return numbers((vec4<u32>(codes) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u), offset);
}

// The same of codes that are apart already.
fn numbers(codes: vec4<u32>, offset: f32) -> vec4<f32> {
    return bitcast<vec4<f32>>(codes | vec4<u32>(0x4B000000u)) - (8388608.0 + offset);
}
