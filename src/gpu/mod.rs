//! The only room that names wgpu: adapters, devices, pipelines, buffers, submissions.
//!
//! Everything that leaves this room is our own type. It runs [`crate::ops::Kernel`]s on buffers it is given; it
//! does not know models, graphs or plans. Invariant: no wgpu error panics or unwinds: validation errors, memory
//! that ran out and lost devices all come back as [`GpuError`].

mod adapter;
mod device;
mod error;
mod host_buffer;
mod memory;
mod pipeline;
mod pipeline_cache;
mod profile;
mod siblings;
mod submission;

pub use adapter::{AdapterChoice, AdapterInfo, AdapterLimits, DeviceProfile, adapters, choose, profiles};
pub use device::{Buffer, BufferPart, Device, DeviceOptions, Tier, Usage};
pub use error::GpuError;
pub use host_buffer::{HostBuffer, HostCopy, HostUse, MappedPart, Poller};
pub use memory::{AdapterMemory, host_memory};
pub use pipeline::Dispatch;
pub use profile::Timed;
pub use submission::{Readback, Recorded};
