//! An opened adapter: buffers, uploads, and its errors as values. What is submitted to it is in `submission`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::adapter::{AdapterInfo, DeviceProfile, enumerate, traits, vendor};
use super::error::GpuError;
use super::pipeline::{Module, ModuleKey, Pipeline, PipelineKey};
use super::pipeline_cache::{KeptPipelines, file_name};
use super::siblings::{self, Opened};
use crate::ops::{AdapterClass, Traits, Tuning, Vendor};

/// How much of the adapter to use: lower tiers are for tests and for working around drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tier {
    /// Every feature and limit it has.
    #[default]
    Full,
    /// Every feature and limit it has, and cooperative matrices by plain arithmetic, slow: their kernels are tested on
    /// adapters that have none, and a software adapter is treated as any other. Only where there are half floats.
    EmulatedMatrix,
    /// All but cooperative matrices.
    NoMatrix,
    /// No features at all, the adapter's limits; a software adapter is treated as any other, so that the kernels it
    /// would not choose are tested on it.
    NoFeatures,
    /// Plain WebGPU: no features, default limits.
    Plain,
}

/// How to open a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceOptions {
    /// How much of the adapter to use.
    pub tier: Tier,
    /// Bounds checks and loop bounds in shaders: for tests and for hunting defects.
    pub checks: bool,
    /// Bind at most this many bytes, where the adapter could bind more: shows how weights are sliced.
    pub max_binding: Option<u64>,
    /// Refuse to allocate more than this many bytes in all, as an adapter of so little memory would.
    pub max_memory: Option<u64>,
    /// Be lost after so many submissions, as a device that is unplugged or reset is.
    pub lost_after: Option<u64>,
    /// Share the driver's device with others opened like this on the same adapter, where handing over between them is
    /// faster so. They are lost together.
    pub sibling: bool,
}

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Read by kernels, filled from the host.
    Weights,
    /// Read and written by kernels, filled from and copied to the host.
    Activations,
    /// The step uniform.
    Uniform,
}

/// Memory on an adapter.
#[derive(Debug, Clone)]
pub struct Buffer {
    pub(super) raw: wgpu::Buffer,
    bytes: u64,
}

impl Buffer {
    pub(super) const fn new(raw: wgpu::Buffer, bytes: u64) -> Self {
        Self { raw, bytes }
    }

    /// Its size.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A part of it, to be bound.
    pub const fn part(&self, offset: u64, bytes: u64) -> BufferPart<'_> {
        BufferPart { buffer: self, offset, bytes }
    }

    /// All of it, to be bound.
    pub const fn whole(&self) -> BufferPart<'_> {
        self.part(0, self.bytes)
    }
}

/// A part of a buffer.
#[derive(Debug, Clone, Copy)]
pub struct BufferPart<'a> {
    buffer: &'a Buffer,
    offset: u64,
    bytes: u64,
}

impl<'a> BufferPart<'a> {
    pub(super) fn resource(self) -> wgpu::BindingResource<'a> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.buffer.raw,
            offset: self.offset,
            size: std::num::NonZeroU64::new(self.bytes),
        })
    }
}

/// An adapter opened for use.
#[derive(Debug)]
pub struct Device {
    /// What it is.
    pub info: AdapterInfo,
    /// What kernels are chosen by.
    pub traits: Traits,
    /// Largest storage binding it was opened with, bytes; also kept under the largest buffer.
    pub max_binding: u64,
    /// Whether kernels can read host buffers in place.
    pub reads_host: bool,
    pub(super) raw: wgpu::Device,
    pub(super) checks: bool,
    /// Whether cooperative matrices are plain arithmetic.
    pub(super) emulates: bool,
    pub(super) modules: Mutex<HashMap<ModuleKey, Module>>,
    pub(super) pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    /// The name of the file that its compiled pipelines may be kept in.
    pub(super) pipeline_file: Option<String>,
    /// Pipelines that were compiled before, where they are kept.
    pub(super) kept: Option<KeptPipelines>,
    pub(super) queue: wgpu::Queue,
    max_memory: u64,
    /// Bytes of all buffers made so far.
    allocated: AtomicU64,
    /// The first error no scope caught, or the reason the device was lost.
    pub(super) fault: Arc<Mutex<Option<String>>>,
    /// The last submission, and the one that was last at the last [`Self::keep_pace`].
    pub(super) last: Mutex<[Option<wgpu::SubmissionIndex>; 2]>,
    /// Submissions until it is lost on purpose.
    pub(super) submissions_left: AtomicU64,
}

