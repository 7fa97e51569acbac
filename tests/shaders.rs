//! Every kernel with every choice of slots composes and validates, and so does every kernel that an op's cases
//! choose, its constants filled in, within the limits it was chosen for. No adapter is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use rayon::prelude::*;
use wgpt::ops::{
    AdapterClass, Call, Case, CaseInput, CaseValue, Kernel, Matmul, Numbers, Op, Operand, Phase, Shape, Traits,
    TunedKernel, Tuning, TuningKey, Vendor, WeightType, all_cases,
};
use wgpt::quant::{BlockFormat, FORMATS};
use wgpt::shader::{BindingKind, Composed, KERNELS, SNIPPETS, compose, text};
use wgpt::tensor::{DType, Dim, Extents, TensorType};

/// Slot, the only kernel that has it in this sense (or any), and how the names of what fills it begin.
const SLOTS: &[(&str, Option<&str>, &str)] = &[
    ("WEIGHTS", None, "quant/"),
    ("KV", None, "lib/kv_"),
    ("APPEND", None, "lib/append_"),
    ("CACHES", None, "lib/caches_"),
    ("RESULT", None, "lib/result_"),
    ("REDUCE", None, "lib/reduce_"),
    ("SUMS", None, "lib/sums_"),
    ("TILE", Some("gemv"), "lib/rows_"),
    ("TILE", Some("gemm"), "lib/tile_"),
    ("TILE", Some("gemm_matrix"), "lib/matrix_"),
    ("TILE", Some("gemv_experts"), "lib/rows_"),
    ("TILE", Some("gemv_staged"), "lib/rows_"),
    ("TILE", Some("gemv_integer"), "lib/rows_"),
    ("QUANTIZED", None, "lib/quantized_"),
    ("WEIGHTED", None, "lib/weighted_"),
    ("VALUES_OF", None, "lib/values_"),
    ("CODES_OF", None, "lib/codes_"),
    ("ROW", Some("gemv_integer"), "lib/rounded_"),
    ("ROW", None, "lib/row_"),
    ("KEEP", Some("gemv_integer"), "lib/keep_"),
    ("KEEP", None, "lib/keep_none"),
    ("STORED", None, "lib/stored_"),
    ("INPUTS", None, "lib/inputs_"),
    ("SECOND", None, "lib/second_"),
    ("TILE", Some("gemm_experts"), "lib/tile_"),
];

/// Of a vendor, with its defaults.
fn of(vendor: Vendor, traits: Traits) -> Traits {
    Traits { tuning: Tuning::of(AdapterClass { vendor, subgroup: traits.subgroup }), ..traits }
}

/// A large GPU without cooperative matrices.
fn big() -> Traits {
    Traits { cooperative_matrix: false, ..Traits::large() }
}

/// The shapes of adapter that ops choose kernels for.
fn all_traits() -> Vec<Traits> {
    let software = Traits { workgroup_storage: 32 << 10, software: true, ..big() };
    vec![
        Traits::plain(),
        of(Vendor::Amd, Traits { subgroup: Some(64), ..big() }),
        of(Vendor::Intel, Traits { subgroup: Some(16), ..big() }),
        of(Vendor::Nvidia, Traits::large()),
        big(),
        of(Vendor::Software, Traits { subgroup: Some(8), ..software.clone() }),
        of(Vendor::Software, Traits { subgroup: None, ..software }),
    ]
}

fn parse(wgsl: &str) -> naga::Module {
    let options = naga::front::wgsl::Options { capabilities: Capabilities::all(), ..naga::front::wgsl::Options::new() };
    let parsed = naga::front::wgsl::Frontend::new_with_options(options).parse(wgsl);
    parsed.unwrap_or_else(|error| panic!("{}", error.emit_to_string(wgsl)))
}

fn validate(module: &naga::Module, capabilities: Capabilities) -> Result<ModuleInfo, String> {
    let checked = Validator::new(ValidationFlags::all(), capabilities).validate(module);
    checked.map_err(|error| format!("{error:?}"))
}

