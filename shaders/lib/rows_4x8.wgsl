// What each lane of gemv accumulates: 4 weight rows × 8 activation rows.
const ROWS_PER_LANE: u32 = 4u;
const TOKENS_PER_LANE: u32 = 8u;