/// Rounds down to what a binding may span.
const BINDING_ALIGN: u64 = 256;

impl Device {
    /// Opens the adapter at `index` of [`super::adapters`]; the same one may be opened more than once.
    ///
    /// # Errors
    /// No such adapter, or the driver's refusal.
    pub fn open(index: usize, options: DeviceOptions) -> Result<Self, GpuError> {
        let (info, adapter) = find(index)?;
        let (features, limits) = request(&adapter, options.tier);
        let descriptor = descriptor(features, &limits);
        let sibling = options.sibling.then(|| siblings::open(&adapter, &descriptor)).flatten();
        let opened = sibling.map_or_else(|| pollster::block_on(adapter.request_device(&descriptor)), Ok);
        let opened =
            opened.map_err(|error| GpuError::Open { adapter: info.name.clone(), reason: error.to_string() })?;
        let profile = profile(&adapter, features, &limits, options);
        Ok(Self::of(opened, info, profile, file_name(&adapter.get_info()), options))
    }

    /// Takes over what wgpu opened: its errors become values.
    pub(super) fn of(
        (raw, queue): Opened,
        info: AdapterInfo,
        profile: DeviceProfile,
        pipeline_file: Option<String>,
        options: DeviceOptions,
    ) -> Self {
        let fault = Arc::new(Mutex::new(None));
        watch(&raw, &fault);
        let DeviceProfile { traits, max_binding, reads_host } = profile;
        tracing::info!("adapter {} opened: {} ({}, {})", info.index, info.name, info.backend, info.driver);
        tracing::debug!("adapter {}: {traits:?}", info.index);
        Self {
            traits,
            max_binding,
            reads_host,
            max_memory: options.max_memory.unwrap_or(u64::MAX),
            allocated: AtomicU64::new(0),
            checks: options.checks,
            emulates: options.tier == Tier::EmulatedMatrix,
            modules: Mutex::default(),
            pipelines: Mutex::default(),
            pipeline_file,
            kept: None,
            info,
            raw,
            queue,
            fault,
            last: Mutex::default(),
            submissions_left: AtomicU64::new(options.lost_after.map_or(u64::MAX, |after| after.max(1))),
        }
    }

    /// Allocates a buffer, zeroed.
    ///
    /// # Errors
    /// More than the adapter binds, or has.
    pub fn buffer(&self, label: &str, bytes: u64, usage: Usage) -> Result<Buffer, GpuError> {
        let bytes = bytes.next_multiple_of(4).max(16);
        if bytes > self.max_binding {
            let (adapter, limit) = (self.info.name.clone(), self.max_binding);
            return Err(GpuError::TooLarge { adapter, label: label.into(), bytes, limit });
        }
        let transfer = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let usage = match usage {
            Usage::Weights => wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            Usage::Activations => wgpu::BufferUsages::STORAGE | transfer,
            Usage::Uniform => wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        };
        self.allocate(label, bytes, usage).map(|raw| Buffer { raw, bytes })
    }

