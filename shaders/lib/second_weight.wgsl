// Slot SECOND of gemm_matrix: tiles of rows behind those of the first weight belong to a second one, as wide and of the same
// format, whose sums go to whole tiles of a buffer of their own. Depends on OCTETS and SLABS.
#again WEIGHTS second

const PAIRED: bool = true;
override FIRST_TILES: u32;  // tiles of rows of the first weight
override SECOND_ROWS: u32;  // rows of the second
override SECOND_COLUMNS: u32 = (SECOND_ROWS + TILE_ROWS - 1u) / TILE_ROWS * TILE_ROWS;

@bind var<storage, read> second_narrowed: array<vec4<u32>>;  // (tokens, slabs, octets)
@bind var<storage, read_write> second_sums: array<f32>;      // (whole tiles of tokens, and of rows)

fn octet1(token: u32, slab: u32, octet: u32) -> vec4<u32> {
    return second_narrowed[(token * SLABS + slab) * OCTETS + octet];
}

fn chunk1(row: u32, chunk: u32) -> Chunk {
    return second_load_chunk(min(row, SECOND_ROWS - 1u), chunk);
}

fn store_second(c: coop_mat16x16<f32, C>, at: u32) {
    coopStoreT(c, &second_sums[at], SECOND_COLUMNS);
}
