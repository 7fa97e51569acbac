//! Weight formats against ggml's and bitsandbytes' bytes and values, and packing against unpacking; the snippets compile.
//!
//! Golden blocks: `tests/golden/ggml_blocks.py` and `bitsandbytes_blocks.py` say what their rows are. Bit-exact
//! throughout: a stored weight has one value.

use std::fs;

use safetensors::SafeTensors;
use wgpt::quant::{self, BlockFormat, FORMATS, REGION_ALIGN};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/ggml_blocks.safetensors");

fn floats(golden: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = golden.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn assert_same_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: as many weights");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "{what}: weight {i} is {found:e}, ggml says {expected:e}");
    }
}

/// Formats with golden blocks of ggml: all of its but f32, which it has nothing to say about.
fn golden_formats() -> impl Iterator<Item = &'static dyn BlockFormat> {
    FORMATS.iter().copied().filter(|format| format.ggml_type().is_some_and(|ggml_type| ggml_type != 0))
}

#[test]
fn packed_bytes_change_with_the_layout_version_only() {
    // Files of packed weights are told by it from those of other versions of wgpt.
    let weights: Vec<f32> = (0..512u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8e6 - 1.0).collect();
    let mut all = Vec::new();
    for format in FORMATS {
        let mut stored = vec![0; format.row_bytes(weights.len())];
        format.quantize(&weights, &mut stored);
        let layout = format.layout(2, weights.len());
        let mut packed = vec![0; layout.bytes as usize];
        (0..2).for_each(|row| format.repack_row(&stored, &layout, row, &mut packed));
        all.extend(format.name().bytes().chain(packed));
    }
    let found = (quant::LAYOUT_VERSION, xxhash_rust::xxh3::xxh3_64(&all));
    assert_eq!(
        found,
        (1, 10_735_616_772_544_463_936),
        "packed bytes are others: raise LAYOUT_VERSION, and say here what they are now"
    );
}

#[test]
fn stored_blocks_have_ggml_s_values() {
    let file = fs::read(GOLDEN).expect("the golden blocks are committed");
    let golden = SafeTensors::deserialize(&file).expect("a safetensors file");
    for format in golden_formats() {
        for (bytes, values) in [("bytes", "values"), ("crafted_bytes", "crafted_values")] {
            let what = format!("{}.{bytes}", format.name());
            let stored = golden.tensor(&what).unwrap_or_else(|error| panic!("{what}: {error}"));
            let expected = floats(&golden, &format!("{}.{values}", format.name()));
            let mut found = vec![0.0; expected.len()];
            format.dequantize(stored.data(), &mut found);
            assert_same_bits(&found, &expected, &what);
        }
    }
}

#[test]
fn quantized_bytes_are_ggml_s() {
    let file = fs::read(GOLDEN).expect("the golden blocks are committed");
    let golden = SafeTensors::deserialize(&file).expect("a safetensors file");
    for format in golden_formats() {
        let what = format!("{}.bytes", format.name());
        let expected = golden.tensor(&what).unwrap_or_else(|error| panic!("{what}: {error}"));
        let weights = floats(&golden, &format!("{}.input", format.name()));
        let mut found = vec![0; expected.data().len()];
        format.quantize(&weights, &mut found);
        let blocks = found.chunks(format.block_bytes()).zip(expected.data().chunks(format.block_bytes()));
        for (i, (found, expected)) in blocks.enumerate() {
            let weights = &weights[i * format.block_len()..(i + 1) * format.block_len()];
            assert_eq!(found, expected, "{what}: block {i} of {weights:?}");
        }
    }
}

#[test]
fn nf4_and_fp4_are_bitsandbytes_s() {
    let path = format!("{}/tests/golden/bitsandbytes_blocks.safetensors", env!("CARGO_MANIFEST_DIR"));
    let file = fs::read(path).expect("the golden blocks are committed");
    let golden = SafeTensors::deserialize(&file).expect("a safetensors file");
    for format in [&quant::NF4 as &dyn BlockFormat, &quant::FP4] {
        let name = format.name();
        let weights = floats(&golden, &format!("{name}.input"));
        let expected = golden.tensor(&format!("{name}.bytes")).expect("the bytes");
        let mut stored = vec![0; expected.data().len()];
        format.quantize(&weights, &mut stored);
        let blocks = stored.chunks(format.block_bytes()).zip(expected.data().chunks(format.block_bytes()));
        // fp4 has two zeros, and which one a weight gets differs between bitsandbytes' own kernels.
        let one_zero = |code: u8| if name == "fp4" && code == 8 { 0 } else { code };
        let codes = |block: &[u8]| -> Vec<u8> {
            block[4..].iter().flat_map(|byte| [byte >> 4, byte & 15]).map(one_zero).collect()
        };
        for (i, (found, expected)) in blocks.enumerate() {
            assert_eq!(found[..4], expected[..4], "{name}: absmax of block {i}");
            assert_eq!(codes(found), codes(expected), "{name}: block {i} of {:?}", &weights[i * 64..][..64]);
        }
        let values = floats(&golden, &format!("{name}.values"));
        let mut found = vec![0.0; values.len()];
        format.dequantize(&stored, &mut found);
        assert!(found.iter().eq(&values), "{name}: values of bitsandbytes' blocks");
        // Every code, through a block of scale 1.
        let mut block = vec![0; format.block_bytes()];
        block[..4].copy_from_slice(&1f32.to_le_bytes());
        (0..8u8).for_each(|i| block[4 + usize::from(i)] = ((2 * i) << 4) | (2 * i + 1));
        let mut found = vec![0.0; 64];
        format.dequantize(&block, &mut found);
        let table = floats(&golden, &format!("{name}.table"));
        assert!(found[..16].iter().eq(&table), "{name}: {:?}, bitsandbytes has {table:?}", &found[..16]);
    }
}

