// Register tile of gemm: a workgroup tile of 128 tokens × 128 rows.
const TOKENS_PER_INVOCATION: u32 = 8u;
const ROWS_PER_INVOCATION: u32 = 8u;
