// What activations are divided by that may go beyond f16's range; gemm_matrix multiplies their weights by it.
const F16_SCALE: f32 = 16.0;
