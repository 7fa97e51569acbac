// fp4_dq weights, half a block of 64 a chunk. Interface: shaders/quant/README.md; twin: src/quant/absmax4.rs.
#import absmax4
#import double_quantized
#import fp4_values

const CHUNK: u32 = 32u;
