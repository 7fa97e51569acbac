// Attention of one token from its fused row [q | k | v]: attention_decode with rope_append in the same dispatch.
// Workgroups are attention_decode's. Each rotates the queries it needs; those whose part has the token itself make its
// key and value as the cache holds them, and use these: nobody reads a row that is written in this dispatch. One
// workgroup of each key/value head writes them.
#import step
#import CACHES
#import REDUCE
#import QUANTIZED
#import RESULT
#import rotary
#import attend

override FRESH_QUADS: u32 = 2u * QUERY_ROW;
override PREPARED: u32 = QUERY_QUADS + FRESH_QUADS;

@bind var<storage, read> slopes: array<f32>;  // (heads), for ALiBi

// Through workgroup memory as words, so that no compiler finds a way around their rounding.
var<workgroup> fresh: array<Held, FRESH_QUADS>;  // (key and value, runs, RUN_QUADS)

// Run `run` of the token's own key (0) or value (1).
fn fresh_run(side: u32, run: u32) -> array<Held, RUN_QUADS> {
    var quads: array<Held, RUN_QUADS>;
    for (var i = 0u; i < RUN_QUADS; i++) {
        quads[i] = fresh[side * QUERY_ROW + run * RUN_QUADS + i];
    }
    return quads;
}

fn fresh_values(side: u32, run: u32) -> array<vec4<f32>, RUN_QUADS> {
    var words = fresh_run(side, run);
    var quads: array<vec4<f32>, RUN_QUADS>;
    for (var i = 0u; i < RUN_QUADS; i++) {
        quads[i] = from_held(words[i]);
    }
    return quads;
}

// Queries, and the token's own key and value where they are wanted: a quad a lane.
fn prepare(part: Part, newest: bool, lid: u32) {
    for (var at = lid; at < PREPARED; at += WORKGROUP) {
        let quad = at % QUERY_ROW;
        let row = at / QUERY_ROW;
        let live = quad < HEAD_DIM / 4u;
        if row < TILE_HEADS {
            var query = vec4(0.0);
            if live {
                query = head_quad(0u, head_of(part, row), quad, part.position) * SCALE;
            }
            queries[at] = query;
        } else if newest {
            let side = row - TILE_HEADS;
            var own = vec4(0.0);
            if live {
                own = head_quad(0u, HEADS + side * KV_HEADS + part.kv_head, quad, part.position);
            }
            fresh[at - QUERY_QUADS] = held(own);
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let tiles = TILES / KV_HEADS;
    let position = step.position;
    let seen = seen_from(position);
    let length = piece_length(seen);
    let begin = position + 1u - seen + workgroup.x * length;
    let end = min(begin + length, position + 1u);
    let first_head = workgroup.y % tiles * TILE_HEADS;
    let part = Part(0u, workgroup.y / tiles, first_head, position, begin, end, workgroup.x);
    if ((seen <= ALONE) != WHOLE) | (begin >= end) {
        return;
    }
    let newest = end == position + 1u;
    let count = end - begin;
    let own = count - 1u;  // where the token itself is, if it is
    let cached = select(count, own, newest);
    load_first_values(part, cached, lid);
    prepare(part, newest, lid);
    workgroupBarrier();
    if newest & (first_head == 0u) {
        let row = part.kv_head * CONTEXT_LENGTH + position;
        for (var run = lid; run < RUNS; run += WORKGROUP) {
            store_key(row, run, fresh_run(0u, run));
            store_value(row, run, fresh_run(1u, run));
        }
    }
    score_keys(part, cached, lid);
    if newest & (lid == own % WORKGROUP) {
        for (var h = 0u; h < TILE_HEADS; h++) {
            var sum = 0.0;
            for (var run = 0u; run < RUNS; run++) {
                sum += product(query_run(h, run), fresh_values(0u, run));
            }
            store_score(part, h, own, sum);
        }
    }
    weigh(count, lid);
    add_values(part, cached, lid);
    if newest & (lid / RUNS == own % STRANDS) {
        add_value(own, fresh_values(1u, lid % RUNS));
    }
    join(part, lid);
}
