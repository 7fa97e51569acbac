// Four 8-bit floats of 4 exponent bits and 3 fraction bits, as src/quant/f8_e4m3.rs decodes them, but for a factor of
// F8_UNIT: with three zeros behind its fraction and one before its exponent a code is an f16, whose exponent counts from 15
// instead of 7. That is exact, subnormal numbers included, and a third of the work of doing it in f32.
const F8_UNIT = 256.0;

fn f8_e4m3(word: u32) -> vec4<f32> {
    let even = ((word & 0x00800080u) << 8u) | ((word & 0x007f007fu) << 7u);
    let odd = (word & 0x80008000u) | ((word & 0x7f007f00u) >> 1u);
    let first = unpack2x16float(even);
    let second = unpack2x16float(odd);
    return vec4<f32>(first.x, second.x, first.y, second.y);
}
