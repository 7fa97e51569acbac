//! What a device is given to do, and what comes back: submissions, readbacks, waiting.
//!
//! Knows the order of things on one device; what crosses to another is the caller's business. Invariant: a wait ends
//! with the work done or with the device's own words of why it can't be; it neither hangs nor unwinds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::device::{Buffer, Device};
use super::error::GpuError;
use super::host_buffer::{HostCopy, record_copies};
use super::pipeline::Dispatch;
use crate::ops::Step;

/// Host-visible memory that results are copied to.
#[derive(Debug)]
pub struct Readback {
    raw: wgpu::Buffer,
    bytes: u64,
    /// The submission that filled it last.
    filled: Mutex<Option<wgpu::SubmissionIndex>>,
    /// How long the last wait for it took: the next one is much alike while tokens are generated.
    waited: Mutex<Duration>,
}

impl Readback {
    pub(super) const fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }

    /// Its size.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Commands recorded ahead of what they wait for.
#[derive(Debug)]
pub struct Recorded(Vec<wgpu::CommandBuffer>);

impl Recorded {
    pub(super) fn new(encoder: wgpu::CommandEncoder) -> Self {
        Self(vec![encoder.finish()])
    }
}

/// Dispatches that go off first of what was recorded: each submission waits for the one before on the adapter, so there is
/// one more, short enough to be there at once.
const FIRST_RECORDED: usize = 8;

/// Dispatches of the first submissions of a forward; the rest goes in one. A dispatch takes a large GPU several times
/// as long as it takes the host to record, so few are enough to be ahead.
const FIRST_SUBMISSIONS: [usize; 2] = [16, 64];

/// The last of a wait is spent asking instead of sleeping, since waking up takes tens of microseconds; twice this at
/// most, so that a core is idle for most of a token.
const SPIN: Duration = Duration::from_micros(500);

impl Device {
    /// Allocates host-visible memory to copy results to.
    ///
    /// # Errors
    /// More than there is.
    pub fn readback(&self, label: &str, bytes: u64) -> Result<Readback, GpuError> {
        let bytes = bytes.next_multiple_of(4).max(16);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let raw = self.allocate(label, bytes, usage)?;
        Ok(Readback { raw, bytes, filled: Mutex::default(), waited: Mutex::default() })
    }

    /// Sends pending writes to the device and waits until it has them, so that their staging memory is reused.
    ///
    /// # Errors
    /// A lost device.
    pub fn flush(&self) -> Result<(), GpuError> {
        self.send([]);
        self.wait()
    }

