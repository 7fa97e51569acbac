// What each lane of gemv accumulates: 2 weight rows × 1 activation row.
const ROWS_PER_LANE: u32 = 2u;
const TOKENS_PER_LANE: u32 = 1u;
