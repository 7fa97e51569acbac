//! Compiled pipelines kept on disk: taken by the next device, written once, and never in the way.

mod common;

use std::path::Path;

use common::{all_adapters, repository};
use wgpt::checkpoint::Checkpoint;
use wgpt::exec::{Batch, ExecOptions, FilledCase, LogitRows, open};
use wgpt::gpu::{AdapterChoice, AdapterInfo, Device, DeviceOptions};
use wgpt::ops::all_cases;

fn keeps(adapter: &AdapterInfo) -> bool {
    adapter.features.iter().any(|feature| feature == "pipeline-cache")
}

/// The outputs of some kernels on a device that keeps its pipelines in a folder, and whether it wrote them there.
fn outputs(adapter: &AdapterInfo, folder: &Path, cases: usize) -> (Vec<Vec<f32>>, bool) {
    let mut device = Device::open(adapter.index, DeviceOptions::default()).expect("the adapter opens");
    device.keep_pipelines(folder);
    let cases = all_cases().into_iter().step_by(40).take(cases).collect::<Vec<_>>();
    let run = |case| FilledCase::new(case, 3).prepare(&device).and_then(|case| case.run(&device)).expect("it runs");
    let outputs = cases.iter().flat_map(|case| run(case).outputs).collect();
    (outputs, device.save_pipelines())
}

fn only_file(folder: &Path) -> std::path::PathBuf {
    let files: Vec<_> = std::fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path()).collect();
    assert_eq!(files.len(), 1, "one adapter, one file: {files:?}");
    files[0].clone()
}

#[test]
fn the_next_device_takes_what_was_compiled() {
    for adapter in all_adapters() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let (expected, wrote) = outputs(&adapter, folder.path(), 4);
        assert_eq!(wrote, keeps(&adapter), "pipelines are written where the adapter gives them");
        if !wrote {
            continue;
        }
        let written = std::fs::read(only_file(folder.path())).expect("readable");
        let (found, wrote) = outputs(&adapter, folder.path(), 4);
        assert!(found == expected && !wrote, "the same results, and nothing new to write");
        assert_eq!(std::fs::read(only_file(folder.path())).expect("readable"), written, "the file is as it was");
        // Mesa's software driver gives only a header away, others all code they have.
        let wrote = outputs(&adapter, folder.path(), 8).1;
        let grew = std::fs::read(only_file(folder.path())).expect("readable").len() > written.len();
        assert_eq!(wrote, grew, "more kernels than before are written where there is more to keep");
    }
}

#[test]
fn a_damaged_file_or_folder_stops_nothing() {
    for adapter in all_adapters().into_iter().filter(keeps) {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let (expected, _) = outputs(&adapter, folder.path(), 2);
        let file = only_file(folder.path());
        let whole = std::fs::read(&file).expect("readable");
        let mut damaged = whole.clone();
        let end = whole.len() - 1;
        damaged[end] ^= 1;
        for wrong in [Vec::new(), b"garbage".repeat(1000), whole[..end].to_vec(), damaged] {
            std::fs::write(&file, wrong).expect("written");
            let (found, wrote) = outputs(&adapter, folder.path(), 2);
            assert!(found == expected && wrote, "it compiles anew and replaces the file");
        }
        // No folder can be made where a file is.
        let (found, wrote) = outputs(&adapter, &file, 2);
        assert!(found == expected && !wrote, "it runs without");
    }
}

#[test]
fn a_model_s_pipelines_are_kept_after_it_is_loaded() {
    let adapter = &all_adapters()[0];
    let folder = tempfile::tempdir().expect("a scratch folder");
    let pipelines = folder.path().join("pipelines");
    let checkpoint = Checkpoint::open(&repository("checkpoints/tiny-llama-gqa")).expect("it opens");
    let logits = || {
        let adapter = AdapterChoice::Index(adapter.index);
        let options = ExecOptions { adapter, pipelines: Some(pipelines.clone()), ..ExecOptions::default() };
        let (mut executor, _) = open(&checkpoint, &options, &mut |_| ()).expect("it loads");
        let batch = Batch { tokens: &[1, 2, 3], position: 0, logits: LogitRows::Last };
        executor.forward(&batch).expect("it runs").values
    };
    let expected = logits();
    assert_eq!(pipelines.is_dir(), keeps(adapter), "written where the adapter gives them");
    assert!(logits() == expected, "the same bits from kept pipelines");
}
