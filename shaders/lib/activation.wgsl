// Activation functions. Twin of `Activation` in src/ops/activation.rs; the override ACTIVATION chooses, so the
// choice costs nothing when the kernel runs.
#import tanh

override ACTIVATION: u32;  // 0 identity, 1 gelu with erf, 2 gelu with tanh, 3 silu, 4 relu

// erf to 1e-7, absolute. WGSL has none. Up to 1: x·P(x²); from there to 4, where erfc is 1.5e-8: 1 − exp(R(x)).
// P and R interpolate erf(x)/x and ln(erfc(x)) at Chebyshev nodes.
fn erf4(x: vec4<f32>) -> vec4<f32> {
    let a = min(abs(x), vec4(4.0));
    let s = min(a * a, vec4(1.0));
    let small = a * (1.1283791 + s * (-0.37612349 + s * (0.11280365 + s * (-0.026716385
        + s * (0.0049232775 + s * -0.00056541059)))));
    let large = 1.0 - exp(-0.00075696863 + a * (-1.1259259 + a * (-0.63909334 + a * (-0.10331898
        + a * (0.022621986 + a * (-0.0034368676 + a * (0.00031757203 + a * -0.000013309389)))))));
    return sign(x) * select(large, small, a < vec4(1.0));
}

fn activate4(x: vec4<f32>) -> vec4<f32> {
    switch ACTIVATION {
        case 1u: {
            return 0.5 * x * (1.0 + erf4(x * 0.70710678));
        }
        case 2u: {
            return 0.5 * x * (1.0 + safe_tanh(0.79788456 * x * (1.0 + 0.044715 * x * x)));
        }
        case 3u: {
            return x / (1.0 + exp(-max(x, vec4(-80.0))));  // exp(88) overflows
        }
        case 4u: {
            return max(x, vec4(0.0));
        }
        default: {
            return x;
        }
    }
}

fn activate(x: f32) -> f32 {
    return activate4(vec4(x)).x;
}