    pub(super) fn allocate(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, GpuError> {
        self.check()?;
        let refused = |reason| {
            let adapter = self.info.name.clone();
            GpuError::OutOfMemory { adapter, label: label.into(), bytes, reason }
        };
        if self.allocated() + bytes > self.max_memory {
            return Err(refused(format!("{} bytes is the limit it was opened with", self.max_memory)));
        }
        let made = self.create(label, bytes, usage).map_err(refused)?;
        self.allocated.fetch_add(bytes, Ordering::Relaxed);
        Ok(made)
    }

    /// Makes a buffer of any kind; the error is the driver's reason.
    pub(super) fn create(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer, String> {
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size: bytes, usage, mapped_at_creation: false };
        let create = || self.raw.create_buffer(&descriptor);
        let scopes = [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation];
        self.scoped(scopes[0], || self.scoped(scopes[1], create)).and_then(|inner| inner)
    }

    /// Bytes of all buffers it has made; host buffers are not among them.
    pub fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    /// Counts buffers from none again. The caller has dropped all that it made.
    pub(crate) const fn forget_buffers(&mut self) {
        self.allocated = AtomicU64::new(0);
    }

    /// Writes to a buffer, ordered before the next submission. `bytes` is a multiple of four.
    pub fn write(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) {
        self.queue.write_buffer(&buffer.raw, offset, bytes);
    }

    pub(super) fn check(&self) -> Result<(), GpuError> {
        let fault = self.fault.lock().expect("the fault is only replaced under its lock").clone();
        fault.map_or(Ok(()), |reason| Err(self.lost(reason)))
    }

    pub(super) fn lost(&self, reason: String) -> GpuError {
        GpuError::Lost { adapter: self.info.name.clone(), reason }
    }

    /// Runs `work` in an error scope; the error is its message.
    pub(super) fn scoped<R>(&self, filter: wgpu::ErrorFilter, work: impl FnOnce() -> R) -> Result<R, String> {
        let scope = self.raw.push_error_scope(filter);
        let value = work();
        pollster::block_on(scope.pop()).map_or(Ok(value), |error| Err(error.to_string()))
    }
}

/// What an adapter is when opened with these features, limits and options.
pub(super) fn profile(
    adapter: &wgpu::Adapter,
    features: wgpu::Features,
    limits: &wgpu::Limits,
    options: DeviceOptions,
) -> DeviceProfile {
    let max_binding = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
    let max_binding = max_binding.min(options.max_binding.unwrap_or(u64::MAX));
    let mut traits = traits(adapter, features, limits);
    traits.cooperative_matrix |= options.tier == Tier::EmulatedMatrix && traits.f16;
    traits.software &= matches!(options.tier, Tier::Full | Tier::NoMatrix);
    let vendor = Some(vendor(adapter)).filter(|vendor| *vendor != Vendor::Software || traits.software);
    let class = AdapterClass { vendor: vendor.unwrap_or_default(), subgroup: traits.subgroup };
    traits.tuning = Tuning::of(class);
    // DX12 and Metal can map such buffers too, but place them by other rules, which no one has tried here.
    let vulkan = adapter.get_info().backend == wgpu::Backend::Vulkan;
    let reads_host = vulkan && features.contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS);
    DeviceProfile { traits, max_binding: max_binding / BINDING_ALIGN * BINDING_ALIGN, reads_host }
}

/// The adapter at this place of [`super::adapters`], with its handle.
fn find(index: usize) -> Result<(AdapterInfo, wgpu::Adapter), GpuError> {
    let mut found = enumerate();
    if found.is_empty() {
        return Err(GpuError::NoAdapter);
    }
    if index >= found.len() {
        let present = found.iter().map(|(info, _)| format!("{}: {}", info.index, info.name)).collect();
        return Err(GpuError::UnknownAdapter { wanted: index.to_string(), present });
    }
    Ok(found.swap_remove(index))
}

/// What wgpu is asked for.
pub(super) fn descriptor(features: wgpu::Features, limits: &wgpu::Limits) -> wgpu::DeviceDescriptor<'static> {
    wgpu::DeviceDescriptor {
        label: Some("wgpt"),
        required_features: features,
        required_limits: limits.clone(),
        // SAFETY: cooperative matrices are the only experimental feature asked for; the one kernel that uses
        // them keeps within the shapes the adapter lists.
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
        memory_hints: wgpu::MemoryHints::Performance,
        trace: wgpu::Trace::Off,
    }
}

/// The features and limits to open an adapter with.
pub(super) fn request(adapter: &wgpu::Adapter, tier: Tier) -> (wgpu::Features, wgpu::Limits) {
    let wanted = wgpu::Features::SUBGROUP
        | wgpu::Features::SHADER_F16
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES
        | wgpu::Features::MAPPABLE_PRIMARY_BUFFERS
        | wgpu::Features::PIPELINE_CACHE
        | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    let has = adapter.features() & wanted;
    match tier {
        Tier::Full => (has, adapter.limits()),
        Tier::NoMatrix | Tier::EmulatedMatrix => {
            (has - wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, adapter.limits())
        }
        Tier::NoFeatures => (wgpu::Features::empty(), adapter.limits()),
        Tier::Plain => (wgpu::Features::empty(), wgpu::Limits::default()),
    }
}

/// Uncaught errors panic in wgpu by default, and a lost device is silent: both become values.
fn watch(device: &wgpu::Device, fault: &Arc<Mutex<Option<String>>>) {
    let keep = |fault: &Mutex<Option<String>>, reason: String| {
        let mut first = fault.lock().expect("the fault is only replaced under its lock");
        first.get_or_insert(reason);
    };
    let uncaptured = fault.clone();
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| keep(&uncaptured, error.to_string())));
    let lost = fault.clone();
    device.set_device_lost_callback(move |_, message| {
        let why = if message.is_empty() { String::new() } else { format!(": {message}") };
        keep(&lost, format!("the device was lost{why}"));
    });
}
