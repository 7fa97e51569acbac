// Rows of a workgroup's tile of gemm_matrix, where that many fill the adapter better (src/ops/matmul.rs).
const TILE_ROWS: u32 = 160u;
