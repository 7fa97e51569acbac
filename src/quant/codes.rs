//! How the codes of a group of 32 weights lie in packed bytes.
//!
//! Codes of 8 bits lie in the order of the weights. Narrower ones share bytes: field `f` (counted from the lowest bits)
//! of byte `b` of a little-endian word holds weight `4f + b` of the weights of that word. Whatever the width, a shift
//! and a mask bring the same four neighbouring weights to the four bytes of a word: parts of a code join by `or`, and
//! integer dot products can take the words as they are. Twin: `shaders/lib/codes.wgsl`.

/// Weights of a group: what one chunk of a kernel holds, or half of it.
pub(super) const GROUP: usize = 32;

/// A group's codes in the order of its weights.
pub(super) type Codes = [u8; GROUP];

/// A byte in each of the four of a word.
const EVERY: u32 = 0x0101_0101;

/// Writes bits `from..from + bits` of every code into `4 * bits` bytes.
#[inline(always)]
pub(super) fn pack(codes: &Codes, from: usize, bits: usize, packed: &mut [u8]) {
    if bits == 8 {
        packed[..GROUP].copy_from_slice(codes);
        return;
    }
    let mask = EVERY * (0xff >> (8 - bits));
    for (word, weights) in packed[..4 * bits].as_chunks_mut().0.iter_mut().zip(codes.chunks_exact(32 / bits)) {
        let fours = weights.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four) >> from & mask);
        *word = fours.enumerate().fold(0, |joined, (field, four)| joined | four << (bits * field)).to_le_bytes();
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
    for (word, weights) in packed[..4 * bits].as_chunks().0.iter().zip(codes.chunks_exact_mut(32 / bits)) {
        let word = u32::from_le_bytes(*word);
        for (field, four) in weights.as_chunks_mut().0.iter_mut().enumerate() {
            let code_bits = (word >> (bits * field) & mask) << from;
            *four = (u32::from_le_bytes(*four) | code_bits).to_le_bytes();
        }
    }
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

/// What [`pack`] makes of the 4-bit codes that [`from_halves`] reads, without taking them apart.
#[inline(always)]
pub(super) fn pack_halves(stored: &[u8], packed: &mut [u8]) {
    const LOW: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    let (stored, packed) = (stored[..GROUP / 2].as_chunks::<8>().0, packed[..GROUP / 2].as_chunks_mut::<8>().0);
    // Of eight bytes the low nibbles are one run of eight weights, the high ones another, sixteen weights on.
    let runs = [0, 1].map(|half| u64::from_le_bytes(stored[half]));
    let joined = |run: u64| (run & LOW & 0xffff_ffff) | (run & LOW) >> 32 << 4;
    let words = [joined(runs[0]), joined(runs[1]), joined(runs[0] >> 4), joined(runs[1] >> 4)];
    packed[0] = (words[0] | words[1] << 32).to_le_bytes();
    packed[1] = (words[2] | words[3] << 32).to_le_bytes();
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
            let (four, lane) = (weight / 4, 8 * (weight % 4));
            let nibble = word(&nibbles, four / 2) >> (4 * (four % 2)) & 0x0f0f_0f0f;
            assert_eq!(nibble, 15 << lane, "weight {weight}, 4 bits");
            let pair = word(&pairs, four / 4) >> (2 * (four % 4)) & 0x0303_0303;
            assert_eq!(pair, 3 << lane, "weight {weight}, 2 bits");
            assert_eq!(word(&bits, 0) >> four & 0x0101_0101, 1 << lane, "weight {weight}, 1 bit");
        }
    }

    #[test]
    fn halves_are_packed_as_their_codes_are() {
        let stored: Vec<u8> = (0..16u8).map(|i| i.wrapping_mul(89) ^ 0x3c).collect();
        let (mut directly, mut by_codes) = ([0; 16], [0; 16]);
        pack_halves(&stored, &mut directly);
        pack(&from_halves(&stored), 0, 4, &mut by_codes);
        assert_eq!(directly, by_codes, "the same bytes");
    }

    #[test]
    fn a_byte_of_nibbles_holds_weights_four_apart() {
        let codes: Codes = std::array::from_fn(|i| if i < 16 { i as u8 } else { 31 - i as u8 });
        let mut packed = [0; 16];
        pack(&codes, 0, 4, &mut packed);
        let words: Vec<u32> = packed.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        assert_eq!(words, [0x7362_5140, 0xfbea_d9c8, 0x8c9d_aebf, 0x0415_2637], "0 to 15 count up, 16 to 31 down");
    }
}
