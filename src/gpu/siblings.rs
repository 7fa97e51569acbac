//! Devices on one adapter that share one Vulkan device, each with a queue of its own.
//!
//! wgpu opens a Vulkan device for each of its devices, with one queue. A GPU that goes from one to another changes its
//! whole context; queues of one Vulkan device share a context. To wgpu, and to all above this file, siblings are devices
//! like any others, with buffers, limits and faults of their own. Invariant: a queue belongs to one device at a time,
//! and the Vulkan device lives until the last of its siblings is gone.

/// A device of wgpu and its queue.
pub(super) type Opened = (wgpu::Device, wgpu::Queue);

/// Opens one more device on an adapter that has others; none where siblings are not known to be faster.
#[cfg(any(target_os = "linux", target_os = "android", windows))]
pub(super) fn open(adapter: &wgpu::Adapter, descriptor: &wgpu::DeviceDescriptor<'_>) -> Option<Opened> {
    let family = vulkan::family(adapter)?;
    vulkan::open(adapter, descriptor, family)
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
            // SAFETY: each sibling holds a lease of it until all that wgpu made there is gone.
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
    }

    impl Drop for Lease {
        fn drop(&mut self) {
            self.shared.free.lock().expect("only changed under its lock").push(self.queue);
        }
    }

    /// What siblings have in common: the adapter, by its handle in wgpu's one instance, the queues and the features.
    type Kin = (vk::PhysicalDevice, u32, wgpu::Features);

    static OPEN: Mutex<Vec<(Kin, Weak<Shared>)>> = Mutex::new(Vec::new());

    /// The queue family that siblings take.
    ///
    /// Only where it was measured: NVIDIA's contexts take 150 µs to change, its queues without graphics 20 to 60, those with
    /// graphics as long as contexts (docs/speed.md). wgpu's barriers name graphics stages on queues that have none, as
    /// they do on adapters without graphics; NVIDIA's driver is one that is known not to mind.
    pub(super) fn family(adapter: &wgpu::Adapter) -> Option<u32> {
        // SAFETY: the handle is only read, and not kept beyond this function.
        let hal = unsafe { adapter.as_hal::<Vulkan>() }.filter(|_| vendor(adapter) == Vendor::Nvidia)?;
        let computes = |family: &vk::QueueFamilyProperties| {
            let flags = family.queue_flags;
            flags.contains(vk::QueueFlags::COMPUTE) && !flags.contains(vk::QueueFlags::GRAPHICS)
        };
        families(&hal).iter().position(computes).map(|family| family as u32)
    }

    fn families(hal: &Adapter) -> Vec<vk::QueueFamilyProperties> {
        let instance = hal.shared_instance().raw_instance();
        // SAFETY: instance and physical device are those of a living adapter.
        unsafe { instance.get_physical_device_queue_family_properties(hal.raw_physical_device()) }
    }

    /// Opens a device on a free queue of this family.
    pub(super) fn open(
        adapter: &wgpu::Adapter,
        descriptor: &wgpu::DeviceDescriptor<'_>,
        family: u32,
    ) -> Option<Opened> {
        // SAFETY: the handle is not kept beyond this function.
        let hal = unsafe { adapter.as_hal::<Vulkan>() }?;
        let lease = lease(&hal, descriptor.required_features, family)?;
        let (raw, queue) = (lease.shared.raw.clone(), lease.queue);
        let extensions = lease.shared.extensions.clone();
        // SAFETY: the device was made from this adapter with these extensions and features and has this queue, which no
        // one else has; it lives until the lease is dropped.
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
        // SAFETY: it was made from this adapter, with what the descriptor asks for.
        unsafe { adapter.create_device_from_hal(opened.ok()?, descriptor) }.ok()
    }

    /// A queue of a device that is open, or of a new one.
    fn lease(hal: &Adapter, features: wgpu::Features, family: u32) -> Option<Lease> {
        let kin = (hal.raw_physical_device(), family, features);
        let mut open = OPEN.lock().expect("only changed under its lock");
        open.retain(|(_, shared)| shared.strong_count() > 0);
        let same = open.iter().filter(|(of, _)| *of == kin);
        if let Some(lease) = same.filter_map(|(_, shared)| shared.upgrade()).find_map(Lease::of) {
            return Some(lease);
        }
        let shared = Arc::new(create(hal, features, family)?);
        open.push((kin, Arc::downgrade(&shared)));
        Lease::of(shared)
    }

    fn create(hal: &Adapter, features: wgpu::Features, family: u32) -> Option<Shared> {
        let count = families(hal).get(family as usize)?.queue_count;
        let priorities = vec![1.0; count as usize];
        let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(family).queue_priorities(&priorities)];
        let extensions = hal.required_device_extensions(features);
        let mut enabled = hal.physical_device_features(&extensions, features);
        let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
        let info = vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_extension_names(&names);
        let info = enabled.add_to_device_create(info);
        let instance = hal.shared_instance().raw_instance();
        // SAFETY: extensions and features are what wgpu itself opens this adapter with, and the family has the queues.
        let raw = unsafe { instance.create_device(hal.raw_physical_device(), &info, None) }.ok()?;
        Some(Shared { raw, extensions, free: Mutex::new((0..count).collect()) })
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android", windows)))]
mod tests {
    use crate::gpu::adapter::enumerate;
    use crate::gpu::device::{descriptor, profile, request};
    use crate::gpu::{Device, DeviceOptions, Usage};
    use crate::ops::Step;

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

    /// The first family stands in for the one that siblings take: on any adapter, with as few queues as one.
    #[test]
    fn siblings_come_and_go_in_any_order() {
        let found = enumerate();
        let adapters = found.iter().filter(|(info, _)| info.backend == "vulkan");
        for (info, adapter) in adapters {
            let options = DeviceOptions::default();
            let (features, limits) = request(adapter, options.tier);
            let open = || {
                let opened = super::vulkan::open(adapter, &descriptor(features, &limits), 0).expect("it opens");
                Device::of(opened, info.clone(), profile(adapter, features, &limits, options), None, options)
            };
            let mut devices: Vec<Device> = (0..3).map(|_| open()).collect();
            for replaced in [0, 2, 1, 1] {
                for (value, device) in devices.iter().enumerate() {
                    assert_eq!(through(device, value as u8), [value as u8; 64], "{}", info.name);
                }
                drop(devices.remove(replaced));
                devices.push(open());
            }
        }
    }
}
