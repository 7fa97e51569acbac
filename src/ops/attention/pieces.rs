//! How the positions that a token sees are cut into pieces, a workgroup's each.
//!
//! A workgroup takes whole units, as many positions as its lanes load at a time: a piece a little longer would cost as much
//! as one of another unit. Of a context that is not long there are as many pieces as fill a large GPU, of a long one the
//! longest that workgroup memory has room for. Invariant: the cut depends on how much a token sees, never on how much
//! room the cache has or on what else is in the forward.

use crate::ops::Step;

/// Workgroups that are enough to fill a large GPU.
const WORKGROUPS: u32 = 896;

/// A cut of contexts. Twin of shaders/lib/pieces.wgsl.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pieces {
    /// Positions of a unit.
    unit: u32,
    /// Pieces at most, while they are no longer than the longest.
    few: u32,
    /// Positions of the longest: whole units.
    longest: u32,
    /// Positions that a token sees at most.
    seen: u32,
}

impl Pieces {
    /// The cut of up to `seen` positions by units of so many, where `tiles` workgroups attend to each piece. The
    /// longest piece has `longest` positions or a little more.
    pub(super) fn new(unit: u32, tiles: u32, longest: u32, seen: u32) -> Self {
        Self { unit, few: WORKGROUPS.div_ceil(tiles), longest: longest.next_multiple_of(unit), seen }
    }

    /// One piece of up to `longest` positions.
    pub(super) const fn one(longest: u32) -> Self {
        Self { unit: longest, few: 1, longest, seen: longest }
    }

    /// Positions of the longest piece.
    pub(super) const fn longest(self) -> u32 {
        self.longest
    }

    /// Positions of each piece but the last, of the context of a token that sees so many.
    const fn length(self, seen: u32) -> u32 {
        let length = seen.div_ceil(self.unit * self.few) * self.unit;
        if length < self.longest { length } else { self.longest }
    }

    /// Pieces of the context of a token that sees so many.
    const fn of(self, seen: u32) -> u32 {
        seen.div_ceil(self.length(seen))
    }

    /// Pieces of the token of a forward that has the most.
    pub(in crate::ops) const fn count(self, step: Step) -> u32 {
        let first = if step.position + 1 < self.seen { step.position + 1 } else { self.seen };
        let last = if step.context < self.seen { step.context } else { self.seen };
        let count = self.of(last);
        // Where pieces become longer, tokens in between have as many as there may be.
        let between = self.length(first) != self.length(last) && count < self.few;
        if between { self.few } else { count }
    }

    /// Pieces of a token at most.
    pub(super) fn most(self) -> u32 {
        self.few.max(self.seen.div_ceil(self.longest)).min(self.seen.div_ceil(self.unit))
    }

    /// What shaders know of it.
    pub(super) fn overrides(self) -> [(&'static str, f64); 3] {
        [("UNIT", f64::from(self.unit)), ("FEW", f64::from(self.few)), ("SPLIT", f64::from(self.longest))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_what_is_seen_and_are_no_more_than_there_is_room_for() {
        for (unit, tiles, seen) in [(96, 32, 20_000), (128, 18, 8_192), (32, 900, 3_000), (256, 7, 700)] {
            let pieces = Pieces::new(unit, tiles, 384, seen);
            for position in 0..seen + 40 {
                let of_one = |position: u32| pieces.of((position + 1).min(seen));
                let count = pieces.count(Step::new(1, position, 1));
                assert_eq!(count, of_one(position), "a token alone has its own");
                assert!(count <= pieces.most(), "{pieces:?}: {count} pieces at {position}");
                let few = pieces.count(Step::new(16, position, 1));
                let most = (position..position + 16).map(of_one).max();
                assert!(Some(few) >= most && few <= pieces.most(), "{pieces:?}: {few} pieces from {position} on");
            }
        }
    }

    #[test]
    fn pieces_grow_with_what_is_seen() {
        let pieces = Pieces::new(96, 32, 384, 50_000);
        let lengths = [600, 2_688, 2_689, 8_000, 40_000].map(|seen| pieces.length(seen));
        assert_eq!(lengths, [96, 96, 192, 288, 384], "whole units, 28 pieces until they are the longest");
    }
}
