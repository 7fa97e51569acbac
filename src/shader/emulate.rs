//! Kernels on cooperative matrices, rewritten for adapters that have none: so that those kernels can be tried anywhere.
//!
//! A matrix's parts belong to the lanes of a subgroup, in a way that only the driver knows. Here a lane owns half a row
//! of each 16 × 16 result. It loads its row of the left factor; the right one stays where it is, and its lane's eight
//! columns are read as they are multiplied. No lane needs another's, so that subgroups may be of any size. What is
//! rewritten are the calls, whose text is ours: factors lie in arrays of `vec4<f16>`, results in arrays of `f32`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The lane, and the product; `RIGHT` is the array of the right factors, which is one in each kernel.
const COMMON: &str = "
var<private> matrix_lane: u32;

fn matrix_multiply_add(a: mat4x4<f32>, b: vec3<u32>, c: mat2x4<f32>) -> mat2x4<f32> {
    if b.z == BY_ROWS {
        var sum = c;
        let first = b.x + matrix_lane % 2u * 2u;
        for (var k = 0u; k < 16u; k++) {
            let place = first + k * b.y;
            sum += a[k / 4u][k % 4u] * mat2x4<f32>(vec4<f32>(RIGHT[place]), vec4<f32>(RIGHT[place + 1u]));
        }
        return sum;
    }
    let first = b.x + matrix_lane % 2u * 8u * b.y;
    return c + mat2x4<f32>(matrix_quad(a, first, b.y), matrix_quad(a, first + 4u * b.y, b.y));
}

fn matrix_quad(a: mat4x4<f32>, first: u32, stride: u32) -> vec4<f32> {
    return vec4<f32>(
        matrix_dot(a, first),
        matrix_dot(a, first + stride),
        matrix_dot(a, first + 2u * stride),
        matrix_dot(a, first + 3u * stride),
    );
}

fn matrix_dot(a: mat4x4<f32>, at: u32) -> f32 {
    return dot(a[0], vec4<f32>(RIGHT[at])) + dot(a[1], vec4<f32>(RIGHT[at + 1u]))
        + dot(a[2], vec4<f32>(RIGHT[at + 2u])) + dot(a[3], vec4<f32>(RIGHT[at + 3u]));
}

const BY_ROWS: u32 = 1u;
const BY_COLUMNS: u32 = 0u;
";

/// Accesses to `ARRAY`.
const LOAD_A: &str = "
fn ACCESS(at: u32, stride: u32) -> mat4x4<f32> {
    let row = at + matrix_lane / 2u * stride;
    return mat4x4<f32>(
        vec4<f32>(ARRAY[row]), vec4<f32>(ARRAY[row + 1u]), vec4<f32>(ARRAY[row + 2u]), vec4<f32>(ARRAY[row + 3u]));
}
";
const LOAD_B: &str = "
fn ACCESS(at: u32, stride: u32) -> vec3<u32> {
    return vec3<u32>(at, stride, ORDER);
}
";
const LOAD_C: &str = "
fn ACCESS(at: u32, stride: u32) -> mat2x4<f32> {
    let place = at + matrix_lane / 2u * stride + matrix_lane % 2u * 8u;
    return mat2x4<f32>(
        ARRAY[place], ARRAY[place + 1u], ARRAY[place + 2u], ARRAY[place + 3u],
        ARRAY[place + 4u], ARRAY[place + 5u], ARRAY[place + 6u], ARRAY[place + 7u]);
}
";
const STORE: &str = "
fn ACCESS(c: mat2x4<f32>, at: u32, stride: u32) {
    let place = at + matrix_lane / 2u * stride + matrix_lane % 2u * 8u;
    for (var i = 0u; i < 8u; i++) {
        ARRAY[place + i] = c[i / 4u][i % 4u];
    }
}
";

/// One way that a kernel reads or writes matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Access<'w> {
    /// `A`, `B`, `C`, or `store`.
    what: &'w str,
    array: &'w str,
    /// Rows are `stride` apart, else columns: only of right factors.
    by_rows: bool,
}

impl Access<'_> {
    fn name(&self) -> String {
        let order = if self.by_rows { "rows" } else { "columns" };
        format!("matrix_{}_{}_by_{order}", self.what, self.array)
    }

    /// The function that does it.
    fn function(&self) -> String {
        assert!(self.by_rows || self.what == "B", "left factors and results lie by rows");
        let template = match self.what {
            "A" => LOAD_A,
            "B" => LOAD_B,
            "C" => LOAD_C,
            _ => STORE,
        };
        let order = if self.by_rows { "BY_ROWS" } else { "BY_COLUMNS" };
        template.replace("ACCESS", &self.name()).replace("ARRAY", self.array).replace("ORDER", order)
    }
}

