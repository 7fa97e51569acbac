//! How long each dispatch takes, by the device's own clock.

use super::device::Device;
use super::error::GpuError;
use super::pipeline::Dispatch;
use super::submission::Recorded;
use crate::ops::Step;

/// Timestamps of one query set.
const QUERIES: u32 = wgpu::QUERY_SET_MAX_QUERIES;

/// Bytes of a timestamp.
const STAMP: u64 = 8;

/// A dispatch that was timed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timed {
    /// The kernel's file.
    pub kernel: &'static str,
    /// Seconds from the end of the dispatch before it to its own end: waiting for that one is part of it.
    pub seconds: f64,
}

impl Device {
    /// Runs dispatches in order, in one submission, and says how long each took; the first counts from the start.
    ///
    /// # Errors
    /// An adapter without a clock that kernels can be timed by, or a lost device.
    pub fn time<'d>(&self, step: Step, dispatches: impl Iterator<Item = &'d Dispatch>) -> Result<Vec<Timed>, GpuError> {
        self.needs_clock()?;
        let dispatches: Vec<&Dispatch> = dispatches.collect();
        let mut timed = Vec::with_capacity(dispatches.len());
        for part in dispatches.chunks(QUERIES as usize - 1) {
            let stamps = self.stamps(step, part, 1)?;
            let period = self.period();
            let pairs = part.iter().zip(stamps.windows(2));
            timed.extend(pairs.map(|(dispatch, pair)| Timed {
                kernel: dispatch.label,
                seconds: pair[1].saturating_sub(pair[0]) as f64 * period,
            }));
        }
        Ok(timed)
    }

    /// Seconds from the start of the first of these dispatches to the end of the last, in one submission with no
    /// timestamp between them: those keep the next one from starting early.
    ///
    /// # Errors
    /// As [`Self::time`].
    pub fn span<'d>(&self, step: Step, dispatches: impl Iterator<Item = &'d Dispatch>) -> Result<f64, GpuError> {
        self.needs_clock()?;
        let dispatches: Vec<&Dispatch> = dispatches.collect();
        let stamps = self.stamps(step, &dispatches, dispatches.len().max(1))?;
        Ok(stamps[stamps.len() - 1].saturating_sub(stamps[0]) as f64 * self.period())
    }

    fn needs_clock(&self) -> Result<(), GpuError> {
        let has = self.raw.features().contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES);
        if has { Ok(()) } else { Err(GpuError::NoClock { adapter: self.info.name.clone() }) }
    }

    /// Seconds of a tick.
    fn period(&self) -> f64 {
        f64::from(self.queue.get_timestamp_period()) * 1e-9
    }

    /// The clock before the first of these dispatches and after every so many.
    fn stamps(&self, step: Step, dispatches: &[&Dispatch], every: usize) -> Result<Vec<u64>, GpuError> {
        let count = dispatches.len().div_ceil(every) as u32 + 1;
        let bytes = u64::from(count) * STAMP;
        let queries = self.raw.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("profile"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = self.allocate("profile", bytes, usage)?;
        let readback = self.readback("profile", bytes)?;
        let mut encoder = self.encoder();
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.write_timestamp(&queries, 0);
            for (index, part) in (1..).zip(dispatches.chunks(every)) {
                for dispatch in part {
                    let [x, y, z] = dispatch.workgroups.map(|extent| extent.count(step));
                    pass.set_pipeline(&dispatch.pipeline);
                    pass.set_bind_group(0, &dispatch.bind_group, &[]);
                    pass.dispatch_workgroups(x, y, z);
                }
                pass.write_timestamp(&queries, index);
            }
        }
        encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, readback.raw(), 0, bytes);
        self.submit_recorded(Recorded::new(encoder), Some(&readback))?;
        self.read(&readback, bytes, bytemuck::pod_collect_to_vec)
    }
}