#[test]
fn the_library_lists_every_file() {
    let shaders = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let listed = |folder: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(shaders.join(folder)).expect("the folder can be read");
        let paths = entries.map(|entry| entry.expect("the entry can be read").path());
        let wgsl = paths.filter(|path| path.extension().is_some_and(|extension| extension == "wgsl"));
        let stems = wgsl.map(|path| path.file_stem().expect("a file's name").to_string_lossy().into_owned());
        stems.map(|stem| format!("{folder}{stem}")).collect()
    };
    let names = |files: &[(&str, &str)]| files.iter().map(|(name, _)| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(names(KERNELS), listed(""), "KERNELS of src/shader/library.rs is the folder shaders/");
    let snippets: BTreeSet<String> = listed("lib/").union(&listed("quant/")).cloned().collect();
    assert_eq!(names(SNIPPETS), snippets, "SNIPPETS of src/shader/library.rs is shaders/lib/ and shaders/quant/");
}

/// Slots whose fillers have nothing to do with those of others: each meets some of them, not all.
const APART: [&str; 3] = ["ROW", "KEEP", "INPUTS"];

/// Every choice of the slots that a kernel's text imports.
fn slot_choices(kernel: &str) -> Vec<Vec<(&'static str, &'static str)>> {
    let source = text(kernel).expect("the library has its own kernels");
    let imports = source.lines().filter_map(|line| line.strip_prefix("#import ")).map(str::trim);
    let slots = imports.filter(|import| !import.chars().any(|c| c.is_ascii_lowercase()));
    let mut choices = vec![vec![]];
    for import in slots {
        let known = SLOTS.iter().find(|(slot, only, _)| *slot == import && only.is_none_or(|only| only == kernel));
        let (slot, _, prefix) = known.unwrap_or_else(|| panic!("{kernel}: the table lacks what fills {import}"));
        let integer = |name: &str| {
            let format = name.strip_prefix("quant/").and_then(wgpt::quant::format);
            format.is_none_or(|format| format.integer())
        };
        let fits = |name: &str| name.starts_with(prefix) && (kernel != "gemv_integer" || integer(name));
        let fillers: Vec<&str> = SNIPPETS.iter().map(|(name, _)| *name).filter(|name| fits(name)).collect();
        assert!(!fillers.is_empty(), "{kernel}: nothing fills {slot}");
        let with = |choice: &Vec<_>, filler| choice.iter().copied().chain([(*slot, filler)]).collect();
        choices = match APART.contains(slot) {
            true => {
                let turn = |index: usize| fillers[(index ^ (index >> 2) ^ (index >> 5)) % fillers.len()];
                choices.iter().enumerate().map(|(index, choice)| with(choice, turn(index))).collect()
            }
            false => {
                choices.iter().flat_map(|choice| fillers.iter().map(move |filler| with(choice, *filler))).collect()
            }
        };
        // Only formats with a table have it held.
        choices.retain(|choice: &Vec<(&str, &str)>| {
            let format = |file: &str| file.strip_prefix("quant/").and_then(wgpt::quant::format);
            let tables = choice.iter().filter_map(|(_, file)| format(file)).all(|format| format.table());
            tables || !choice.iter().any(|(_, file)| ["lib/values_held", "lib/codes_held"].contains(file))
        });
        // Results are rounded, pieces of them are not.
        choices.retain(|choice: &Vec<(&str, &str)>| {
            let has = |name: &str| choice.iter().any(|(_, file)| *file == name);
            !(has("lib/result_piece") && has("lib/quantized_row"))
        });
        // Two results are rounded where two are made.
        choices.retain(|choice: &Vec<(&str, &str)>| {
            let has = |name: &str| choice.iter().any(|(_, file)| *file == name);
            if has("lib/weighted_pair") { !has("lib/quantized_row") } else { !has("lib/quantized_pair") }
        });
    }
    choices
}

