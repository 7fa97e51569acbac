// What each lane of gemv accumulates: 2 weight rows × 8 activation rows.
const ROWS_PER_LANE: u32 = 2u;
const TOKENS_PER_LANE: u32 = 8u;
