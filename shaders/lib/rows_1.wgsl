// Weight rows each lane of gemv accumulates.
const ROWS_PER_LANE: u32 = 1u;
