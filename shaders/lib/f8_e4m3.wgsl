// Four 8-bit floats of 4 exponent bits and 3 fraction bits, as src/quant/f8_e4m3.rs decodes them.
fn f8_e4m3(word: u32) -> vec4<f32> {
    let codes = vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u);
    let magnitude = codes & vec4<u32>(0x7fu);
    // An exponent counts from 127 in f32, from 7 here. Without a subnormal number on the way, which adapters may read
    // as zero: a fraction without its leading one gets it and loses it again.
    let leading = bitcast<vec4<f32>>((magnitude << vec4<u32>(20u)) + vec4<u32>(120u << 23u));
    let value = select(leading, leading * 2.0 - 0.015625, magnitude < vec4<u32>(8u));
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(value) | ((codes & vec4<u32>(0x80u)) << vec4<u32>(24u)));
}
