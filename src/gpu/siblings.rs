//! Devices on one adapter that share one Vulkan device, each with a queue of its own.
//!
//! wgpu opens a Vulkan device for each of its devices, with one queue. A GPU that goes from one to another changes its
//! whole context; queues of one Vulkan device share a context. To wgpu, and to all above this file, siblings are
//! devices like any others, with buffers of their own; but what one is lost by takes all of them, and the driver's
//! limit on allocations is theirs together. Invariant: a queue belongs to one device at a time, and the Vulkan device
//! lives until the last of its siblings is gone.

/// A device of wgpu and its queue.
pub(super) type Opened = (wgpu::Device, wgpu::Queue);

/// Opens a device that shares the adapter's Vulkan device with others; none where that is not known to be faster, or
/// fails.
#[cfg(any(target_os = "linux", target_os = "android", windows))]
pub(super) fn open(adapter: &wgpu::Adapter, descriptor: &wgpu::DeviceDescriptor<'_>) -> Option<Opened> {
    let opened = vulkan::open(adapter, descriptor, vulkan::family(adapter)?);
    opened.map_err(|reason| tracing::warn!("devices on this adapter can't share queues, and are slower: {reason}")).ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
pub(super) const fn open(_: &wgpu::Adapter, _: &wgpu::DeviceDescriptor<'_>) -> Option<Opened> {
    None
}

#[cfg(any(target_os = "linux", target_os = "android", windows))]
mod vulkan {
    use std::ffi::CStr;
    use std::sync::{Arc, Mutex, Weak};

    use ash::vk;
    use wgpu::hal::api::Vulkan;
    use wgpu::hal::vulkan::Adapter;

    use super::Opened;
    use crate::gpu::adapter::vendor;
    use crate::ops::Vendor;

    /// A Vulkan device with all queues of a family.
    struct Shared {
        raw: ash::Device,
        extensions: Vec<&'static CStr>,
        /// Queues that no device has.
        free: Mutex<Vec<u32>>,
    }

    impl Drop for Shared {
        fn drop(&mut self) {
            // SAFETY: each sibling holds a lease of it until all that wgpu made there is gone. The instance is there
            // for good: it is a static of `enumerate`.
            unsafe { self.raw.destroy_device(None) };
        }
    }

    /// A queue, for as long as a device has it.
    struct Lease {
        shared: Arc<Shared>,
        queue: u32,
    }

    impl Lease {
        fn of(shared: Arc<Shared>) -> Option<Self> {
            let queue = shared.free.lock().expect("only changed under its lock").pop()?;
            Some(Self { shared, queue })
        }

        /// Whether the Vulkan device still answers: one that was lost makes whatever it is asked for, and runs nothing.
        fn is_alive(&self, family: u32) -> bool {
            let raw = &self.shared.raw;
            // SAFETY: the device was made with this queue, which no one else has.
            unsafe { raw.queue_wait_idle(raw.get_device_queue(family, self.queue)) }.is_ok()
        }
    }

    impl Drop for Lease {
        fn drop(&mut self) {
            self.shared.free.lock().expect("only changed under its lock").push(self.queue);
        }
    }

    /// What siblings have in common: the adapter, by its handle in wgpu's one instance, and what their Vulkan device
    /// was made with: queues and features.
    type Kin = (vk::PhysicalDevice, u32, wgpu::Features);

    static OPEN: Mutex<Vec<(Kin, Weak<Shared>)>> = Mutex::new(Vec::new());

    /// The queue family that siblings take.
    ///
    /// Only with the driver that it was measured with: NVIDIA's own, on one GPU. A crossing takes 181 µs from one
    /// Vulkan device to another, as much between queues with graphics, and 25 to 63 between queues without
    /// (docs/speed.md). wgpu's barriers name graphics stages on these too, as they do on adapters without graphics:
    /// against the letter of Vulkan, and of no effect in this driver.
    pub(super) fn family(adapter: &wgpu::Adapter) -> Option<u32> {
        let measured = vendor(adapter) == Vendor::Nvidia && adapter.get_info().driver == "NVIDIA";
        // SAFETY: the handle is only read, and not kept beyond this function.
        let hal = unsafe { adapter.as_hal::<Vulkan>() }.filter(|_| measured)?;
        let computes = |family: &vk::QueueFamilyProperties| {
            let flags = family.queue_flags;
            flags.contains(vk::QueueFlags::COMPUTE) && !flags.contains(vk::QueueFlags::GRAPHICS)
        };
        families(&hal).iter().position(computes).map(|family| family as u32)
    }

    pub(super) fn families(hal: &Adapter) -> Vec<vk::QueueFamilyProperties> {
        let instance = hal.shared_instance().raw_instance();
        // SAFETY: instance and physical device are those of a living adapter.
        unsafe { instance.get_physical_device_queue_family_properties(hal.raw_physical_device()) }
    }

    /// Opens a device on a free queue of this family; the error is the driver's or wgpu's reason.
    pub(super) fn open(
        adapter: &wgpu::Adapter,
        descriptor: &wgpu::DeviceDescriptor<'_>,
        family: u32,
    ) -> Result<Opened, String> {
        // SAFETY: the handle is not kept beyond this function.
        let hal = unsafe { adapter.as_hal::<Vulkan>() }.ok_or("it is no Vulkan adapter")?;
        let lease = lease(&hal, descriptor.required_features, family)?;
        let (raw, queue) = (lease.shared.raw.clone(), lease.queue);
        let extensions = lease.shared.extensions.clone();
        // SAFETY: the device was made from this adapter with these extensions and features and has this queue, which no
        // one else has; it lives until the lease is dropped. For the barriers see `family`.
        let opened = unsafe {
            hal.device_from_raw(
                raw,
                Some(Box::new(move || drop(lease))),
                &extensions,
                descriptor.required_features,
                &descriptor.required_limits,
                &descriptor.memory_hints,
                family,
                queue,
            )
        };
        let opened = opened.map_err(|error| error.to_string())?;
        // SAFETY: it was made from this adapter, with what the descriptor asks for.
        unsafe { adapter.create_device_from_hal(opened, descriptor) }.map_err(|error| error.to_string())
    }

    /// A queue of a device that is open, or of a new one.
    fn lease(hal: &Adapter, features: wgpu::Features, family: u32) -> Result<Lease, String> {
        let kin = (hal.raw_physical_device(), family, features);
        let mut open = OPEN.lock().expect("only changed under its lock");
        open.retain(|(_, shared)| shared.strong_count() > 0);
        let same = open.iter().filter(|(of, _)| *of == kin);
        let mut leases = same.filter_map(|(_, shared)| shared.upgrade()).filter_map(Lease::of);
        if let Some(lease) = leases.find(|lease| lease.is_alive(family)) {
            return Ok(lease);
        }
        let shared = Arc::new(create(hal, features, family)?);
        open.push((kin, Arc::downgrade(&shared)));
        Ok(Lease::of(shared).expect("a new device has its queues"))
    }

    fn create(hal: &Adapter, features: wgpu::Features, family: u32) -> Result<Shared, String> {
        let count = families(hal).get(family as usize).ok_or("it has no such queues")?.queue_count;
        let priorities = vec![1.0; count as usize];
        let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&priorities)];
        let extensions = hal.required_device_extensions(features);
        let mut enabled = hal.physical_device_features(&extensions, features);
        let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
        let info = vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_extension_names(&names);
        let info = enabled.add_to_device_create(info);
        let instance = hal.shared_instance().raw_instance();
        // SAFETY: extensions and features are what wgpu itself opens this adapter with, and the family has the queues.
        let raw = unsafe { instance.create_device(hal.raw_physical_device(), &info, None) };
        let raw = raw.map_err(|error| error.to_string())?;
        tracing::debug!("a Vulkan device with {count} queues of family {family} for siblings");
        Ok(Shared { raw, extensions, free: Mutex::new((0..count).collect()) })
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android", windows)))]
mod tests {
    use std::collections::BTreeSet;

    use ash::vk;
    use wgpu::hal::api::Vulkan;

    use super::vulkan::{families, open};
    use crate::gpu::adapter::enumerate;
    use crate::gpu::device::{descriptor, profile, request};
    use crate::gpu::{Device, DeviceOptions, Usage};
    use crate::ops::Step;

    /// The family that stands in for the one that siblings take: every adapter has it.
    const FAMILY: u32 = 0;

    /// What a device hands back of what it was given.
    fn through(device: &Device, value: u8) -> Vec<u8> {
        let bytes = [value; 64];
        let buffer = device.buffer("test", 64, Usage::Activations).expect("it has room");
        let readback = device.readback("test", 64).expect("it has room");
        device.write(&buffer, 0, &bytes);
        let results = [(&buffer, 0, 64)];
        device.submit(Step::new(1, 0, 1), std::iter::empty(), &results, Some(&readback)).expect("it copies");
        device.read(&readback, 64, <[u8]>::to_vec).expect("it is there")
    }

    /// Their queues, and how many Vulkan devices these belong to.
    fn queues(devices: &[Device]) -> (BTreeSet<(vk::Device, vk::Queue)>, usize) {
        let of = |device: &Device| {
            // SAFETY: the handle is only read.
            let hal = unsafe { device.raw.as_hal::<Vulkan>() }.expect("it is one of Vulkan's");
            (hal.raw_device().handle(), hal.raw_queue())
        };
        let all: Vec<_> = devices.iter().map(of).collect();
        let shared: BTreeSet<_> = all.iter().map(|(device, _)| *device).collect();
        (all.into_iter().collect(), shared.len())
    }

    #[test]
    fn siblings_come_and_go_in_any_order() {
        let found = enumerate();
        let adapters = found.iter().filter(|(info, _)| info.backend == "vulkan");
        for (info, adapter) in adapters {
            let options = DeviceOptions::default();
            let (features, limits) = request(adapter, options.tier);
            let open = || {
                let opened = open(adapter, &descriptor(features, &limits), FAMILY);
                let profile = profile(adapter, features, &limits, options);
                Device::of(opened.expect("it opens"), info.clone(), profile, None, options)
            };
            // SAFETY: the handle is only read.
            let hal = unsafe { adapter.as_hal::<Vulkan>() }.expect("it is one of Vulkan's");
            let of_family = families(&hal)[FAMILY as usize].queue_count as usize;
            let mut devices: Vec<Device> = (0..3).map(|_| open()).collect();
            // More than a family has queues, so that they have to come back.
            for round in 0..24 {
                for (value, device) in devices.iter().enumerate() {
                    assert_eq!(through(device, value as u8), [value as u8; 64], "{}", info.name);
                }
                let (queues, shared) = queues(&devices);
                assert_eq!(queues.len(), devices.len(), "{}: each has a queue of its own", info.name);
                assert_eq!(shared, devices.len().div_ceil(of_family), "{}: they share as far as it has", info.name);
                drop(devices.remove(round * 7 % 3));
                devices.push(open());
            }
        }
    }
}
