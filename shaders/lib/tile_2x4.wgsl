// Register tile of gemm_experts: a workgroup tile of 32 choices × 64 rows.
const TOKENS_PER_INVOCATION: u32 = 2u;
const ROWS_PER_INVOCATION: u32 = 4u;
