// Attention of single tokens over keys and values that are all in the cache: flash decoding (Dao et al. 2023).
// Workgroups along x take parts of the context, along y tiles of query heads, along z tokens.
#import step
#import KV
#import REDUCE
#import QUANTIZED
#import RESULT
#import attend

@bind var<storage, read> q: array<vec4<f32>>;  // (tokens, heads, head_dim / 4)
@bind var<storage, read> slopes: array<f32>;   // (heads), for ALiBi

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let tiles = TILES / KV_HEADS;
    let position = step.position + workgroup.z;
    let seen = seen_from(position);
    let length = piece_length(seen);
    let begin = position + 1u - seen + workgroup.x * length;
    let end = min(begin + length, position + 1u);
    let first_head = workgroup.y % tiles * TILE_HEADS;
    let part = Part(workgroup.z, workgroup.y / tiles, first_head, position, begin, end, workgroup.x);
    if ((seen <= ALONE) != WHOLE) | (begin >= end) {
        return;
    }
    load_first_values(part, end - begin, lid);
    let quads = HEAD_DIM / 4u;
    for (var at = lid; at < QUERY_QUADS; at += WORKGROUP) {
        let quad = at % QUERY_ROW;
        var query = vec4(0.0);
        if quad < quads {
            query = q[(part.token * HEADS + head_of(part, at / QUERY_ROW)) * quads + quad] * SCALE;
        }
        queries[at] = query;
    }
    workgroupBarrier();
    score_keys(part, end - begin, lid);
    weigh(end - begin, lid);
    add_values(part, end - begin, lid);
    join(part, lid);
}
