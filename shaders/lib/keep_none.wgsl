// Slot KEEP where nobody wants a workgroup's finished rows: the interface of lib/keep_rounded without anything behind it.
fn keep(t: u32, row: u32, value: f32) {}
fn round_kept(first_row: u32, first_token: u32, count: u32, lid: u32) {}