#[test]
fn every_kernel_composes_with_every_choice_of_slots() {
    for (kernel, _) in KERNELS {
        for slots in slot_choices(kernel) {
            compose(kernel, &slots).unwrap_or_else(|error| panic!("{slots:?}: {error}"));
        }
    }
}

/// A composed kernel, parsed and validated, its constants still open.
struct Parsed {
    composed: Composed,
    module: naga::Module,
    info: ModuleInfo,
}

/// Composes a kernel, once however often it is asked for.
fn parsed(kernel: &Kernel) -> Result<Arc<Parsed>, String> {
    static KNOWN: Mutex<BTreeMap<String, Arc<Parsed>>> = Mutex::new(BTreeMap::new());
    let key = format!("{} {:?}", kernel.source, kernel.slots);
    if let Some(known) = KNOWN.lock().expect("nobody panics while holding it").get(&key) {
        return Ok(known.clone());
    }
    let slots: Vec<(&str, &str)> = kernel.slots.iter().map(|(slot, file)| (*slot, file.as_str())).collect();
    let composed = compose(kernel.source, &slots).map_err(|error| error.to_string())?;
    let module = parse(&composed.wgsl);
    let info = validate(&module, Capabilities::all()).expect("compose validated it");
    let parsed = Arc::new(Parsed { composed, module, info });
    KNOWN.lock().expect("nobody panics while holding it").insert(key, parsed.clone());
    Ok(parsed)
}

fn operand(input: &CaseInput, case: &Case) -> Operand {
    match (input, input.fill(case.step, &mut Numbers::new(1))) {
        (CaseInput::Activation(ty) | CaseInput::Large(ty, _), _) => Operand::Activation(ty.clone()),
        (_, CaseValue::F32(values) | CaseValue::F16(values, _) | CaseValue::Q8(values, _)) => {
            Operand::Vector(values.len())
        }
        (_, CaseValue::U32(_)) => Operand::Activation(TensorType { dtype: DType::U32, shape: vec![Dim::Tokens] }),
        (_, CaseValue::Weight(weight, _)) => Operand::Weight(weight),
        (_, CaseValue::State(state, _)) => Operand::State(state),
    }
}

/// A case's inputs, and its outputs.
fn operands(case: &Case) -> [Vec<Operand>; 2] {
    [&case.inputs, &case.outputs].map(|of| of.iter().map(|input| operand(input, case)).collect())
}

/// Every kernel of a case, by all phases that compute as many rows.
fn kernels(case: &Case, [inputs, outputs]: &[Vec<Operand>; 2], traits: &Traits) -> Vec<Kernel> {
    let tokens = case.step.tokens;
    let first = Phase::ALL.iter().position(|phase| *phase == Phase::of(tokens, tokens)).expect("one of them");
    let phases = &Phase::ALL[first..];
    let call = |phase| Call { phase, inputs, outputs, traits, largest: case.step.extents() };
    let kernels = |phase: &Phase| {
        let [inputs, outputs] = case.taken(&call(*phase));
        case.op.kernels(&Call { inputs: &inputs, outputs: &outputs, ..call(*phase) })
    };
    phases.iter().flat_map(kernels).collect()
}

/// Bytes of each variable in workgroup memory.
fn workgroup_sizes(module: &naga::Module) -> Vec<u32> {
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).expect("validated modules have a layout");
    let shared = module.global_variables.iter().filter(|(_, variable)| variable.space == naga::AddressSpace::WorkGroup);
    shared.map(|(_, variable)| layouter[variable.ty].size).collect()
}

