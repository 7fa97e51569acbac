//! Which adapters there are, and choosing one.

use std::sync::OnceLock;

use super::GpuError;
use crate::ops::Traits;

/// One adapter as the driver describes it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct AdapterInfo {
    /// Its place in the list, best first: what `--adapter` takes.
    pub index: usize,
    /// The driver's name for it.
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: String,
    /// The driver and its version.
    pub driver: String,
    /// Where it sits, where the backend tells: one GPU seen through two backends has one bus id.
    pub pci_bus_id: String,
    /// Limits that matter here.
    pub limits: AdapterLimits,
    /// Features that make it faster.
    pub features: Vec<String>,
}

/// Limits of an adapter that decide how weights are cut and which kernels run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct AdapterLimits {
    /// Largest storage binding, bytes.
    pub max_binding: u64,
    /// Largest buffer, bytes.
    pub max_buffer: u64,
    /// Workgroup memory, bytes.
    pub workgroup_storage: u32,
    /// Invocations of a workgroup.
    pub workgroup_invocations: u32,
    /// Subgroup sizes, smallest and largest; 0 where there are none.
    pub subgroup_sizes: (u32, u32),
}

/// Which adapter a user asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AdapterChoice {
    /// The best one; the host where there is none.
    #[default]
    Default,
    /// By its place in the list.
    Index(usize),
    /// By a part of its name, any case.
    Name(String),
    /// No adapter: the host executor.
    Host,
}

/// Every adapter, best first.
pub fn adapters() -> Vec<AdapterInfo> {
    enumerate().into_iter().map(|(info, _)| info).collect()
}

/// The adapter of this choice among `present`.
///
/// # Errors
/// No adapter, or none by that index or name.
pub fn choose<'a>(choice: &AdapterChoice, present: &'a [AdapterInfo]) -> Result<&'a AdapterInfo, GpuError> {
    let unknown = |wanted: String| GpuError::UnknownAdapter {
        wanted,
        present: present.iter().map(|info| format!("{}: {}", info.index, info.name)).collect(),
    };
    if present.is_empty() {
        return Err(GpuError::NoAdapter);
    }
    match choice {
        AdapterChoice::Default => Ok(&present[0]),
        AdapterChoice::Index(index) => present.get(*index).ok_or_else(|| unknown(index.to_string())),
        AdapterChoice::Name(name) => {
            let wanted = name.to_lowercase();
            let found = present.iter().find(|info| info.name.to_lowercase().contains(&wanted));
            found.ok_or_else(|| unknown(format!("named \"{name}\"")))
        }
        AdapterChoice::Host => Err(unknown("host".into())),
    }
}

/// Adapters with their handles, best first. Enumerated afresh each time: wgpu opens a handle as a device only
/// once, and the same adapter may be wanted twice.
pub(super) fn enumerate() -> Vec<(AdapterInfo, wgpu::Adapter)> {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    let instance = INSTANCE.get_or_init(|| wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle()));
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let mut found = pollster::block_on(instance.enumerate_adapters(backends));
    found.sort_by_key(|adapter| rank(&adapter.get_info()));
    let indexed = found.into_iter().enumerate();
    indexed.map(|(index, adapter)| (describe(index, &adapter), adapter)).collect()
}

/// Discrete before integrated before software; a platform's own backend before Vulkan on top of it.
fn rank(info: &wgpu::AdapterInfo) -> (u8, u8) {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    let backend = match info.backend {
        wgpu::Backend::Metal => 0,
        wgpu::Backend::Vulkan => 1,
        _ => 2,
    };
    (kind, backend)
}

fn describe(index: usize, adapter: &wgpu::Adapter) -> AdapterInfo {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let features = adapter.features();
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "other",
    };
    let named = [
        (wgpu::Features::SUBGROUP, "subgroup"),
        (wgpu::Features::SHADER_F16, "f16"),
        (wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "cooperative-matrix"),
        (wgpu::Features::TIMESTAMP_QUERY, "timestamp-query"),
        (wgpu::Features::MAPPABLE_PRIMARY_BUFFERS, "mappable-primary-buffers"),
        (wgpu::Features::PIPELINE_CACHE, "pipeline-cache"),
    ];
    let subgroup_sizes = match features.contains(wgpu::Features::SUBGROUP) {
        true => (info.subgroup_min_size, info.subgroup_max_size),
        false => (0, 0),
    };
    AdapterInfo {
        index,
        name: info.name,
        backend: info.backend.to_string(),
        kind: kind.into(),
        driver: [info.driver, info.driver_info].join(" ").trim().into(),
        pci_bus_id: info.device_pci_bus_id,
        limits: AdapterLimits {
            max_binding: limits.max_storage_buffer_binding_size,
            max_buffer: limits.max_buffer_size,
            workgroup_storage: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            subgroup_sizes,
        },
        features: named.iter().filter(|(flag, _)| features.contains(*flag)).map(|(_, name)| (*name).into()).collect(),
    }
}

/// What kernels are chosen by, from the features and limits a device was opened with.
pub(super) fn traits(adapter: &wgpu::Adapter, features: wgpu::Features, limits: &wgpu::Limits) -> Traits {
    let info = adapter.get_info();
    let fixed = info.subgroup_min_size == info.subgroup_max_size && info.subgroup_min_size > 0;
    let subgroup = (features.contains(wgpu::Features::SUBGROUP) && fixed).then_some(info.subgroup_min_size);
    let matrices = features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)
        && features.contains(wgpu::Features::SHADER_F16)
        && adapter.cooperative_matrix_properties().iter().any(|shape| {
            (shape.m_size, shape.n_size, shape.k_size) == (16, 16, 16)
                && shape.ab_type == wgpu::CooperativeScalarType::F16
                && shape.cr_type == wgpu::CooperativeScalarType::F32
        });
    Traits {
        workgroup_storage: limits.max_compute_workgroup_storage_size,
        invocations: limits.max_compute_invocations_per_workgroup,
        workgroups: limits.max_compute_workgroups_per_dimension,
        subgroup,
        f16: features.contains(wgpu::Features::SHADER_F16),
        // The kernel is written for subgroups of 32; other sizes take the plain tiles.
        cooperative_matrix: matrices && subgroup == Some(32),
        software: info.device_type == wgpu::DeviceType::Cpu,
    }
}
