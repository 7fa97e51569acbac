//! Which adapters there are, and choosing among them.

use std::sync::OnceLock;

use super::memory::{self, AdapterMemory};
use super::{DeviceOptions, GpuError, device};
use crate::ops::{Traits, Tuning, Vendor};

/// One adapter as the driver describes it.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
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
    /// What it has to hold buffers in, where that can be known.
    pub memory: Option<AdapterMemory>,
    /// Limits that matter here.
    pub limits: AdapterLimits,
    /// Features that make it faster.
    pub features: Vec<String>,
}

/// Limits of an adapter that decide how weights are cut and which kernels run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
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

/// Which adapters a user asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AdapterChoice {
    /// The best one; the host where there is none.
    #[default]
    Default,
    /// By its place in the list.
    Index(usize),
    /// By a part of its name, any case.
    Name(String),
    /// As many of the best, each a piece of hardware of its own.
    Best(usize),
    /// These, in this order. An index twice is one adapter opened twice; a name twice is the next piece of hardware of
    /// that name, where there is one.
    List(Vec<Self>),
    /// No adapter: the host executor.
    Host,
}

impl AdapterChoice {
    /// Whether it may name more than one piece of hardware.
    pub fn is_several(&self) -> bool {
        match self {
            Self::Best(count) => *count > 1,
            Self::List(list) => list.iter().skip(1).any(|one| *one != list[0] || matches!(one, Self::Name(_))),
            Self::Default | Self::Index(_) | Self::Name(_) | Self::Host => false,
        }
    }

    /// Whether it names this adapter, among others or alone.
    pub fn names(&self, info: &AdapterInfo) -> bool {
        match self {
            Self::Index(index) => *index == info.index,
            Self::Name(part) => has_part(info, part),
            Self::Default | Self::Best(_) | Self::List(_) | Self::Host => false,
        }
    }
}

impl AdapterInfo {
    /// Whether its memory is not the host's.
    pub fn has_own_memory(&self) -> bool {
        self.kind == "discrete"
    }
}

/// What plans and kernels depend on, known without opening the adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceProfile {
    /// What kernels are chosen by.
    pub traits: Traits,
    /// Largest storage binding, bytes; also kept under the largest buffer.
    pub max_binding: u64,
    /// Whether kernels can read memory of the host in place.
    pub reads_host: bool,
}

/// Every adapter, best first.
pub fn adapters() -> Vec<AdapterInfo> {
    let mut infos: Vec<AdapterInfo> = enumerate().into_iter().map(|(info, _)| info).collect();
    // One GPU seen through two backends has one memory, though only one of them may tell.
    for index in 0..infos.len() {
        if infos[index].memory.is_none() && !infos[index].pci_bus_id.is_empty() {
            let same = infos.iter().filter(|other| other.pci_bus_id == infos[index].pci_bus_id);
            infos[index].memory = same.filter_map(|other| other.memory).next();
        }
    }
    infos
}

/// What the adapters at these places of [`adapters`] will be when opened with these options.
///
/// # Errors
/// No such adapter.
pub fn profiles(indices: &[usize], options: DeviceOptions) -> Result<Vec<DeviceProfile>, GpuError> {
    let found = enumerate();
    let infos: Vec<AdapterInfo> = found.iter().map(|(info, _)| info.clone()).collect();
    let chosen = choose(&AdapterChoice::List(indices.iter().copied().map(AdapterChoice::Index).collect()), &infos)?;
    let profile = |info: &AdapterInfo| {
        let adapter = &found[info.index].1;
        let (features, limits) = device::request(adapter, options.tier);
        device::profile(adapter, features, &limits, options)
    };
    Ok(chosen.into_iter().map(profile).collect())
}

/// The adapters of this choice among `present`, at least one.
///
/// # Errors
/// No adapter, none by an index or name, or fewer than asked for.
pub fn choose<'a>(choice: &AdapterChoice, present: &'a [AdapterInfo]) -> Result<Vec<&'a AdapterInfo>, GpuError> {
    let list = || present.iter().map(|info| format!("{}: {}", info.index, info.name)).collect();
    let unknown = |wanted: String| GpuError::UnknownAdapter { wanted, present: list() };
    if present.is_empty() {
        return Err(GpuError::NoAdapter);
    }
    match choice {
        AdapterChoice::Default => Ok(vec![&present[0]]),
        AdapterChoice::Index(index) => Ok(vec![present.get(*index).ok_or_else(|| unknown(index.to_string()))?]),
        AdapterChoice::Name(name) => {
            let found = present.iter().find(|info| has_part(info, name));
            Ok(vec![found.ok_or_else(|| unknown(format!("named \"{name}\"")))?])
        }
        AdapterChoice::Best(count) => {
            let distinct = distinct(present.iter());
            if distinct.len() < *count || *count == 0 {
                return Err(GpuError::TooFewAdapters { wanted: *count, distinct: distinct.len(), present: list() });
            }
            Ok(distinct[..*count].to_vec())
        }
        AdapterChoice::List(choices) => {
            let one = |(position, choice): (usize, &AdapterChoice)| {
                let AdapterChoice::Name(name) = choice else { return choose(choice, present) };
                let before = choices[..position].iter().filter(|other| *other == choice).count();
                let named = distinct(present.iter().filter(|info| has_part(info, name)));
                let nth = named.get(before % named.len().max(1));
                Ok(vec![*nth.ok_or_else(|| unknown(format!("named \"{name}\"")))?])
            };
            let found = choices.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()?;
            Ok(found.concat())
        }
        AdapterChoice::Host => Err(GpuError::HostAmongAdapters),
    }
}

