// Where the rows of a cache in blocks of 32 values lie: the codes of all rows, then the scales of all rows, so that
// codes keep whole 16-byte loads. A row's codes are padded to runs of 16 values, its f16 scales to pairs, a word each.
// Depends on HEAD_DIM, KV_HEADS and CONTEXT_LENGTH. Twin: src/ops/kv.rs.
override ROW_RUNS: u32 = (HEAD_DIM + 15u) / 16u;                 // runs of 16 values of a row
override ROW_SCALES: u32 = (HEAD_DIM + 63u) / 64u;               // words of a row's scales
override CACHE_RUNS: u32 = KV_HEADS * CONTEXT_LENGTH * ROW_RUNS;  // runs of all rows

// The scale of run `run`, from the word that holds it.
fn run_scale(word: u32, run: u32) -> f32 {
    return unpack2x16float(word >> (run / 2u % 2u * 16u)).x;
}
