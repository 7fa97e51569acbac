// What the codes of fp4 are worth, in parts of the block's absmax: twelfths, then the same below zero.
const VALUES: array<vec4<f32>, 4> = array<vec4<f32>, 4>(
    vec4<f32>(0.0, 0.0625 / 12.0, 8.0 / 12.0, 1.0),
    vec4<f32>(4.0 / 12.0, 0.5, 2.0 / 12.0, 0.25),
    vec4<f32>(0.0, -0.0625 / 12.0, -8.0 / 12.0, -1.0),
    vec4<f32>(-4.0 / 12.0, -0.5, -2.0 / 12.0, -0.25),
);
