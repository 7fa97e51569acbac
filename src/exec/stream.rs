//! A staging ring and the thread that fills it ahead of whoever copies from it.
//!
//! The thread packs batch after batch into staging buffers as they come free; the lane takes them in the same order,
//! copies each to where it belongs, and gives the buffer back. Nothing waits for the adapter but a buffer that is
//! still copied from. Invariant: of an abandoned forward nothing is handed out, and its buffers come back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::ExecError;
use super::packed::{Batch, PackedSource};
use crate::gpu::{Device, GpuError, HostBuffer, HostCopy, HostUse, Poller};
use crate::plan::STAGING_SLOTS;

/// How long the thread sleeps between two looks at whether a staging buffer has come free.
const NAP: Duration = Duration::from_micros(50);

/// A staging ring with its thread.
#[derive(Debug)]
pub(super) struct Stream {
    ring: Arc<Vec<HostBuffer>>,
    jobs: Option<Sender<Job>>,
    filled: Mutex<Receiver<(u64, Filled)>>,
    free: Sender<Freed>,
    /// Which job is wanted; those before it are abandoned.
    wanted: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// Batches in the order they are wanted in.
struct Job {
    number: u64,
    batches: Vec<Arc<Batch>>,
}

/// A staging buffer with a batch in it, unmapped; or why there is none.
type Filled = Result<Staged, ExecError>;

/// A staging buffer of the ring that is mapped again, or can't be.
type Freed = Option<usize>;

/// A batch that is ready to be copied.
#[derive(Debug)]
pub(super) struct Staged {
    slot: usize,
    pub(super) batch: Arc<Batch>,
}

impl Stream {
    /// Makes a ring of `bytes` in all, and starts its thread.
    pub(super) fn new(device: &Device, bytes: u64, source: Arc<dyn PackedSource>) -> Result<Self, ExecError> {
        let slot = |_| device.host_buffer("staging", bytes / STAGING_SLOTS, HostUse::Staging);
        let ring = Arc::new((0..STAGING_SLOTS).map(slot).collect::<Result<Vec<_>, _>>()?);
        device.map_new(&ring)?;
        let ((jobs, job), (filled_in, filled), (free, freed)) = (channel(), channel(), channel());
        for slot in 0..ring.len() {
            free.send(Some(slot)).expect("the other end is here");
        }
        let wanted = Arc::new(AtomicU64::new(0));
        let filler = Filler {
            ring: ring.clone(),
            source,
            poller: device.poller(),
            wanted: wanted.clone(),
            free: free.clone(),
            freed,
            filled: filled_in,
        };
        let thread = std::thread::Builder::new().name("staging".into()).spawn(move || filler.run(&job));
        let thread = thread.expect("the system starts a thread");
        let (jobs, filled) = (Some(jobs), Mutex::new(filled));
        Ok(Self { ring, jobs, filled, free, wanted, thread: Some(thread) })
    }

    /// Bytes of one staging buffer.
    pub(super) fn capacity(&self) -> u64 {
        self.ring[0].bytes()
    }

    /// Abandons what was asked for before and starts on these.
    pub(super) fn start(&self, batches: Vec<Arc<Batch>>) {
        let number = self.wanted.fetch_add(1, Ordering::Relaxed) + 1;
        // Buffers that were filled for what is abandoned must not wait for someone to ask for them.
        while let Some((_, stale)) = self.receive(false) {
            self.take_back(stale);
        }
        let jobs = self.jobs.as_ref().expect("it is there until the stream is dropped");
        jobs.send(Job { number, batches }).expect("the thread ends after its last job only");
    }

    /// The next batch; where `wait` is not set, only if it is filled already.
    pub(super) fn next(&self, wait: bool) -> Result<Option<Staged>, ExecError> {
        while let Some((number, filled)) = self.receive(wait) {
            if number == self.wanted.load(Ordering::Relaxed) {
                return filled.map(Some);
            }
            self.take_back(filled);
        }
        Ok(None)
    }

