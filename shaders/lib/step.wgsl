// What changes from one forward to the next. Twin of `Step` in src/ops/mod.rs.
struct Step {
    tokens: u32,      // tokens of this forward
    position: u32,    // position of the first one
    logit_rows: u32,  // trailing tokens whose logits are wanted
    context: u32,     // position + tokens: valid rows of the KV cache after this forward
}
@bind var<uniform> step: Step;
