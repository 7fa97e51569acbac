//! Memory of the host that an adapter reads: what weights are staged in, and where streamed ones may stay.
//!
//! With Vulkan and mappable primary buffers it is cached host memory, which kernels bind and read in place; elsewhere
//! it is a plain upload buffer, which can only be copied from. Invariant: a host buffer is written only while it is
//! mapped, and read by the adapter only while it is not.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use super::device::{Buffer, Device};
use super::error::GpuError;

/// What a host buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostUse {
    /// To be filled again and again, and copied from.
    Staging,
    /// To be filled once, and copied from or read in place.
    Weights,
}

/// Memory of the host that an adapter reads.
#[derive(Debug, Clone)]
pub struct HostBuffer {
    buffer: Buffer,
    adapter: Arc<str>,
    mode: wgpu::MapMode,
}

/// A part of a mapped buffer, to be written by one thread.
#[derive(Debug)]
pub struct MappedPart<'m>(wgpu::WriteOnly<'m, [u8]>);

// SAFETY: a part is the only access to its bytes, which are plain memory of the process, and bytes may be written by
// any thread. wgpu says so of `WriteOnly<T>` itself, but only for types of known size.
unsafe impl Send for MappedPart<'_> {}

impl MappedPart<'_> {
    /// Writes bytes at the beginning and zeros behind them.
    ///
    /// # Panics
    /// If the part is shorter.
    pub fn write(&mut self, bytes: &[u8]) {
        self.0.slice(..bytes.len()).copy_from_slice(bytes);
        self.0.slice(bytes.len()..).fill(0);
    }
}

impl HostBuffer {
    /// The buffer, to be bound where the device reads host memory in place.
    pub const fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Its size.
    pub const fn bytes(&self) -> u64 {
        self.buffer.bytes()
    }

    /// Asks for it to be mapped once the adapter is done with it; `then` is told whether it is, by whoever polls.
    pub fn map(&self, then: impl FnOnce(bool) + Send + 'static) {
        self.buffer.raw.slice(..).map_async(self.mode, move |mapped| then(mapped.is_ok()));
    }

    /// Gives it back to the adapter.
    pub fn unmap(&self) {
        self.buffer.raw.unmap();
    }

    /// Hands parts of it, mapped, to `work`: ranges in ascending order that don't overlap.
    ///
    /// # Errors
    /// It is not mapped.
    ///
    /// # Panics
    /// If ranges overlap or go beyond its end.
    pub fn write_parts<R>(
        &self,
        ranges: &[Range<u64>],
        work: impl FnOnce(Vec<MappedPart<'_>>) -> R,
    ) -> Result<R, GpuError> {
        // A mapping to read is written to: wgpu-core hands out the same memory either way. Such buffers are made only
        // where it is host-coherent (see `Device::host_buffer`), so that nothing has to be flushed.
        let unmapped = |error: wgpu::MapRangeError| {
            let (adapter, reason) = (self.adapter.to_string(), error.to_string());
            GpuError::Lost { adapter, reason }
        };
        let mut view = self.buffer.raw.get_mapped_range_mut(..).map_err(unmapped)?;
        let mut rest = view.slice(..);
        let (mut at, mut parts) = (0, Vec::with_capacity(ranges.len()));
        for range in ranges {
            let (_, from) = rest.split_at((range.start - at) as usize);
            let (part, behind) = from.split_at((range.end - range.start) as usize);
            parts.push(MappedPart(part));
            (rest, at) = (behind, range.end);
        }
        Ok(work(parts))
    }
}

/// A copy from the host to the adapter.
#[derive(Debug, Clone, Copy)]
pub struct HostCopy<'a> {
    /// Where from.
    pub from: &'a HostBuffer,
    /// The first byte there.
    pub at: u64,
    /// Where to.
    pub to: &'a Buffer,
    /// The first byte there; all three are multiples of four.
    pub offset: u64,
    /// How much.
    pub bytes: u64,
}

/// Lets another thread hear that buffers are mapped.
#[derive(Debug, Clone)]
pub struct Poller {
    raw: wgpu::Device,
    fault: Arc<Mutex<Option<String>>>,
    adapter: String,
}

impl Poller {
    /// The adapter's name.
    pub fn adapter(&self) -> &str {
        &self.adapter
    }

    /// Looks whether work has ended, without waiting for any.
    ///
    /// # Errors
    /// A lost device.
    pub fn poll(&self) -> Result<(), GpuError> {
        // wgpu panics here where the driver says that the device is gone; its callback has told why by then.
        let polled = catch_unwind(AssertUnwindSafe(|| self.raw.poll(wgpu::PollType::Poll)));
        let fault = self.fault.lock().expect("the fault is only replaced under its lock").clone();
        let reason = fault.or_else(|| match polled {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the driver gave no reason".to_owned()),
        });
        reason.map_or(Ok(()), |reason| Err(GpuError::Lost { adapter: self.adapter.clone(), reason }))
    }
}

impl Device {
    /// Allocates memory of the host that the adapter reads.
    ///
    /// # Errors
    /// More than there is.
    pub fn host_buffer(&self, label: &str, bytes: u64, purpose: HostUse) -> Result<HostBuffer, GpuError> {
        let bytes = bytes.next_multiple_of(4).max(16);
        // Vulkan has host-coherent memory for every buffer that is mapped, and for those mapped to read prefers the
        // host's own, cached. Those mapped to write land in the adapter's memory where the host can reach it.
        let (mode, map) = match self.reads_host {
            true => (wgpu::MapMode::Read, wgpu::BufferUsages::MAP_READ),
            false => (wgpu::MapMode::Write, wgpu::BufferUsages::MAP_WRITE),
        };
        let bound = if self.reads_host && purpose == HostUse::Weights {
            wgpu::BufferUsages::STORAGE
        } else {
            wgpu::BufferUsages::empty()
        };
        let usage = map | wgpu::BufferUsages::COPY_SRC | bound;
        let raw = self.create(label, bytes, usage).map_err(|reason| GpuError::HostMemory {
            adapter: self.info.name.clone(),
            label: label.into(),
            bytes,
            reason,
        })?;
        Ok(HostBuffer { buffer: Buffer::new(raw, bytes), adapter: self.info.name.as_str().into(), mode })
    }

    /// Maps host buffers that the adapter has not used yet.
    ///
    /// # Errors
    /// A lost device, or a mapping that was refused.
    pub fn map_new(&self, buffers: &[HostBuffer]) -> Result<(), GpuError> {
        let refused = Arc::new(Mutex::new(false));
        for buffer in buffers {
            let refused = refused.clone();
            buffer.map(move |mapped| *refused.lock().expect("only replaced under its lock") |= !mapped);
        }
        self.wait()?;
        let refused = *refused.lock().expect("only replaced under its lock");
        if refused { Err(self.lost("host memory can't be mapped".into())) } else { Ok(()) }
    }

    /// What another thread polls with.
    pub fn poller(&self) -> Poller {
        Poller { raw: self.raw.clone(), fault: self.fault.clone(), adapter: self.info.name.clone() }
    }
}

/// Records copies in order.
pub(super) fn record_copies(encoder: &mut wgpu::CommandEncoder, copies: &[HostCopy<'_>]) {
    for HostCopy { from, at, to, offset, bytes } in copies {
        encoder.copy_buffer_to_buffer(&from.buffer.raw, *at, &to.raw, *offset, *bytes);
    }
}
