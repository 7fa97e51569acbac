// Register tile of gemm: a workgroup tile of 64 tokens × 64 rows.
const TOKENS_PER_INVOCATION: u32 = 4u;
const ROWS_PER_INVOCATION: u32 = 4u;
