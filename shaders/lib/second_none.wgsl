// Slot SECOND of gemm_matrix: the dispatch computes one matmul. Interface: lib/second_weight.
const PAIRED: bool = false;
const FIRST_TILES: u32 = 0u;
const SECOND_ROWS: u32 = 1u;
const SECOND_COLUMNS: u32 = 0u;

fn octet1(token: u32, slab: u32, octet: u32) -> vec4<u32> {
    return vec4<u32>();
}

fn chunk1(row: u32, chunk: u32) -> Chunk {
    return load_chunk(row, chunk);
}

fn store_second(c: coop_mat16x16<f32, C>, at: u32) {}