    /// Runs dispatches in order, then copies `results` (buffer, offset, bytes) one after the other to `readback`.
    /// Returns when all is submitted. The first dispatches go off by themselves: the device computes them while the
    /// host still records the others.
    ///
    /// # Errors
    /// A lost device.
    pub fn submit<'d>(
        &self,
        step: Step,
        dispatches: impl Iterator<Item = &'d Dispatch>,
        results: &[(&Buffer, u64, u64)],
        readback: Option<&Readback>,
    ) -> Result<(), GpuError> {
        let mut dispatches = dispatches.peekable();
        for count in FIRST_SUBMISSIONS {
            let mut encoder = self.encoder();
            run(&mut encoder, step, dispatches.by_ref().take(count));
            if dispatches.peek().is_none() {
                return self.finish(encoder, results, readback);
            }
            self.send([encoder.finish()]);
        }
        let mut encoder = self.encoder();
        run(&mut encoder, step, dispatches);
        self.finish(encoder, results, readback)
    }

    /// As [`Self::submit`], beside copies from the host of what these dispatches don't read: in one command buffer, so
    /// that all that either waits for stands at its beginning and the adapter can do both at once.
    ///
    /// # Errors
    /// A lost device.
    pub fn submit_beside<'d>(
        &self,
        copies: &[HostCopy<'_>],
        step: Step,
        dispatches: impl Iterator<Item = &'d Dispatch>,
        results: &[(&Buffer, u64, u64)],
        readback: Option<&Readback>,
    ) -> Result<(), GpuError> {
        if copies.is_empty() {
            return self.submit(step, dispatches, results, readback);
        }
        let mut encoder = self.encoder();
        record_copies(&mut encoder, copies);
        run(&mut encoder, step, dispatches);
        self.finish(encoder, results, readback)
    }

    /// Copies from the host, in a submission of its own.
    ///
    /// # Errors
    /// A lost device.
    pub fn copy(&self, copies: &[HostCopy<'_>]) -> Result<(), GpuError> {
        let mut encoder = self.encoder();
        record_copies(&mut encoder, copies);
        self.finish(encoder, &[], None)
    }

    /// As [`Self::submit`], all in one: for a device that has work enough to be busy until all is recorded.
    ///
    /// # Errors
    /// A lost device.
    pub fn submit_at_once(
        &self,
        step: Step,
        dispatches: &[Dispatch],
        results: &[(&Buffer, u64, u64)],
        readback: &Readback,
    ) -> Result<(), GpuError> {
        let mut encoder = self.encoder();
        run(&mut encoder, step, dispatches.iter());
        self.finish(encoder, results, Some(readback))
    }

    /// As [`Self::submit`], but only recorded: for what can't start yet. The first dispatches go off by themselves here
    /// too, since a submission takes the longer the more buffers it names.
    pub fn record<'d>(
        &self,
        step: Step,
        dispatches: impl Iterator<Item = &'d Dispatch>,
        results: &[(&Buffer, u64, u64)],
        readback: Option<&Readback>,
    ) -> Recorded {
        let mut dispatches = dispatches.peekable();
        let mut commands = vec![self.encoder()];
        run(&mut commands[0], step, dispatches.by_ref().take(FIRST_RECORDED));
        if dispatches.peek().is_some() {
            let mut encoder = self.encoder();
            run(&mut encoder, step, dispatches);
            commands.push(encoder);
        }
        copy(commands.last_mut().expect("there is one at least"), results, readback);
        Recorded(commands.into_iter().map(wgpu::CommandEncoder::finish).collect())
    }

    /// Submits what was recorded, behind all writes so far. `readback` is the one it was recorded with.
    ///
    /// # Errors
    /// A lost device.
    pub fn submit_recorded(&self, recorded: Recorded, readback: Option<&Readback>) -> Result<(), GpuError> {
        for commands in recorded.0 {
            let submission = self.send([commands]);
            if let Some(readback) = readback {
                *readback.filled.lock().expect("only replaced under its lock") = Some(submission);
            }
        }
        self.check()
    }

    fn finish(
        &self,
        mut encoder: wgpu::CommandEncoder,
        results: &[(&Buffer, u64, u64)],
        readback: Option<&Readback>,
    ) -> Result<(), GpuError> {
        copy(&mut encoder, results, readback);
        self.submit_recorded(Recorded::new(encoder), readback)
    }

    fn send(&self, commands: impl IntoIterator<Item = wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        let submission = self.queue.submit(commands);
        self.last.lock().expect("only replaced under its lock")[0] = Some(submission.clone());
        if self.submissions_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.raw.destroy();
        }
        submission
    }

    pub(super) fn encoder(&self) -> wgpu::CommandEncoder {
        self.raw.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") })
    }

    /// Waits for the submission that filled `readback`, not for later ones, and hands its first `bytes` to `read`.
    ///
    /// # Errors
    /// A lost device.
    pub fn read<R>(&self, readback: &Readback, bytes: u64, read: impl FnOnce(&[u8]) -> R) -> Result<R, GpuError> {
        self.read_by(readback, bytes, read, |mapped| self.wait_mapped(readback, mapped))
    }

    /// As [`Self::read`], without a core that asks: where the device has more to do, a late look costs nothing.
    ///
    /// # Errors
    /// A lost device.
    pub fn read_asleep<R>(
        &self,
        readback: &Readback,
        bytes: u64,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, GpuError> {
        let submission = readback.filled.lock().expect("only replaced under its lock").clone();
        let wait = wgpu::PollType::Wait { submission_index: submission, timeout: None };
        self.read_by(readback, bytes, read, |_| self.poll(wait))
    }

    fn read_by<R>(
        &self,
        readback: &Readback,
        bytes: u64,
        read: impl FnOnce(&[u8]) -> R,
        wait: impl FnOnce(&AtomicBool) -> Result<(), GpuError>,
    ) -> Result<R, GpuError> {
        let slice = readback.raw.slice(..bytes);
        let mapped = Arc::new(AtomicBool::new(false));
        let done = mapped.clone();
        slice.map_async(wgpu::MapMode::Read, move |result| done.store(result.is_ok(), Ordering::Release));
        wait(&mapped)?;
        let view = slice.get_mapped_range().map_err(|error| self.lost(format!("readback failed: {error}")))?;
        let value = read(&view);
        drop(view);
        readback.raw.unmap();
        Ok(value)
    }

    /// Sleeps until shortly before the time that the last wait took, then asks for a while, then sleeps until it is done.
    fn wait_mapped(&self, readback: &Readback, mapped: &AtomicBool) -> Result<(), GpuError> {
        let submission = readback.filled.lock().expect("only replaced under its lock").clone();
        let mut usual = readback.waited.lock().expect("only replaced under its lock");
        let start = Instant::now();
        // The device of a software adapter is the host: asking takes what it computes with.
        if !self.traits.software {
            let sleep = usual.saturating_sub(SPIN);
            if !sleep.is_zero() {
                self.poll(wgpu::PollType::Wait { submission_index: submission.clone(), timeout: Some(sleep) })?;
            }
            let asking = Instant::now();
            while !mapped.load(Ordering::Acquire) && asking.elapsed() < 2 * SPIN {
                self.poll(wgpu::PollType::Poll)?;
                std::hint::spin_loop();
            }
        }
        if !mapped.load(Ordering::Acquire) {
            self.poll(wgpu::PollType::Wait { submission_index: submission, timeout: None })?;
        }
        *usual = start.elapsed();
        self.check()
    }

    /// Waits for what had been submitted at the call before this one: who calls it after each part of a long job is
    /// never more than a part ahead of the device.
    ///
    /// # Errors
    /// A lost device.
    pub fn keep_pace(&self) -> Result<(), GpuError> {
        let mut last = self.last.lock().expect("only replaced under its lock");
        let now = last[0].clone();
        let before = std::mem::replace(&mut last[1], now);
        drop(last);
        match before {
            Some(before) => self.poll(wgpu::PollType::Wait { submission_index: Some(before), timeout: None }),
            None => Ok(()),
        }
    }

    pub(super) fn wait(&self) -> Result<(), GpuError> {
        self.poll(wgpu::PollType::wait_indefinitely())
    }

    /// Lets wgpu look after the device. A wait that ended early is no error.
    fn poll(&self, how: wgpu::PollType) -> Result<(), GpuError> {
        // wgpu panics here where the driver says that the device is gone; its callback has told why by then.
        let polled = catch_unwind(AssertUnwindSafe(|| self.raw.poll(how)));
        let failed = match polled {
            Ok(Ok(_) | Err(wgpu::PollError::Timeout)) => return self.check(),
            // A submission that a lost device refused can't be waited for: waiting for the others tells of the loss.
            Ok(Err(error)) => {
                let _ = catch_unwind(AssertUnwindSafe(|| self.raw.poll(wgpu::PollType::wait_indefinitely())));
                error.to_string()
            }
            Err(_) => "the driver gave no reason".to_owned(),
        };
        self.check()?;
        Err(self.lost(failed))
    }
}

/// Records dispatches in one pass.
fn run<'d>(encoder: &mut wgpu::CommandEncoder, step: Step, dispatches: impl Iterator<Item = &'d Dispatch>) {
    let mut dispatches = dispatches.peekable();
    if dispatches.peek().is_none() {
        return;
    }
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    let mut current = None;
    for dispatch in dispatches {
        if !dispatch.runs(step) {
            continue;
        }
        let [x, y, z] = dispatch.workgroups.map(|extent| extent.count(step));
        // Setting one that is set already costs the host as much as another.
        if current != Some(&dispatch.pipeline) {
            pass.set_pipeline(&dispatch.pipeline);
            current = Some(&dispatch.pipeline);
        }
        pass.set_bind_group(0, &dispatch.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Records copies of `results` one after the other to `readback`.
fn copy(encoder: &mut wgpu::CommandEncoder, results: &[(&Buffer, u64, u64)], readback: Option<&Readback>) {
    let Some(readback) = readback else { return };
    let mut at = 0;
    for (buffer, offset, bytes) in results {
        encoder.copy_buffer_to_buffer(&buffer.raw, *offset, &readback.raw, at, *bytes);
        at += bytes;
    }
}
