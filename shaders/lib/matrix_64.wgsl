// Rows of a workgroup's tile of gemm_matrix: weights of few rows, of which there are then enough workgroups.
const TILE_ROWS: u32 = 64u;
