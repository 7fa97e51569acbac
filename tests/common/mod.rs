//! What several test files need: adapters, seeded data, yardsticks.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{GpuExecutor, GpuOptions, WeightSource};
use wgpt::gpu::{AdapterInfo, Device, DeviceOptions, adapters};
use wgpt::graph::Graph;
use wgpt::plan::Plan;

/// Every adapter. None is a failure, never a skip: install Debian's mesa-vulkan-drivers for one that runs on the CPU.
pub fn all_adapters() -> Vec<AdapterInfo> {
    let found = adapters();
    assert!(
        !found.is_empty(),
        "tests need an adapter: install mesa-vulkan-drivers or another Vulkan, Metal, DX12 driver"
    );
    found
}

/// Normalised mean squared error Σ(a−b)²/Σa² of `found` against `expected`.
pub fn nmse(expected: &[f32], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len(), "as many values as expected");
    let error: f64 = expected.iter().zip(found).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let scale: f64 = expected.iter().map(|a| f64::from(*a).powi(2)).sum();
    if error == 0.0 { 0.0 } else { error / scale.max(f64::MIN_POSITIVE) }
}

/// The largest absolute difference; infinite where a value is not finite.
pub fn max_difference(expected: &[f32], found: &[f32]) -> f32 {
    assert_eq!(expected.len(), found.len(), "as many values as expected");
    let differences = expected.iter().zip(found).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |most, difference| if difference.is_nan() { f32::INFINITY } else { most.max(difference) })
}

/// Devices on the first adapter that executors hand on to one another, with what was compiled for them.
#[derive(Default)]
pub struct Devices(Vec<Device>);

impl Devices {
    /// What `work` makes of an executor of this plan.
    pub fn with_executor<R>(
        &mut self,
        graph: Graph,
        plan: &Plan,
        checkpoint: &Checkpoint,
        options: GpuOptions,
        work: impl FnOnce(&mut GpuExecutor) -> R,
    ) -> R {
        let adapter = all_adapters()[0].index;
        while self.0.len() < plan.adapters() {
            // As those of a plan on one adapter are.
            let options = DeviceOptions { sibling: true, ..DeviceOptions::default() };
            self.0.push(Device::open(adapter, options).expect("the adapter opens"));
        }
        let others = self.0.split_off(plan.adapters());
        let (devices, source) = (std::mem::take(&mut self.0), WeightSource::new(checkpoint));
        let executor = GpuExecutor::new(graph, plan, devices, source, options, &mut |_| ());
        let mut executor = executor.expect("it loads");
        let made = work(&mut executor);
        self.0 = executor.into_devices();
        self.0.extend(others);
        made
    }
}

/// A path in the repository.
pub fn repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A cache folder for the program that is not the user's.
pub fn cache_folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")
}

/// Every committed checkpoint: folders with a golden file.
pub fn committed_checkpoints() -> Vec<std::path::PathBuf> {
    let folders = std::fs::read_dir(repository("checkpoints")).expect("checkpoints/ is there");
    let mut found: Vec<_> = folders.map(|entry| entry.expect("an entry").path()).collect();
    found.retain(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        (name.starts_with("tiny-") || name == "wgpt-stories-4m") && path.join("golden.safetensors").is_file()
    });
    found.sort();
    assert!(found.len() >= 12, "the tiny checkpoints are part of the repository, found {found:?}");
    found
}

/// The seeded ones among them.
pub fn tiny_checkpoints() -> Vec<std::path::PathBuf> {
    let tiny = |path: &std::path::PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("tiny-"));
    committed_checkpoints().into_iter().filter(tiny).collect()
}

/// What a reference implementation computed: token ids and `(tokens, vocab_size)` logits.
pub struct Golden {
    pub tokens: Vec<u32>,
    pub logits: Vec<f32>,
}

/// Reads a checkpoint folder's golden file.
pub fn golden(folder: &std::path::Path) -> Golden {
    let bytes = std::fs::read(folder.join("golden.safetensors")).expect("the golden file can be read");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("the golden file is safetensors");
    let tokens = file.tensor("tokens").expect("it holds tokens");
    let tokens = match tokens.dtype() {
        safetensors::Dtype::I64 => tokens.data().chunks_exact(8).map(|id| id[0] as u32 | (id[1] as u32) << 8).collect(),
        safetensors::Dtype::I32 => tokens.data().chunks_exact(4).map(|id| id[0] as u32 | (id[1] as u32) << 8).collect(),
        other => panic!("tokens are {other:?}"),
    };
    let logits = file.tensor("logits").expect("it holds logits");
    assert_eq!(logits.dtype(), safetensors::Dtype::F32, "golden logits are f32");
    let words = logits.data().chunks_exact(4);
    Golden { tokens, logits: words.map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect() }
}
