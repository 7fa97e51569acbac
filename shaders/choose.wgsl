// The second of two kernels that choose a token: from the slices' sums to its id. One workgroup. Greedy and draws
// without a filter need the slices only; filters rank a list of candidates that the slices' largest logits bound.
// Where the list does not hold all that the filters keep, it says so instead of choosing.
#import choice
#import scan
#import candidates

override WORKGROUP: u32;  // invocations; a power of two, at most SLICES

const BREADTH = 384u;  // candidates listed at least, where no top-k says how many

const CHOSEN = 0.0;
const NOT_A_NUMBER = 1.0;
const NOTHING_LEFT = 2.0;
const UNDECIDED = 3.0;

@bind var<storage, read_write> chosen: array<f32>;    // token, outcome, its logit, nothing
@bind var<storage, read_write> next: array<u32>;      // the next forward's token

var<workgroup> picked: u32;
var<workgroup> offset: f32;

fn conclude(token: u32, outcome: f32, logit: f32) {
    chosen[0] = f32(token);
    chosen[1] = outcome;
    chosen[2] = logit;
    chosen[3] = 0.0;
    next[0] = select(0u, token, outcome == CHOSEN);
}

// Weights of a run of slices; together those of all tokens.
fn mass_of_run(best: u32, lid: u32) -> f32 {
    var mass = 0.0;
    for (var i = 0u; i < SLICES / WORKGROUP; i++) {
        let slice = slices[lid * (SLICES / WORKGROUP) + i];
        mass += slice.mass * weight(slice.key, best);
    }
    return mass;
}

// Without a filter: the slice that the draw falls into, then the token in it.
fn draw_from_all(best: u32, lid: u32) {
    let run = SLICES / WORKGROUP;
    let mass = mass_of_run(best, lid);
    let goal = rule[4] * scan(mass, lid);
    if lid == locate(mass, goal, lid) {
        var sum = sum_before(lid);
        for (var i = lid * run; i < (lid + 1u) * run; i++) {
            let part = slices[i].mass * weight(slices[i].key, best);
            if part > 0.0 {
                picked = i;
                offset = sum;
                sum += part;
                if sum > goal {
                    break;
                }
            }
        }
    }
    workgroupBarrier();
    let rest = goal - offset;
    let end = min((picked + 1u) * slice_length(), limit());
    let length = (slice_length() + WORKGROUP - 1u) / WORKGROUP;
    let start = min(picked * slice_length() + lid * length, end);
    let stop = min(start + length, end);
    var mine = 0.0;
    for (var token = start; token < stop; token++) {
        mine += weight(key_of(logits[token]), best);
    }
    scan(mine, lid);
    if lid == locate(mine, rest, lid) {
        var sum = sum_before(lid);
        var token = start;
        for (var at = start; at < stop; at++) {
            let part = weight(key_of(logits[at]), best);
            if part > 0.0 {
                token = at;
                sum += part;
                if sum > rest {
                    break;
                }
            }
        }
        conclude(token, CHOSEN, bitcast<f32>(logits[token]));
    }
}

// With filters: top-k and top-p by rank, then min-p and the draw in the order of tokens.
fn draw_from_list(best: u32, by_rank: bool, lid: u32) {
    let top_k = u32(rule[1]);
    let count = list_candidates(select(BREADTH, top_k, by_rank), best, lid);
    let complete = by_rank || bound == MASKED + 1u;
    var whole = 0.0;
    if !complete {
        whole = scan(mass_of_run(best, lid), lid);
    }
    let ranked = select(count, min(top_k, count), by_rank);
    if count <= LIST {
        sort(count, false, lid);
    }
    let run = (ranked + WORKGROUP - 1u) / WORKGROUP;
    let stop = select(min((lid + 1u) * run, ranked), 0u, count > LIST);
    var mine = 0.0;
    for (var i = lid * run; i < stop; i++) {
        mine += weight(keys[order[i]], best);
    }
    let mass = scan(mine, lid);
    let wanted = rule[2] * select(whole, mass, complete);
    let reached = rule[2] < 1.0 && mass >= wanted;
    // Not all that top-p keeps is listed; that does not matter where min-p drops the rest.
    let short = !complete && !reached && weight(bound, best) >= rule[3];
    if count > LIST || short {
        if lid == 0u {
            conclude(0u, UNDECIDED, 0.0);
        }
        return;
    }
    if lid == 0u {
        picked = ranked - 1u;
    }
    // The least number below `wanted`: a sum that equals it is enough.
    let below = select(-1.0, bitcast<f32>(max(bitcast<u32>(wanted), 1u) - 1u), wanted > 0.0);
    if lid == locate(mine, below, lid) && reached {
        var sum = sum_before(lid);
        for (var i = lid * run; i < stop; i++) {
            sum += weight(keys[order[i]], best);
            picked = i;
            if sum > below {
                break;
            }
        }
    }
    workgroupBarrier();
    let last = order[picked];
    workgroupBarrier();
    sort(count, true, lid);
    draw_from_kept(best, last, count, lid);
}

// A candidate's weight, or nothing where a filter drops it.
fn kept_weight(at: u32, last: u32, best: u32) -> f32 {
    let part = weight(keys[at], best);
    let ranks = keys[at] > keys[last] || (keys[at] == keys[last] && tokens[at] <= tokens[last]);
    return select(0.0, part, ranks && part >= rule[3]);
}

fn draw_from_kept(best: u32, last: u32, count: u32, lid: u32) {
    let run = (count + WORKGROUP - 1u) / WORKGROUP;
    let stop = min((lid + 1u) * run, count);
    var mine = 0.0;
    for (var i = lid * run; i < stop; i++) {
        mine += kept_weight(order[i], last, best);
    }
    let goal = rule[4] * scan(mine, lid);
    if lid == locate(mine, goal, lid) {
        var sum = sum_before(lid);
        var at = order[lid * run];
        for (var i = lid * run; i < stop; i++) {
            let part = kept_weight(order[i], last, best);
            if part > 0.0 {
                at = order[i];
                sum += part;
                if sum > goal {
                    break;
                }
            }
        }
        conclude(tokens[at], CHOSEN, logit_of(keys[at]));
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) lid: u32) {
    var mine = Slice(0u, NONE, NONE, 0.0);
    for (var slice = lid; slice < SLICES; slice += WORKGROUP) {
        mine = better(mine, slices[slice]);
    }
    for (var half = WORKGROUP; half > 0u; half >>= 1u) {
        if lid < half {
            if half < WORKGROUP {
                mine = better(mine, Slice(keys[lid + half], tokens[lid + half], order[lid + half], 0.0));
            }
            keys[lid] = mine.key;
            tokens[lid] = mine.token;
            order[lid] = mine.bad;
        }
        workgroupBarrier();
    }
    let best = keys[0];
    let token = tokens[0];
    let bad = order[0];
    workgroupBarrier();
    if bad != NONE || best == 0u || rule[0] == 0.0 {
        if lid == 0u {
            let at = min(select(token, bad, bad != NONE), limit() - 1u);
            let outcome = select(select(CHOSEN, NOTHING_LEFT, best == 0u), NOT_A_NUMBER, bad != NONE);
            conclude(at, outcome, bitcast<f32>(logits[at]));
        }
        return;
    }
    let by_rank = rule[1] > 0.0 && rule[1] < rule[5];
    if by_rank || rule[2] < 1.0 || rule[3] > 0.0 {
        draw_from_list(best, by_rank, lid);
    } else {
        draw_from_all(best, lid);
    }
}
