// Rotary position embedding (Su et al. 2021) of queries and keys, and the append of keys and values to the cache.
// One invocation per quad of a token's fused row [q | k | v], HEAD_LANES a head; workgroups along x cover the row,
// along y tokens. A value finds its pair by itself, so that neither pairs nor rotary_dim need to fall on quads.
#import step
#import APPEND
#import turn

override HEADS: u32;
override KV_HEADS: u32;
override HEAD_DIM: u32;
override ROTARY_DIM: u32;      // rotated values of a head; the rest is copied; 0: none
override CLIP: f32;            // values are first brought within ± this; 0: they are not
override INTERLEAVED: bool;    // pairs (2i, 2i + 1); otherwise (i, i + rotary_dim / 2)
override CONTEXT_LENGTH: u32;  // positions that the cache has room for
override HEAD_LANES: u32;      // lanes of a head, head_dim / 4 at least

const KEYS: u32 = 0u;
const VALUES: u32 = 1u;
const NOWHERE: u32 = 2u;

@bind var<storage, read> qkv: array<f32>;              // (tokens, heads + 2 kv_heads, head_dim)
@bind var<storage, read> table: array<vec2<f32>>;      // (positions, rotary_dim / 2): cosine, sine
@bind var<storage, read_write> q: array<vec4<f32>>;    // (tokens, heads, head_dim / 4)

fn value_at(at: u32) -> f32 {
    if CLIP > 0.0 {
        return clamp(qkv[at], -CLIP, CLIP);
    }
    return qkv[at];
}

// Value `at` of the head that starts at `head`, rotated for `position`.
fn rotated(head: u32, at: u32, position: u32) -> f32 {
    let value = value_at(head + at);
    if at >= ROTARY_DIM {
        return value;
    }
    let pairs = max(ROTARY_DIM / 2u, 1u);  // not 0: compilers see the division even where it never runs
    var pair = at % pairs;
    var second = at >= pairs;
    var other = (at + pairs) % (2u * pairs);
    if INTERLEAVED {
        pair = at / 2u;
        second = at % 2u == 1u;
        other = at ^ 1u;
    }
    let turn = table[position * pairs + pair];
    return value * turn.x + value_at(head + other) * select(-turn.y, turn.y, second);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let head = id.x / HEAD_LANES;
    let quad = id.x % HEAD_LANES;
    let token = id.y;
    let position = step.position + token;
    let start = (token * (HEADS + 2u * KV_HEADS) + head) * HEAD_DIM;
    let at = quad * 4u;
    // Lanes without a quad bring zeros: those of their span and block wait for them.
    let live = head < HEADS + 2u * KV_HEADS && at < HEAD_DIM;
    var values = vec4(0.0);
    if live && head < HEADS + KV_HEADS {
        values = vec4(
            rotated(start, at, position),
            rotated(start, at + 1u, position),
            rotated(start, at + 2u, position),
            rotated(start, at + 3u, position),
        );
    } else if live {
        values = vec4(value_at(start + at), value_at(start + at + 1u), value_at(start + at + 2u), value_at(start + at + 3u));
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
