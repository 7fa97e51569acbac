// Joins the pieces of a context: weights each piece's sums by exp(its maximum − the overall one) (Milakov & Gimelshein
// 2018). Workgroups along x take a head each, along z tokens.
// Lanes stride over pieces for maximum and sum, then over (strand, quad): each strand adds up every STRANDS-th piece.
#import step
#import REDUCE
#import QUANTIZED
#import attended_row
#import pieces

override WORKGROUP: u32;  // invocations, head_dim / 4 at least
override LANES: u32;      // = WORKGROUP
override HEADS: u32;
override HEAD_DIM: u32;
override PIECES: u32;     // pieces of a head there is room for
override ALONE: u32;      // tokens that see no more have no pieces
override STRANDS: u32 = WORKGROUP / (HEAD_DIM / 4u);

const AT_ONCE = 4u;    // pieces that a lane loads before it uses the first
const NONE = -1.0e38;  // attend's

@bind var<storage, read> partials: array<vec4<f32>>;  // (tokens, heads, pieces, 1 + head_dim / 4): maximum, sum; values

var<workgroup> strands: array<vec4<f32>, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let position = step.position + workgroup.z;
    let seen = seen_from(position);
    if seen <= ALONE {
        return;
    }
    let quads = HEAD_DIM / 4u;
    let length = piece_length(seen);
    let pieces = (seen + length - 1u) / length;
    let row = (workgroup.z * HEADS + workgroup.x) * PIECES;
    var most = NONE;
    for (var piece = lid; piece < pieces; piece += WORKGROUP) {
        most = max(most, partials[(row + piece) * (1u + quads)].x);
    }
    let maximum = reduce_max(most, lid);
    var share = 0.0;
    for (var piece = lid; piece < pieces; piece += WORKGROUP) {
        let sums = partials[(row + piece) * (1u + quads)];
        share += exp(sums.x - maximum) * sums.y;
    }
    let total = reduce_sum(share, lid);

    let strand = lid / quads;
    var values = vec4(0.0);
    if strand < STRANDS {
        for (var first = strand; first < pieces; first += AT_ONCE * STRANDS) {
            var maxima: array<f32, AT_ONCE>;
            var loaded: array<vec4<f32>, AT_ONCE>;
            for (var i = 0u; i < AT_ONCE; i++) {
                let at = (row + min(first + i * STRANDS, pieces - 1u)) * (1u + quads);
                maxima[i] = partials[at].x;
                loaded[i] = partials[at + 1u + lid % quads];
            }
            for (var i = 0u; i < AT_ONCE; i++) {
                if first + i * STRANDS < pieces {
                    values += exp(maxima[i] - maximum) * loaded[i];
                }
            }
        }
    }
    strands[lid] = values;
    workgroupBarrier();
    let quad = min(lid, quads - 1u);
    var all = strands[quad];
    for (var other = 1u; other < STRANDS; other++) {
        all += strands[other * quads + quad];
    }
    store_head(workgroup.z, workgroup.x, true, all / total, lid);
}