/// A composed kernel's text with plain arithmetic for its cooperative matrices; any other's as it is.
pub fn emulate_matrices(wgsl: &str) -> String {
    const CALLS: [&str; 4] = ["coop_mat", "coopMultiplyAdd", "coopLoad", "coopStore"];
    let next = |text: &str| CALLS.iter().filter_map(|call| text.find(call)).min();
    if next(wgsl).is_none() {
        return wgsl.to_owned();
    }
    let mut accesses = BTreeSet::new();
    let mut rewritten = String::with_capacity(wgsl.len() * 2);
    let mut rest = wgsl;
    while let Some(at) = next(rest) {
        rewritten.push_str(&rest[..at]);
        let call = &rest[at..];
        let (length, text) = rewrite(call, &mut accesses);
        rewritten.push_str(&text);
        rest = &call[length..];
    }
    rewritten.push_str(rest);
    let mut rewritten = rewritten.replace("enable wgpu_cooperative_matrix;\n", "");
    let main = rewritten.find("fn main(").expect("kernels have a main");
    let body = main + rewritten[main..].find(") {\n").expect("with a body") + ") {\n".len();
    rewritten.insert_str(body, "    matrix_lane = lid % 32u;\n");
    let mut right = accesses.iter().filter(|access| access.what == "B").map(|access| access.array);
    let array = right.next().expect("a product");
    assert!(right.all(|other| other == array), "right factors lie in one array");
    rewritten.push_str(&COMMON.replace("RIGHT", array));
    for access in &accesses {
        let _ = write!(rewritten, "{}", access.function());
    }
    rewritten
}

/// How long the call is that begins here, and what stands for it.
fn rewrite<'w>(call: &'w str, accesses: &mut BTreeSet<Access<'w>>) -> (usize, String) {
    const TYPES: [(&str, &str); 2] =
        [("coop_mat16x16<f32, C>", "mat2x4<f32>"), ("coop_mat16x16<f16, A>", "mat4x4<f32>")];
    const MULTIPLY: &str = "coopMultiplyAdd(";
    if let Some((matrix, plain)) = TYPES.iter().find(|(matrix, _)| call.starts_with(matrix)) {
        return (matrix.len(), (*plain).into());
    }
    if call.starts_with(MULTIPLY) {
        return (MULTIPLY.len(), "matrix_multiply_add(".into());
    }
    let open = call.find('(').expect("a call");
    let (function, length) = (&call[..open], open + closing(&call[open..]) + 1);
    let (matrix, place) = call[open + 1..length - 1].split_once('&').expect("a place in an array");
    let bracket = place.find('[').expect("of an array");
    let end = bracket + closing(&place[bracket..]);
    let (array, index, stride) = (&place[..bracket], &place[bracket + 1..end], &place[end + 1..]);
    let what = match function.rfind(", ") {
        Some(at) => &function[at + 2..at + 3],
        None => "store",
    };
    let by_rows = ["coopLoadT", "coopStoreT"].iter().any(|name| function.starts_with(name));
    let access = Access { what, array, by_rows };
    accesses.insert(access);
    (length, format!("{}({matrix}{index}{stride})", access.name()))
}

/// Where the bracket that a text begins with is closed.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        depth += i32::from("([".contains(c)) - i32::from(")]".contains(c));
        if depth == 0 {
            return at;
        }
    }
    panic!("kernels close what they open: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shader::compose;

    #[test]
    fn kernels_on_matrices_become_kernels_without() {
        let weights = [
            ("TILE", "lib/matrix_160"),
            ("INPUTS", "lib/inputs_whole"),
            ("SECOND", "lib/second_weight"),
            ("WEIGHTS", "quant/q8_0"),
            ("VALUES_OF", "lib/values_plain"),
        ];
        let caches = [("KV", "lib/kv_f16"), ("STORED", "lib/stored_f32")];
        for (kernel, slots) in [("gemm_matrix", &weights[..]), ("attention_matrix", &caches)] {
            let wgsl = compose(kernel, slots).expect("it composes").wgsl;
            let rewritten = emulate_matrices(&wgsl);
            assert!(wgsl.contains("coop_mat") && !rewritten.contains("coop_mat"), "{kernel}: {rewritten}");
            let options = naga::front::wgsl::Options {
                capabilities: naga::valid::Capabilities::all(),
                ..naga::front::wgsl::Options::new()
            };
            let module = naga::front::wgsl::Frontend::new_with_options(options).parse(&rewritten);
            let module = module.unwrap_or_else(|error| panic!("{kernel}: {}", error.emit_to_string(&rewritten)));
            let without = naga::valid::Capabilities::all() - naga::valid::Capabilities::COOPERATIVE_MATRIX;
            naga::valid::Validator::new(naga::valid::ValidationFlags::all(), without)
                .validate(&module)
                .unwrap_or_else(|error| panic!("{kernel}: {}", error.emit_to_string(&rewritten)));
        }
    }

    #[test]
    fn other_kernels_stay_as_they_are() {
        let wgsl = "fn main() {}";
        assert_eq!(emulate_matrices(wgsl), wgsl);
    }

    #[test]
    fn calls_keep_their_places_and_strides() {
        let wgsl = "var<workgroup> x: array<vec4<f16>, 8>;
var<workgroup> y: array<f32, 8>;
fn main(@builtin(local_invocation_index) lid: u32) {
    let a = coopLoadT<coop_mat16x16<f16, A>>(&x[(i + 1u) * n[2]], 3u);
    let b = coopLoad<coop_mat16x16<f16, B>>(&x[0], S);
    let c = coopMultiplyAdd(a, b, coop_mat16x16<f32, C>());
    coopStoreT(c, &y[i], 5u);
}
";
        let rewritten = emulate_matrices(wgsl);
        for line in [
            "let a = matrix_A_x_by_rows((i + 1u) * n[2], 3u);",
            "let b = matrix_B_x_by_columns(0, S);",
            "let c = matrix_multiply_add(a, b, mat2x4<f32>());",
            "matrix_store_y_by_rows(c, i, 5u);",
            "return vec3<u32>(at, stride, BY_COLUMNS);",
        ] {
            assert!(rewritten.contains(line), "{line} is in {rewritten}");
        }
    }
}
