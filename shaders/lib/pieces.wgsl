// Which positions a token sees, and how they are cut into pieces: whole units, as long as leaves FEW pieces at most, but no
// longer than SPLIT. Twin: Pieces in src/ops/attention/pieces.rs.
override WINDOW: u32;  // positions seen, the token's own included; 0: all
override UNIT: u32;    // positions
override FEW: u32;
override SPLIT: u32;   // positions, whole units

// Positions that the token at `position` sees.
fn seen_from(position: u32) -> u32 {
    return select(position + 1u, min(WINDOW, position + 1u), WINDOW > 0u);
}

// Positions of each of its pieces but the last.
fn piece_length(seen: u32) -> u32 {
    return min((seen + UNIT * FEW - 1u) / (UNIT * FEW) * UNIT, SPLIT);
}
