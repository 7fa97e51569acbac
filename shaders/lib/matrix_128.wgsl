// Rows of a workgroup's tile of gemm_matrix: large weights.
const TILE_ROWS: u32 = 128u;