#[test]
fn any_floats_can_be_quantized() {
    let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-44, -0.0, 1.0];
    for format in FORMATS {
        for first in 0..strange.len() {
            for second in 0..strange.len() {
                let weights: Vec<f32> =
                    (0..256).map(|i| if i % 3 == 0 { strange[first] } else { strange[second] }).collect();
                let (mut stored, mut back) = (vec![0xaa; format.row_bytes(256)], vec![0.0; 256]);
                format.quantize(&weights, &mut stored);
                format.dequantize(&stored, &mut back);
                let zeros = weights.iter().all(|weight| *weight == 0.0);
                assert!(!zeros || back.iter().all(|weight| *weight == 0.0), "{}: zeros stay zeros", format.name());
            }
        }
    }
}

/// Byte offsets of the f16 numbers in a format's block.
const F16_FIELDS: &[(&str, &[usize])] = &[
    ("q8_0", &[0]),
    ("q4_0", &[0]),
    ("q4_1", &[0, 2]),
    ("q5_0", &[0]),
    ("q5_1", &[0, 2]),
    ("q2_k", &[80, 82]),
    ("q3_k", &[108]),
    ("q4_k", &[0, 2]),
    ("q5_k", &[0, 2]),
    ("q6_k", &[208]),
    ("iq4_nl", &[0]),
    ("iq4_xs", &[0]),
];

#[test]
fn blocks_whose_scales_are_no_numbers_are_found() {
    let file = fs::read(GOLDEN).expect("the golden blocks are committed");
    let golden = SafeTensors::deserialize(&file).expect("a safetensors file");
    for format in golden_formats().filter(|format| format.block_len() > 1) {
        for bytes in ["bytes", "crafted_bytes"] {
            let what = format!("{}.{bytes}", format.name());
            let stored = golden.tensor(&what).unwrap_or_else(|error| panic!("{what}: {error}")).data().to_vec();
            assert_eq!(format.bad_block(&stored), None, "{what}: every scale is a number");
            let fields = F16_FIELDS.iter().find(|(name, _)| *name == format.name()).map_or(&[][..], |(_, at)| *at);
            assert_eq!(fields.is_empty(), format.name() == "mxfp4", "{what}: all but mxfp4 have f16 scales");
            for at in fields {
                for no_number in [0x7c00u16, 0xfc00, 0x7e00, 0xfe01] {
                    let mut damaged = stored.clone();
                    let block = 5 * format.block_bytes() + at;
                    damaged[block..block + 2].copy_from_slice(&no_number.to_le_bytes());
                    assert_eq!(format.bad_block(&damaged), Some(5), "{what}: {no_number:#x} at byte {at}");
                }
            }
        }
    }
}

#[test]
fn absmaxes_that_are_no_numbers_are_found() {
    for format in [&quant::NF4 as &dyn BlockFormat, &quant::FP4, &quant::NF4_DQ, &quant::FP4_DQ] {
        let mut stored = vec![0; format.row_bytes(512)];
        format.quantize(&[0.25; 512], &mut stored);
        assert_eq!(format.bad_block(&stored), None, "{}: every absmax is a number", format.name());
        for no_number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut damaged = stored.clone();
            damaged[5 * format.block_bytes()..][..4].copy_from_slice(&no_number.to_le_bytes());
            assert_eq!(format.bad_block(&damaged), Some(5), "{}: {no_number}", format.name());
        }
    }
}

