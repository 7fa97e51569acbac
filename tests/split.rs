//! Several adapters at work at once: stopped in the middle, and one of them lost.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{all_adapters, repository};
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{
    Batch, ExecError, ExecOptions, Executor, GpuExecutor, GpuOptions, LogitRows, WeightSource, lower_checkpoint,
};
use wgpt::gpu::{Device, DeviceOptions, GpuError};
use wgpt::plan::{OffloadMode, Placement, Plan, Residency};

/// Eight layers.
const STORIES: &str = "checkpoints/wgpt-stories-4m";

/// Resident, and streamed from either place.
const STREAMED: [Option<OffloadMode>; 3] = [None, Some(OffloadMode::Pinned), Some(OffloadMode::Mapped)];

/// No step of these tests takes nearly as long.
const HANG: Duration = Duration::from_secs(120);

fn checkpoint() -> Checkpoint {
    Checkpoint::open(&repository(STORIES)).expect("the checkpoint opens")
}

/// An executor on a device for each of these options, units dealt out evenly, pieces of 16 tokens.
fn executor(devices: &[DeviceOptions], streamed: Option<OffloadMode>) -> Result<GpuExecutor, ExecError> {
    let checkpoint = checkpoint();
    let options = ExecOptions { context_length: Some(200), ..ExecOptions::default() };
    let graph = lower_checkpoint(&checkpoint, &options).expect("it lowers").1;
    let units = graph.units.len();
    let residency = if streamed.is_some() { Residency::Streamed } else { Residency::Resident };
    let place = |unit| Placement { adapter: unit * devices.len() / units, residency };
    let (placements, offload_mode) = ((0..units).map(place).collect(), streamed.unwrap_or_default());
    let plan = Plan { placements, ring_slots: 2, offload_mode, in_place: false };
    let adapter = all_adapters()[0].index;
    let open = |options: &DeviceOptions| Device::open(adapter, DeviceOptions { sibling: true, ..*options });
    let devices = devices.iter().map(open).collect::<Result<_, _>>()?;
    let options = GpuOptions { prefill_chunk: 64, least_piece: 16 };
    GpuExecutor::new(graph, &plan, devices, WeightSource::new(&checkpoint), options, &mut |_| ())
}

fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|token| token % 250 + 1).collect()
}

fn forward(executor: &mut GpuExecutor, tokens: &[u32], position: u32) -> Result<Vec<f32>, ExecError> {
    executor.forward(&Batch { tokens, position, logits: LogitRows::Last }).map(|logits| logits.values)
}

/// Runs `work` in a thread and fails if it does not end.
fn in_time<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(HANG).expect("it ends by itself, without a panic")
}

/// Loads, prefills pieces, decodes; whatever fails first.
fn all_of_it(devices: &[DeviceOptions], streamed: Option<OffloadMode>) -> Result<usize, (usize, ExecError)> {
    let mut executor = executor(devices, streamed).map_err(|error| (0, error))?;
    forward(&mut executor, &tokens(150), 0).map_err(|error| (1, error))?;
    for position in 150..170 {
        forward(&mut executor, &[7], position).map_err(|error| (2, error))?;
    }
    Ok(3)
}

#[test]
fn a_device_lost_at_any_time_is_a_clear_error() {
    let name = all_adapters()[0].name.clone();
    for streamed in STREAMED {
        for lost in 0..2 {
            // In which part of the work it was lost: loading, prefill, decode.
            let mut seen = [false; 3];
            let mut after = 1;
            loop {
                let mut devices = [DeviceOptions::default(); 2];
                devices[lost] = DeviceOptions { lost_after: Some(after), ..DeviceOptions::default() };
                match in_time(move || all_of_it(&devices, streamed)) {
                    Ok(_) => break,
                    Err((part, error)) => {
                        let text = error.to_string();
                        assert!(matches!(error, ExecError::Gpu(GpuError::Lost { .. })), "{after}: {error:?}");
                        assert!(text.contains(&name) && text.contains("lost"), "{after}: names the adapter: {text}");
                        seen[part] = true;
                    }
                }
                after += 1 + after / 4;
            }
            assert_eq!(seen, [true; 3], "it was lost in each part; adapter {lost}, streamed: {streamed:?}");
        }
    }
}

#[test]
fn a_cancelled_prompt_leaves_no_one_waiting_and_nothing_changed() {
    for streamed in STREAMED {
        let devices = [DeviceOptions::default(); 3];
        let mut executor = executor(&devices, streamed).expect("it loads");
        let all = tokens(180);
        let expected = forward(&mut executor, &all, 0).expect("it runs");
        // Set before it starts, and at some time while it runs.
        for delay in [0, 1, 5, 20, 60] {
            let cancel = AtomicBool::new(delay == 0);
            let batch = Batch { tokens: &all[100..], position: 100, logits: LogitRows::Last };
            let (sender, receiver) = channel::<()>();
            let logits = std::thread::scope(|scope| {
                let cancel = &cancel;
                scope.spawn(move || {
                    if receiver.recv_timeout(Duration::from_millis(delay)).is_err() {
                        cancel.store(true, Ordering::Relaxed);
                    }
                });
                let logits = executor.forward_unless(&batch, cancel).expect("no error");
                let _ = sender.send(());
                logits
            });
            match logits {
                None => assert_eq!(executor.position(), 100, "the cache is at the batch's position"),
                Some(logits) => assert!(logits.values == expected && delay > 0, "it was done before"),
            }
            let again = forward(&mut executor, &all[100..], 100);
            assert!(again.expect("it goes on") == expected, "as if nothing had been");
        }
    }
}
