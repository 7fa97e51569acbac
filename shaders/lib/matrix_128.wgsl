// Rows of a workgroup's tile of gemm_matrix.
const TILE_ROWS: u32 = 128u;