/// Stored rows with every byte seeded: codes and scales no quantizer would write included.
fn seeded_rows(format: &dyn BlockFormat, rows: usize, cols: usize) -> Vec<u8> {
    let seed = format.name().bytes().fold(0, |seed: u32, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut state = 0x9e37_79b9_u32 ^ seed;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let mut stored: Vec<u8> = (0..rows * format.row_bytes(cols)).map(|_| byte()).collect();
    if format.name().ends_with("_dq") {
        // Mean and step are the same in 256 blocks of a row.
        for run in stored.chunks_mut(format.row_bytes(cols)).flat_map(|row| row.chunks_mut(256 * format.block_bytes()))
        {
            let head: [u8; 8] = run[..8].try_into().expect("eight bytes");
            run.chunks_mut(format.block_bytes()).for_each(|block| block[..8].copy_from_slice(&head));
        }
    }
    stored
}

#[test]
fn packed_rows_unpack_to_the_stored_values() {
    for format in FORMATS {
        for (rows, blocks) in [(1, 1), (3, 5), (7, 2), (2, 9), (2, 259)] {
            // Dense rows need not fill their chunks; block formats have whole blocks.
            let cols = blocks * if format.block_len() == 1 { 13 } else { format.block_len() };
            let stored = seeded_rows(*format, rows, cols);
            let layout = format.layout(rows, cols);
            let mut packed = vec![0; layout.bytes as usize];
            for (row, bytes) in stored.chunks(format.row_bytes(cols)).enumerate() {
                format.repack_row(bytes, &layout, row, &mut packed);
            }
            let (mut expected, mut found) = (vec![0.0; cols], vec![0.0; cols]);
            for (row, bytes) in stored.chunks(format.row_bytes(cols)).enumerate() {
                format.dequantize(bytes, &mut expected);
                format.unpack_row(&packed, &layout, row, &mut found);
                assert_same_bits(&found, &expected, &format!("{} row {row} of {rows} × {cols}", format.name()));
            }
        }
    }
}

#[test]
fn regions_are_aligned_apart_and_whole_words() {
    for format in FORMATS {
        let layout = format.layout(5, 7 * 256);
        let mut end = 0;
        for (region, row_bytes) in layout.regions.iter().zip(&layout.row_bytes) {
            assert!(region.start >= end && region.start.is_multiple_of(REGION_ALIGN), "{}: {layout:?}", format.name());
            assert!(region.end - region.start >= 5 * *row_bytes as u64, "{}: {layout:?}", format.name());
            assert!(row_bytes.is_multiple_of(4), "{}: shaders read whole words", format.name());
            end = region.end;
        }
        assert_eq!(end, layout.bytes, "{}: nothing behind the last region", format.name());
    }
}

#[test]
fn formats_are_found_by_name_and_by_ggml_type() {
    for format in FORMATS {
        let by_name = quant::format(format.name()).map(BlockFormat::name);
        let by_type = format.ggml_type().and_then(quant::from_ggml_type).map(BlockFormat::name);
        let in_ggml = format.ggml_type().map(|_| format.name());
        assert_eq!((by_name, by_type), (Some(format.name()), in_ggml), "each look-up finds it");
    }
    assert!(quant::format("q9_k").is_none() && quant::from_ggml_type(16).is_none(), "others are not found");
}

/// A snippet's text with its imports' in their places, theirs too, each once, as the composer would.
fn with_imports(snippet: &str, seen: &mut Vec<String>) -> String {
    let mut wgsl = String::new();
    for line in snippet.lines() {
        match line.strip_prefix("#import ") {
            Some(name) if seen.iter().any(|known| known == name) => {}
            Some(name) => {
                seen.push(name.to_owned());
                let text = wgpt::shader::text(&format!("lib/{name}"));
                wgsl += &with_imports(text.unwrap_or_else(|| panic!("{name} is in the library")), seen);
            }
            None => wgsl += line,
        }
        wgsl.push('\n');
    }
    wgsl
}

/// A kernel that unpacks one chunk, with the snippet's imports and its bindings numbered as the composer would.
fn unpack_kernel(snippet: &str) -> String {
    let mut wgsl = String::from("override COLS: u32;\n");
    let snippet = with_imports(snippet, &mut Vec::new());
    let mut parts = snippet.split("@bind");
    wgsl.push_str(parts.next().unwrap_or_default());
    for (binding, part) in parts.enumerate() {
        wgsl.push_str(&format!("@group(0) @binding({binding}){part}"));
    }
    wgsl.push_str(
        "@group(0) @binding(9) var<storage, read_write> weights: array<vec4<f32>>;
        @compute @workgroup_size(CHUNK / 4u)
        fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
            weights[id.x] = chunk4(load_chunk(id.y, id.x / (CHUNK / 4u)), i);
        }",
    );
    wgsl
}

#[test]
fn every_format_has_a_snippet_of_core_wgsl_with_its_chunk_length() {
    for format in FORMATS {
        let path = format!("{}/shaders/quant/{}.wgsl", env!("CARGO_MANIFEST_DIR"), format.name());
        let snippet = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let wgsl = unpack_kernel(&snippet);
        let module = naga::front::wgsl::parse_str(&wgsl)
            .unwrap_or_else(|error| panic!("{}", error.emit_to_string_with_path(&wgsl, &path)));
        // naga's name for unpack2x16float, which is core WGSL: every backend wgpt asks for has it.
        let capabilities = naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
            .validate(&module)
            .unwrap_or_else(|error| panic!("{}", error.emit_to_string_with_path(&wgsl, &path)));
        assert!(
            snippet.contains(&format!("const CHUNK: u32 = {}u;", format.chunk_len())),
            "{path}: CHUNK is {}::chunk_len()",
            format.name()
        );
    }
}
