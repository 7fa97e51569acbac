// Lists the candidates of a choice in workgroup memory and ranks them. A kernel that imports it imports lib/choice
// and declares
//     override WORKGROUP: u32;  // invocations, a 1-D workgroup of LANES times a power of two, at most SLICES
// and calls its functions in uniform control flow, with lid = local_invocation_index.
const LIST = 1024u;  // candidates there is room for
const LANES = 8u;    // neighbouring invocations that read one slice

@bind var<storage, read> logits: array<u32>;    // (vocab_size), bits of f32
@bind var<storage, read> slices: array<Slice>;  // (SLICES)

var<workgroup> keys: array<u32, LIST>;    // as they were found
var<workgroup> tokens: array<u32, LIST>;
var<workgroup> order: array<u32, LIST>;   // their places in the list, after `sort`
var<workgroup> listed: atomic<u32>;
var<workgroup> bound: u32;                // the least key listed

// Lists every token whose key is `least` or more, as many as there is room for; returns how many there are.
fn list_from(least: u32, lid: u32) -> u32 {
    workgroupBarrier();
    if lid == 0u {
        bound = least;
        atomicStore(&listed, 0u);
    }
    workgroupBarrier();
    for (var slice = lid / LANES; slice < SLICES; slice += WORKGROUP / LANES) {
        if slices[slice].key >= least {
            let end = min((slice + 1u) * slice_length(), limit());
            for (var token = slice * slice_length() + lid % LANES; token < end; token += LANES) {
                let key = key_of(logits[token]);
                if key >= least {
                    let at = atomicAdd(&listed, 1u);
                    if at < LIST {
                        keys[at] = key;
                        tokens[at] = token;
                    }
                }
            }
        }
    }
    workgroupBarrier();
    return atomicLoad(&listed);
}

// Lists the candidates: all tokens where there is room for them, else those as good as the `wanted`-th best slice's
// largest logit, which are as many or more. Where good tokens are neighbours, so that they are too many, a better
// bound is searched by halving. Returns how many are listed; more than LIST where no bound is right.
fn list_candidates(wanted: u32, best: u32, lid: u32) -> u32 {
    for (var slice = lid; slice < SLICES; slice += WORKGROUP) {
        keys[slice] = slices[slice].key;
    }
    if lid == 0u {
        bound = MASKED + 1u;
    }
    workgroupBarrier();
    if limit() > LIST {
        for (var slice = lid; slice < SLICES; slice += WORKGROUP) {
            let key = keys[slice];
            var ahead = 0u;
            for (var other = 0u; other < SLICES; other++) {
                ahead += select(0u, 1u, keys[other] > key || (keys[other] == key && other < slice));
            }
            if ahead + 1u == wanted {
                bound = max(key, MASKED + 1u);
            }
        }
    }
    workgroupBarrier();
    var low = bound;
    var high = best + 1u;
    var count = list_from(low, lid);
    while count > LIST && high - low > 1u {
        let middle = low + (high - low) / 2u;
        count = list_from(middle, lid);
        if count > LIST {
            low = middle;
        } else if count < wanted {
            high = middle;
            count = LIST + 1u;
        }
    }
    return count;
}

// Puts the list in order: best first, or lowest token first. Places come from counting, so they do not depend on the
// order in which invocations found the candidates.
fn sort(count: u32, by_token: bool, lid: u32) {
    for (var i = lid; i < count; i += WORKGROUP) {
        let key = select(keys[i], 0u, by_token);
        var ahead = 0u;
        for (var other = 0u; other < count; other++) {
            let other_key = select(keys[other], 0u, by_token);
            ahead += select(0u, 1u, other_key > key || (other_key == key && tokens[other] < tokens[i]));
        }
        order[ahead] = i;
    }
    workgroupBarrier();
}