/// Whether this is a part of an adapter's name, in any case.
fn has_part(info: &AdapterInfo, part: &str) -> bool {
    info.name.to_lowercase().contains(&part.to_lowercase())
}

/// Pieces of hardware, each through its best backend.
fn distinct<'a>(present: impl Iterator<Item = &'a AdapterInfo>) -> Vec<&'a AdapterInfo> {
    let mut distinct: Vec<&AdapterInfo> = Vec::new();
    for info in present {
        let same = |other: &&AdapterInfo| !info.pci_bus_id.is_empty() && other.pci_bus_id == info.pci_bus_id;
        if !distinct.iter().any(same) {
            distinct.push(info);
        }
    }
    distinct
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
        memory: memory::of(adapter, &info),
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
        tuning: Tuning::default(),
    }
}

/// Who made it: PCI ids, and Apple's name, since Metal tells no id.
pub(super) fn vendor(adapter: &wgpu::Adapter) -> Vendor {
    let info = adapter.get_info();
    match info.vendor {
        _ if info.device_type == wgpu::DeviceType::Cpu => Vendor::Software,
        0x10de => Vendor::Nvidia,
        0x1002 | 0x1022 => Vendor::Amd,
        0x8086 => Vendor::Intel,
        0x106b => Vendor::Apple,
        _ if info.name.starts_with("Apple ") => Vendor::Apple,
        _ => Vendor::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(index: usize, name: &str, pci_bus_id: &str) -> AdapterInfo {
        AdapterInfo { index, name: name.into(), pci_bus_id: pci_bus_id.into(), ..AdapterInfo::default() }
    }

    fn chosen(choice: &AdapterChoice, present: &[AdapterInfo]) -> Result<Vec<usize>, String> {
        let indices = |found: Vec<&AdapterInfo>| found.iter().map(|info| info.index).collect();
        choose(choice, present).map(indices).map_err(|error| error.to_string())
    }

    #[test]
    fn the_best_of_a_count_are_pieces_of_hardware() {
        let present = [info(0, "Big", "01:00"), info(1, "Big", "01:00"), info(2, "Small", "02:00"), info(3, "CPU", "")];
        assert_eq!(chosen(&AdapterChoice::Best(2), &present), Ok(vec![0, 2]), "one GPU through two backends is one");
        let error = chosen(&AdapterChoice::Best(4), &present).expect_err("there are three");
        assert!(error.contains("4 adapters") && error.contains("2: Small") && error.contains("0,0"), "{error}");
    }

    #[test]
    fn a_list_keeps_its_order_and_its_repetitions() {
        let present = [info(0, "Big", "01:00"), info(1, "Small", "02:00")];
        let list = AdapterChoice::List(vec![AdapterChoice::Name("small".into()), AdapterChoice::Index(1)]);
        assert_eq!(chosen(&list, &present), Ok(vec![1, 1]), "by name and by index");
        let bigs = |count| AdapterChoice::List(vec![AdapterChoice::Name("big".into()); count]);
        let two = [info(0, "Big", "01:00"), info(1, "Big", "03:00"), info(2, "Big", "01:00")];
        assert_eq!(chosen(&bigs(2), &two), Ok(vec![0, 1]), "a name twice is two of that name");
        assert_eq!(chosen(&bigs(3), &two), Ok(vec![0, 1, 0]), "as far as there are two, one through two backends");
        assert!(bigs(2).is_several() && !bigs(1).is_several(), "which may be several");
        let unknown = AdapterChoice::List(vec![AdapterChoice::Index(0), AdapterChoice::Index(7)]);
        assert!(chosen(&unknown, &present).is_err_and(|error| error.contains("no adapter 7")), "one is not there");
        let host = AdapterChoice::List(vec![AdapterChoice::Index(0), AdapterChoice::Host]);
        assert!(chosen(&host, &present).is_err_and(|error| error.contains("host")), "the host is no adapter");
    }
}
