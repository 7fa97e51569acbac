// Slot QUANTIZED where two results are written: each is also written rounded, to a buffer of its own. Depends on
// `beside`, whether it is the second one.
#import store_quantized

@bind var<storage, read_write> quantized: array<u32>;         // (rows, 3 cols / 8)
@bind var<storage, read_write> quantized_beside: array<u32>;  // (rows, 3 cols / 8)

fn put_quantized(at: u32, word: u32) {
    if beside {
        quantized_beside[at] = word;
    } else {
        quantized[at] = word;
    }
}
