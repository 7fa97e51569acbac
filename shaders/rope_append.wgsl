// Rotary position embedding (Su et al. 2021) of queries and keys, and the append of keys and values to the cache.
// One invocation per quad of a token's fused row [q | k | v], HEAD_LANES a head; workgroups along x cover the row,
// along y tokens.
#import step
#import APPEND
#import turn
#import rotary

override HEADS: u32;
override KV_HEADS: u32;
override HEAD_DIM: u32;
override CONTEXT_LENGTH: u32;  // positions that the cache has room for
override HEAD_LANES: u32;      // lanes of a head, head_dim / 4 at least

const KEYS: u32 = 0u;
const VALUES: u32 = 1u;
const NOWHERE: u32 = 2u;

@bind var<storage, read_write> q: array<vec4<f32>>;    // (tokens, heads, head_dim / 4)

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let head = id.x / HEAD_LANES;
    let quad = id.x % HEAD_LANES;
    let token = id.y;
    let position = step.position + token;
    // Lanes without a quad bring zeros: those of their span and block wait for them.
    let live = head < HEADS + 2u * KV_HEADS && quad < HEAD_DIM / 4u;
    var values = vec4(0.0);
    if live {
        values = head_quad(token, head, quad, position);
    }
    values = turned(values, lid);
    if live && head < HEADS {
        q[(token * HEADS + head) * (HEAD_DIM / 4u) + quad] = values;
    }
    var cache = NOWHERE;
    var kv_head = 0u;
    if head >= HEADS && head < HEADS + KV_HEADS {
        cache = KEYS;
        kv_head = head - HEADS;
    } else if head >= HEADS + KV_HEADS && head < HEADS + 2u * KV_HEADS {
        cache = VALUES;
        kv_head = head - HEADS - KV_HEADS;
    }
    append(cache, kv_head * CONTEXT_LENGTH + position, quad, values, lid);
}
