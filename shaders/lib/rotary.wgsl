// Heads of a fused row [q | k | v], queries and keys by rotary position embedding (Su et al. 2021). A value finds its
// pair by itself, so that neither pairs nor rotary_dim need to fall on quads. Written as fma, so that every kernel that
// rotates makes the same bits. Depends on HEADS, KV_HEADS and HEAD_DIM. Twin: src/ops/rope.rs.
override ROTARY_DIM: u32;      // rotated values of a head; the rest is copied; 0: none
override CLIP: f32;            // values are first brought within ± this; 0: they are not
override INTERLEAVED: bool;    // pairs (2i, 2i + 1); otherwise (i, i + rotary_dim / 2)

@bind var<storage, read> qkv: array<f32>;          // (tokens, heads + 2 kv_heads, head_dim)
@bind var<storage, read> table: array<vec2<f32>>;  // (positions, rotary_dim / 2): cosine, sine

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
    return fma(value, turn.x, value_at(head + other) * select(-turn.y, turn.y, second));
}

// Quad `quad` of head `head` of a token's row: queries first, then keys, then values, which are not rotated.
fn head_quad(token: u32, head: u32, quad: u32, position: u32) -> vec4<f32> {
    let start = (token * (HEADS + 2u * KV_HEADS) + head) * HEAD_DIM;
    let at = quad * 4u;
    if head < HEADS + KV_HEADS {
        return vec4(
            rotated(start, at, position),
            rotated(start, at + 1u, position),
            rotated(start, at + 2u, position),
            rotated(start, at + 3u, position),
        );
    }
    let first = start + at;
    return vec4(value_at(first), value_at(first + 1u), value_at(first + 2u), value_at(first + 3u));
}
