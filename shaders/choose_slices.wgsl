// The first of two kernels that choose a token: the largest logit of every slice of the vocabulary, and with a
// temperature the sum of its weights. LANES neighbouring invocations per slice, so that loads are neighbours too.
#import choice

const LANES = 8u;

@bind var<storage, read> logits: array<u32>;           // (vocab_size), bits of f32
@bind var<storage, read_write> slices: array<Slice>;   // (SLICES)

var<workgroup> found: array<Slice, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let slice = (group.x * 64u + lid) / LANES;
    let lane = lid % LANES;
    let first = min(slice * slice_length(), limit());
    let end = min(first + slice_length(), limit());
    var mine = Slice(0u, NONE, NONE, 0.0);
    for (var token = first + lane; token < end; token += LANES) {
        let bits = logits[token];
        let bad = is_bad(bits);
        let key = select(key_of(bits), 0u, bad || key_of(bits) <= MASKED);
        mine = better(mine, Slice(key, select(token, NONE, key == 0u), select(NONE, token, bad), 0.0));
    }
    found[lid] = mine;
    for (var half = LANES / 2u; half > 0u; half >>= 1u) {
        workgroupBarrier();
        if lane < half {
            found[lid] = better(found[lid], found[lid + half]);
        }
    }
    workgroupBarrier();
    let key = found[lid - lane].key;
    workgroupBarrier();
    if rule[0] > 0.0 {
        var mass = 0.0;
        for (var token = first + lane; token < end; token += LANES) {
            mass += weight(key_of(logits[token]), key);
        }
        found[lid].mass = mass;
        for (var half = LANES / 2u; half > 0u; half >>= 1u) {
            workgroupBarrier();
            if lane < half {
                found[lid].mass += found[lid + half].mass;
            }
        }
    }
    if lane == 0u && slice < SLICES {
        slices[slice] = found[lid];
    }
}
