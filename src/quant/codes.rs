//! How the codes of a group of 32 weights lie in packed bytes.
//!
//! Codes of 8 bits lie in the order of the weights. Narrower ones share bytes: the fields of byte `k` of a
//! little-endian word hold, from the lowest up, weights `8w + 2k` and `8w + 2k + 1` for one run of eight weights `w`
//! after the other. For 4 bits that is simply weight `8w + i` in bits `4i..4i + 4` of word `w`. Whatever the width,
//! a shift and a mask bring the same four weights to the four bytes of a word: parts of a code join by `or`, and
//! integer dot products can take the words as they are. Twin: `shaders/lib/codes.wgsl`.

/// Weights of a group: what one chunk of a kernel holds, or half of it.
pub(super) const GROUP: usize = 32;

/// A group's codes in the order of its weights.
pub(super) type Codes = [u8; GROUP];

/// A byte in each of the eight of a word.
const EVERY: u64 = 0x0101_0101_0101_0101;

/// Writes bits `from..from + bits` of every code into `4 * bits` bytes.
#[inline(always)]
pub(super) fn pack(codes: &Codes, from: usize, bits: usize, packed: &mut [u8]) {
    if bits == 8 {
        packed[..GROUP].copy_from_slice(codes);
        return;
    }
    let mask = EVERY * (0xff >> (8 - bits));
    // As many runs of eight weights share a word as pairs of codes fill a byte.
    for (word, runs) in packed[..4 * bits].as_chunks_mut().0.iter_mut().zip(codes.chunks_exact(32 / bits)) {
        let runs = runs.as_chunks().0.iter().map(|run| u64::from_le_bytes(*run) >> from & mask);
        let joined = runs.enumerate().fold(0, |joined, (i, run)| joined | run << (2 * bits * i));
        *word = even_bytes(joined | joined >> (8 - bits)).to_le_bytes();
    }
}

/// Reads what [`pack`] wrote, into bits `from..from + bits` of every code, which were zero.
#[inline(always)]
pub(super) fn unpack(packed: &[u8], from: usize, bits: usize, codes: &mut Codes) {
    if bits == 8 {
        codes.copy_from_slice(&packed[..GROUP]);
        return;
    }
    let mask = EVERY * (0xff >> (8 - bits));
    for (word, runs) in packed[..4 * bits].as_chunks().0.iter().zip(codes.chunks_exact_mut(32 / bits)) {
        let spread = spread_bytes(u32::from_le_bytes(*word));
        let joined = spread | spread << (8 - bits);
        for (i, run) in runs.as_chunks_mut().0.iter_mut().enumerate() {
            let code_bits = (joined >> (2 * bits * i) & mask) << from;
            *run = (u64::from_le_bytes(*run) | code_bits).to_le_bytes();
        }
    }
}

/// Bytes 0, 2, 4 and 6.
const fn even_bytes(word: u64) -> u32 {
    let bytes = word & 0x00ff_00ff_00ff_00ff;
    let pairs = (bytes | bytes >> 8) & 0x0000_ffff_0000_ffff;
    (pairs | pairs >> 16) as u32
}

/// The inverse of [`even_bytes`], zeros between.
const fn spread_bytes(word: u32) -> u64 {
    let halves = (word as u64 | (word as u64) << 16) & 0x0000_ffff_0000_ffff;
    (halves | halves << 8) & 0x00ff_00ff_00ff_00ff
}

/// Stored nibbles of 16 bytes: byte `i` holds weight `i` in its low and weight `i + 16` in its high nibble.
pub(super) fn from_halves(stored: &[u8]) -> Codes {
    // One check of the length here, so that the loop has none and becomes vector instructions; likewise below.
    let stored = &stored[..GROUP / 2];
    let mut codes = [0; GROUP];
    let (low, high) = codes.split_at_mut(GROUP / 2);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(stored) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
    codes
}

/// The low nibbles of a group as [`from_halves`] reads them.
pub(super) fn to_halves(codes: &Codes, stored: &mut [u8]) {
    for (i, byte) in stored[..16].iter_mut().enumerate() {
        *byte = codes[i] & 15 | codes[i + 16] << 4;
    }
}

/// Bits `shift..` of 32 stored bytes, one weight a byte.
pub(super) fn from_plane(stored: &[u8], shift: usize, mask: u8) -> Codes {
    let stored = &stored[..GROUP];
    std::array::from_fn(|weight| stored[weight] >> shift & mask)
}

/// Adds a group's bits to 32 stored bytes, one weight a byte, at bit `shift`.
pub(super) fn to_plane(codes: impl Fn(usize) -> u8, shift: usize, stored: &mut [u8]) {
    for (weight, byte) in stored[..GROUP].iter_mut().enumerate() {
        *byte |= codes(weight) << shift;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_round_trips_and_fills_its_bytes() {
        let codes: Codes = std::array::from_fn(|i| (i as u8).wrapping_mul(73) ^ 0x5a);
        for (from, bits) in [(0, 8), (0, 4), (4, 4), (0, 2), (4, 2), (2, 1), (7, 1)] {
            let mut packed = vec![0xff; 4 * bits];
            pack(&codes, from, bits, &mut packed);
            let mut back = [0; GROUP];
            unpack(&packed, from, bits, &mut back);
            let mask = (0xff >> (8 - bits)) << from;
            assert_eq!(back, codes.map(|code| code & mask), "bits {from}..{} come back", from + bits);
        }
    }

    #[test]
    fn a_shift_and_a_mask_give_the_same_four_weights_in_every_width() {
        let word = |packed: &[u8], at: usize| u32::from_le_bytes(packed[4 * at..][..4].try_into().expect("four bytes"));
        for weight in 0..GROUP {
            let mut codes = [0; GROUP];
            codes[weight] = 0xff;
            let (mut nibbles, mut pairs, mut bits) = ([0; 16], [0; 8], [0; 4]);
            pack(&codes, 0, 4, &mut nibbles);
            pack(&codes, 4, 2, &mut pairs);
            pack(&codes, 4, 1, &mut bits);
            let (eight, odd) = (weight / 8, weight % 2);
            let lane = 8 * (weight % 8 / 2);
            assert_eq!(word(&nibbles, eight) >> (4 * odd) & 0x0f0f_0f0f, 15 << lane, "weight {weight}, 4 bits");
            let pair = word(&pairs, eight / 2) >> (4 * (eight % 2) + 2 * odd) & 0x0303_0303;
            assert_eq!(pair, 3 << lane, "weight {weight}, 2 bits");
            assert_eq!(word(&bits, 0) >> (2 * eight + odd) & 0x0101_0101, 1 << lane, "weight {weight}, 1 bit");
        }
    }

    #[test]
    fn nibbles_lie_in_the_order_of_the_weights() {
        let codes: Codes = std::array::from_fn(|i| if i < 16 { i as u8 } else { 31 - i as u8 });
        let mut packed = [0; 16];
        pack(&codes, 0, 4, &mut packed);
        let words: Vec<u32> = packed.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        assert_eq!(words, [0x7654_3210, 0xfedc_ba98, 0x89ab_cdef, 0x0123_4567], "0 to 15 count up, 16 to 31 down");
    }
}