/// What is wrong with a kernel chosen for an adapter, its constants filled in.
fn defect(kernel: &Kernel, traits: &Traits) -> Option<String> {
    let parsed = match parsed(kernel) {
        Ok(parsed) => parsed,
        Err(error) => return Some(error),
    };
    let Parsed { composed, module, info } = &*parsed;
    let declared: BTreeSet<&str> =
        composed.bindings.iter().map(|binding| binding.name.as_str()).filter(|name| *name != "step").collect();
    let bound: BTreeSet<&str> = kernel.bindings.iter().map(|(name, _)| *name).collect();
    if declared != bound || bound.len() != kernel.bindings.len() {
        return Some(format!("declares the bindings {declared:?}, is given {:?}", kernel.bindings));
    }
    let constants: BTreeSet<&str> =
        module.overrides.iter().filter_map(|(_, constant)| constant.name.as_deref()).collect();
    if let Some((name, _)) = kernel.overrides.iter().find(|(name, _)| !constants.contains(name)) {
        return Some(format!("is given {name}, declares {constants:?}"));
    }
    let values = kernel.overrides.iter().map(|(name, value)| ((*name).into(), *value)).collect();
    let entry = Some((naga::ShaderStage::Compute, "main"));
    let module = match naga::back::pipeline_constants::process_overrides(module, info, entry, &values) {
        Ok((module, _)) => module,
        Err(error) => return Some(format!("{error:?}")),
    };
    // What the adapter lacks must not be used.
    let mut lacking = Capabilities::empty();
    lacking.set(Capabilities::SHADER_FLOAT16, !traits.f16);
    lacking.set(Capabilities::SUBGROUP | Capabilities::SUBGROUP_BARRIER, traits.subgroup.is_none());
    lacking.set(Capabilities::COOPERATIVE_MATRIX, !traits.cooperative_matrix);
    if let Err(error) = validate(&module, Capabilities::all() - lacking) {
        return Some(error);
    }
    let invocations: u32 = module.entry_points[0].workgroup_size.iter().product();
    let sizes = workgroup_sizes(&module);
    // Drivers place them one behind the other, and NVIDIA's loads a matrix from the multiple of 16 bytes below its place.
    if composed.wgsl.contains("coopLoad") && sizes.iter().any(|bytes| !bytes.is_multiple_of(16)) {
        return Some(format!("has workgroup variables of {sizes:?} B beside matrices, not all multiples of 16"));
    }
    let memory: u32 = sizes.iter().map(|bytes| bytes.next_multiple_of(16)).sum();
    let storage = composed.bindings.iter().filter(|binding| binding.kind != BindingKind::Uniform).count();
    let within = invocations <= traits.invocations && memory <= traits.workgroup_storage && storage <= 8;
    (!within).then(|| format!("has {invocations} invocations, {memory} B of workgroup memory, {storage} buffers"))
}

#[test]
fn kernels_that_cases_choose_are_valid_with_their_constants_and_within_limits() {
    let cases: Vec<_> = all_cases().into_iter().map(|case| (operands(&case), case)).collect();
    let (mut seen, mut chosen) = (BTreeSet::new(), Vec::new());
    for traits in all_traits() {
        for (operands, case) in &cases {
            for kernel in kernels(case, operands, &traits) {
                let key = format!("{} {:?} {:?} {traits:?}", kernel.source, kernel.slots, kernel.overrides);
                if seen.insert(key) {
                    chosen.push((kernel, traits.clone(), &case.label));
                }
            }
        }
    }
    let found = chosen.par_iter().filter_map(|(kernel, traits, label)| {
        defect(kernel, traits).map(|found| format!("{}, {label}: {found}", kernel.source))
    });
    let defects: Vec<String> = found.collect();
    assert!(seen.len() > 100, "the cases choose many kernels, found {}", seen.len());
    assert!(defects.is_empty(), "{} defects:\n{}", defects.len(), defects[..defects.len().min(20)].join("\n"));
}

