//! Cutting a prefill chunk so that several adapters work on it at once.
//!
//! An adapter begins with a piece as soon as the one before it has finished with it. Invariant: a chunk of several
//! tokens is never cut into a piece of one, which other kernels would compute: the cut changes no bit of the logits.

use super::Plan;

/// Tokens of the least piece: two tiles of the matrix kernels, which fill a large GPU better than one, and enough
/// work to hide that every piece reads all weights again.
pub const LEAST_PIECE: u32 = 256;

/// Pieces for each adapter. Of the time that `n` adapters take one after the other, `k` pieces leave
/// `(k + n - 1) / (k n)`: with two for each adapter 5/8 of it on two, with no end of them 1/2.
const FOR_EACH: u32 = 2;

/// The lengths of the pieces that `tokens` tokens are cut into for so many adapters, none below `least` but a last one
/// of half as much.
pub fn pieces(tokens: u32, adapters: usize, least: u32) -> Vec<u32> {
    let least = least.max(4);
    let length = tokens.div_ceil(FOR_EACH * adapters.max(1) as u32).next_multiple_of(least);
    if adapters < 2 || tokens <= length {
        return vec![tokens];
    }
    let mut pieces = vec![length; (tokens / length) as usize];
    match tokens % length {
        0 => {}
        rest if rest >= least / 2 => pieces.push(rest),
        rest => *pieces.last_mut().expect("there is a whole piece") += rest,
    }
    pieces
}

/// The lengths of the prefill chunks of so many tokens. The last but one gives a token to a last one that would have
/// one only.
pub fn chunks(tokens: u32, longest: u32) -> Vec<u32> {
    let longest = longest.max(1);
    let mut chunks = vec![longest; (tokens / longest) as usize];
    chunks.extend(Some(tokens % longest).filter(|rest| *rest > 0));
    if let [.., before, last @ 1] = &mut chunks[..]
        && *before > 2
    {
        (*before, *last) = (*before - 1, 2);
    }
    chunks
}

impl Plan {
    /// The pieces that this plan's adapters take a prefill chunk in. Streamed weights come once for each piece, so
    /// there the chunk stays whole.
    pub fn pieces(&self, tokens: u32, least: u32) -> Vec<u32> {
        if self.streams() { vec![tokens] } else { pieces(tokens, self.adapters(), least) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_adapter_gets_two_pieces_of_whole_tiles() {
        assert_eq!(pieces(512, 2, 128), [128; 4], "two adapters");
        assert_eq!(pieces(2048, 2, 128), [512; 4], "a longer chunk, longer pieces");
        assert_eq!(pieces(512, 3, 128), [128; 4], "no piece below a tile");
        assert_eq!(pieces(512, 1, 128), [512], "one adapter has nobody to wait for it");
        assert_eq!(pieces(128, 4, 128), [128], "a short prompt stays whole");
        assert_eq!(pieces(1, 2, 128), [1], "a token too");
    }

    #[test]
    fn no_chunk_of_several_tokens_ends_in_one() {
        assert_eq!(chunks(1, 512), [1], "a token");
        assert_eq!(chunks(512, 512), [512], "a whole chunk");
        assert_eq!(chunks(513, 512), [511, 2], "one more");
        assert_eq!(chunks(1300, 512), [512, 512, 276], "several");
        assert_eq!(chunks(3, 1), [1, 1, 1], "who wants single tokens gets them");
    }

    #[test]
    fn what_is_left_over_is_never_one_token() {
        assert_eq!(pieces(450, 2, 128), [128, 128, 128, 66], "half a piece stands by itself");
        assert_eq!(pieces(257, 2, 128), [128, 129], "less joins the one before");
        for tokens in 2..1200 {
            for (adapters, least) in [(2, 128), (3, 16), (4, 1)] {
                let cut = pieces(tokens, adapters, least);
                assert_eq!(cut.iter().sum::<u32>(), tokens, "nothing is lost");
                assert!(cut.iter().all(|piece| *piece > 1), "{tokens} tokens: {cut:?}");
            }
        }
    }
}
