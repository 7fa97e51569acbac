// What each lane of gemv accumulates: 1 weight row × 1 activation row.
const ROWS_PER_LANE: u32 = 1u;
const TOKENS_PER_LANE: u32 = 1u;
