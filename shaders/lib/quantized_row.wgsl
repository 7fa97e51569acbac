// Slot QUANTIZED: what a kernel writes is also written rounded.
#import store_quantized

@bind var<storage, read_write> quantized: array<u32>;  // (rows, 3 cols / 8)

fn put_quantized(at: u32, word: u32) {
    quantized[at] = word;
}
