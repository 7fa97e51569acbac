//! How much memory an adapter has, and how much of it is free.
//!
//! Asks, allocates nothing. Vulkan drivers tell through `VK_EXT_memory_budget`. A software adapter has the host's
//! memory, and so has Metal, where memory is shared. DX12 tells wgpu nothing here; a GPU that Vulkan sees too is known
//! through that (see [`super::adapters`]), any other is planned for without a limit, and what can't be allocated is
//! planned again. Invariant: no figure is made up: what is not known is `None`.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Memory of an adapter, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct AdapterMemory {
    /// All it has for buffers that kernels read.
    pub total: u64,
    /// What no one uses at the moment, where the platform tells.
    pub free: Option<u64>,
}

/// The host's memory; in a container no more than its limit leaves.
pub fn host_memory() -> Option<AdapterMemory> {
    let refresh = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(refresh);
    let (mut total, mut free) = (system.total_memory(), system.available_memory());
    if let Some(limits) = system.cgroup_limits() {
        total = total.min(limits.total_memory);
        free = free.min(limits.free_memory);
    }
    (total > 0).then_some(AdapterMemory { total, free: Some(free) })
}

/// Memory of an adapter, where it can be known.
pub(super) fn of(adapter: &wgpu::Adapter, info: &wgpu::AdapterInfo) -> Option<AdapterMemory> {
    match (info.device_type, info.backend) {
        (wgpu::DeviceType::Cpu, _) | (_, wgpu::Backend::Metal) => host_memory(),
        (_, wgpu::Backend::Vulkan) => vulkan(adapter),
        _ => None,
    }
}

/// The largest device-local heap, and what of it this process may still take.
#[cfg(any(target_os = "linux", target_os = "android", windows))]
fn vulkan(adapter: &wgpu::Adapter) -> Option<AdapterMemory> {
    use ash::vk;
    // SAFETY: the handle is only read, and not kept beyond this function.
    let hal = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let tells = hal.physical_device_capabilities().supports_extension(ash::ext::memory_budget::NAME);
    let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
    let mut asked = vk::PhysicalDeviceMemoryProperties2::default();
    if tells {
        asked = asked.push_next(&mut budget);
    }
    let instance = hal.shared_instance().raw_instance();
    // SAFETY: instance and physical device are those of a living adapter; wgpu opens only Vulkan 1.1 and later, or
    // instances with the extension this call comes from; the chained struct is one the device supports.
    unsafe { instance.get_physical_device_memory_properties2(hal.raw_physical_device(), &mut asked) };
    let heaps = asked.memory_properties;
    let local = |index: &usize| heaps.memory_heaps[*index].flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
    let largest = (0..heaps.memory_heap_count as usize).filter(local).max_by_key(|i| heaps.memory_heaps[*i].size)?;
    let total = heaps.memory_heaps[largest].size;
    let free = tells.then(|| budget.heap_budget[largest].saturating_sub(budget.heap_usage[largest]).min(total));
    Some(AdapterMemory { total, free })
}

#[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
fn vulkan(_adapter: &wgpu::Adapter) -> Option<AdapterMemory> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_memory_and_not_more_free_than_it_has() {
        let memory = host_memory().expect("the system tells");
        let free = memory.free.expect("the system tells what is free");
        assert!(free > 0 && free <= memory.total, "{memory:?}");
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android", windows))]
    fn vulkan_adapters_tell_what_they_have() {
        for (info, adapter) in super::super::adapter::enumerate().iter().filter(|(info, _)| info.backend == "vulkan") {
            let memory = vulkan(adapter).expect("every Vulkan adapter has a device-local heap");
            assert!(memory.total > 0, "{info:?}: {memory:?}");
            assert!(memory.free.is_none_or(|free| free <= memory.total), "{info:?}: {memory:?}");
        }
    }
}
