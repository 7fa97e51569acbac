// Slot RESULT, where the sums of a part of the context go: here that is all of it, and they are attention's result.
#import attended_row

// Whether workgroups make results, and not pieces of them.
const WHOLE = true;

fn finish(part: Part, head: u32, stored: bool, maximum: f32, sum: f32, total: vec4<f32>, lid: u32) {
    store_head(part.token, head, stored, total / sum, lid);
}
