//! wgpt
fn main() {}