/// The kernels of a product with a weight of this format and so many rows and columns, or a few columns more.
fn product(
    format: &'static dyn BlockFormat,
    (rows, cols): (usize, usize),
    (phase, quantized): (Phase, bool),
    traits: &Traits,
) -> Vec<Kernel> {
    let cols = cols.next_multiple_of(format.block_len());
    let row = TensorType::f32([Dim::Tokens, Dim::Fixed(cols as u32)]);
    let weight = WeightType { format, rows, cols, slices: vec![(0, format.layout(rows, cols))] };
    let mut inputs = vec![Operand::Activation(row.clone()), Operand::Weight(weight)];
    inputs.extend(quantized.then(|| Operand::Activation(row.rounded())));
    let outputs = [Operand::Activation(TensorType::f32([Dim::Tokens, Dim::Fixed(rows as u32)]))];
    let largest = Extents { tokens: 512, logit_rows: 16 };
    let call = Call { phase, inputs: &inputs, outputs: &outputs, traits, largest };
    Matmul { quantized, ..Matmul::plain() }.kernels(&call)
}

/// Shapes at the ends of what `wgpt tune` tries, and some beyond that.
fn shapes() -> Vec<Shape> {
    let lanes = |workgroup: u32| [4, 32, 256].into_iter().filter(move |lanes| *lanes <= workgroup);
    let teams = [16, 64, 256].into_iter().flat_map(|workgroup| lanes(workgroup).map(move |lanes| (workgroup, lanes)));
    teams.flat_map(|(workgroup, lanes)| [1, 4].map(|rows| Shape { workgroup, lanes, rows })).collect()
}

#[test]
fn every_shape_that_fits_is_valid_for_every_format() {
    const SIZE: (usize, usize) = (5000, 512);
    let (mut count, mut defects) = (0, Vec::new());
    for traits in [Traits::plain(), of(Vendor::Nvidia, big())] {
        for format in FORMATS.iter().copied() {
            let all = [(Phase::Decode, false), (Phase::Few, false), (Phase::Decode, true), (Phase::Few, true)];
            for of in all.into_iter().filter(|(_, quantized)| !quantized || format.integer()) {
                let kernel = TunedKernel::of(product(format, SIZE, of, &traits)[0].source).expect("it has shapes");
                for shape in shapes().into_iter().filter(|shape| shape.fits(kernel, format, &traits)) {
                    let mut traits = traits.clone();
                    let cols = SIZE.1.next_multiple_of(format.block_len());
                    traits.tuning.insert(TuningKey::of(kernel, format, SIZE.0, cols), shape);
                    let found = product(format, SIZE, of, &traits).remove(0);
                    let taken = found.overrides.contains(&("LANES", f64::from(shape.lanes)));
                    assert!(taken, "{kernel:?} {} takes {shape}, not {found:?}", format.name());
                    let found = defect(&found, &traits);
                    defects.extend(found.map(|found| format!("{kernel:?} {} {shape}: {found}", format.name())));
                    count += 1;
                }
            }
        }
    }
    assert!(count > 300, "many shapes fit many formats, found {count}");
    assert!(defects.is_empty(), "{} defects:\n{}", defects.len(), defects[..defects.len().min(20)].join("\n"));
}

#[test]
fn every_format_is_valid_in_every_tile_of_cooperative_matrices() {
    let traits = of(Vendor::Nvidia, Traits::large());
    let mut defects = Vec::new();
    // No adapter that tests may count on has them.
    for format in FORMATS.iter().copied().filter(|format| format.name() != "f32") {
        let mut tiles = BTreeSet::new();
        // Shapes that either tile fills best, and one whose columns are shared.
        for size in [(7680, 2560), (10240, 2560), (2560, 12800)] {
            for kernel in product(format, size, (Phase::Prefill, false), &traits) {
                tiles
                    .extend(kernel.slots.iter().map(|(_, file)| file.clone()).filter(|file| file.contains("/matrix_")));
                defects.extend(defect(&kernel, &traits).map(|found| format!("{}, {kernel:?}: {found}", format.name())));
            }
        }
        let all = SNIPPETS.iter().filter(|(name, _)| name.starts_with("lib/matrix_")).count();
        assert_eq!(tiles.len(), all, "{} is multiplied in every tile, found {tiles:?}", format.name());
    }
    assert!(defects.is_empty(), "{} defects:\n{}", defects.len(), defects[..defects.len().min(20)].join("\n"));
}