    fn receive(&self, wait: bool) -> Option<(u64, Filled)> {
        let filled = self.filled.lock().expect("no thread panics while it holds the receiver");
        if wait {
            Some(filled.recv().expect("the thread hands out what it was asked for"))
        } else {
            filled.try_recv().ok()
        }
    }

    /// The copies that bring a batch to where it belongs.
    pub(super) fn copies<'s>(&'s self, staged: &'s Staged) -> impl Iterator<Item = HostCopy<'s>> {
        let from = &self.ring[staged.slot];
        staged.batch.copies.iter().map(move |(at, to, offset, bytes)| HostCopy {
            from,
            at: *at,
            to,
            offset: *offset,
            bytes: *bytes,
        })
    }

    /// Gives a staging buffer back, once its copies are submitted.
    pub(super) fn release(&self, staged: Staged) {
        map(&self.ring, staged.slot, &self.free);
    }

    fn take_back(&self, filled: Filled) {
        if let Ok(staged) = filled {
            self.release(staged);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and a second one helps no one.
            drop(thread.join());
        }
    }
}

/// Has a buffer mapped again as soon as the adapter is done with it.
fn map(ring: &[HostBuffer], slot: usize, free: &Sender<Freed>) {
    let free = free.clone();
    // No one listens any more where the stream is being dropped.
    ring[slot].map(move |mapped| {
        let _ = free.send(mapped.then_some(slot));
    });
}

/// The thread's side.
struct Filler {
    ring: Arc<Vec<HostBuffer>>,
    source: Arc<dyn PackedSource>,
    poller: Poller,
    wanted: Arc<AtomicU64>,
    free: Sender<Freed>,
    freed: Receiver<Freed>,
    filled: Sender<(u64, Filled)>,
}

impl Filler {
    fn run(&self, jobs: &Receiver<Job>) {
        for Job { number, batches } in jobs {
            for (index, batch) in batches.iter().enumerate() {
                let filled = match self.slot(number) {
                    Ok(Some(slot)) => self.fill(slot, batch, batches.get(index + 1)),
                    Ok(None) => break,
                    Err(error) => Err(error),
                };
                let failed = filled.is_err();
                // No one listens any more where the stream is being dropped.
                drop(self.filled.send((number, filled)));
                if failed {
                    break;
                }
            }
        }
    }

    fn fill(&self, slot: usize, batch: &Arc<Batch>, next: Option<&Arc<Batch>>) -> Filled {
        let (source, into) = (&*self.source, &self.ring[slot]);
        let ahead = || {
            if let Some(next) = next {
                next.fill.read_ahead(source);
            }
        };
        match rayon::join(|| batch.fill.run(source, into), ahead).0 {
            Ok(()) => {
                into.unmap();
                Ok(Staged { slot, batch: batch.clone() })
            }
            Err(error) => {
                self.free.send(Some(slot)).expect("the other end is here");
                Err(error)
            }
        }
    }

    /// A free staging buffer; nothing once the job is abandoned.
    fn slot(&self, number: u64) -> Result<Option<usize>, ExecError> {
        loop {
            if self.wanted.load(Ordering::Relaxed) != number {
                return Ok(None);
            }
            match self.freed.recv_timeout(NAP) {
                Ok(Some(slot)) => return Ok(Some(slot)),
                Ok(None) => return Err(self.unmappable()),
                Err(RecvTimeoutError::Timeout) => self.poller.poll()?,
                Err(RecvTimeoutError::Disconnected) => unreachable!("this thread holds a sender itself"),
            }
        }
    }

    fn unmappable(&self) -> ExecError {
        let reason = "a staging buffer can't be mapped any more";
        GpuError::Lost { adapter: self.poller.adapter().to_owned(), reason: reason.into() }.into()
    }
}
