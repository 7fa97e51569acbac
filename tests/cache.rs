//! Packed weights kept for the next start: the same bits with and without them, and nothing that lies in the cache is
//! trusted or needed.

mod common;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use common::repository;
use serde_json::Value;
use tempfile::TempDir;
use wgpt::checkpoint::{Checkpoint, GptqCodes, GptqLinear};
use wgpt::exec::{Batch, CacheReport, ExecOptions, Executor, LoadReport, LogitRows, PackedCache, open};
use wgpt::gpu::AdapterChoice;
use wgpt::graph::Quantize;
use wgpt::plan::{Offload, OffloadMode};
use wgpt::quant::format_called;

const STORIES: &str = "wgpt-stories-4m";

fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(&repository("checkpoints").join(name)).expect("the checkpoint opens")
}

fn quantized(format: &str) -> ExecOptions {
    let format = format_called(format).expect("a format");
    let quantize = Some(Quantize { format, head: None, requantize: false });
    ExecOptions { quantize, ..resident() }
}

fn resident() -> ExecOptions {
    ExecOptions {
        adapter: AdapterChoice::Index(0),
        context_length: Some(64),
        prefill_chunk: Some(16),
        ..ExecOptions::default()
    }
}

fn streamed(mode: OffloadMode, options: ExecOptions) -> ExecOptions {
    ExecOptions { offload: Offload::All, offload_mode: Some(mode), ..options }
}

fn opened(checkpoint: &Checkpoint, options: &ExecOptions, cache: Option<&Path>) -> (Box<dyn Executor>, LoadReport) {
    let options = ExecOptions { cache: cache.map(Path::to_owned), ..options.clone() };
    open(checkpoint, &options, &mut |_| ()).expect("it loads")
}

/// Logits of a prompt of several chunks, and of a token after it.
fn forward(executor: &mut dyn Executor) -> Vec<f32> {
    let tokens: Vec<u32> = (0..40).map(|token| token * 7 % 96).collect();
    let mut run = |tokens: &[u32], position| {
        executor.forward(&Batch { tokens, position, logits: LogitRows::Last }).expect("it runs").values
    };
    [run(&tokens, 0), run(&[3], 40)].concat()
}

fn logits(checkpoint: &Checkpoint, options: &ExecOptions, cache: Option<&Path>) -> (Vec<f32>, CacheReport) {
    let (mut executor, report) = opened(checkpoint, options, cache);
    let notices = report.notices.clone();
    let used = report.cache.unwrap_or(CacheReport { notices: Vec::new(), ..CacheReport::default() });
    (forward(&mut *executor), CacheReport { notices, ..used })
}

/// A cache that a first start has filled: its folder, the logits without it, and what that start said.
fn filled(checkpoint: &Checkpoint, options: &ExecOptions) -> (TempDir, Vec<f32>, CacheReport) {
    let cache = tempfile::tempdir().expect("a scratch folder");
    let (expected, unused) = logits(checkpoint, options, None);
    assert_eq!((unused.read, unused.written), (0, 0), "no cache was named");
    let (found, first) = logits(checkpoint, options, Some(cache.path()));
    assert!(found == expected, "logits of the start that writes");
    assert!(first.written > 0 && first.read == 0, "it was empty: {first:?}");
    (cache, expected, first)
}

/// The cache's files.
fn files(cache: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(cache).into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let inside = folders.flat_map(|folder| std::fs::read_dir(folder).expect("a folder"));
    let mut files: Vec<PathBuf> = inside.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn contents(cache: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files(cache).into_iter().map(|path| (path.clone(), std::fs::read(path).expect("it is there"))).collect()
}

/// A copy of the stories model whose files can be changed.
fn copy_of_stories() -> TempDir {
    let folder = tempfile::tempdir().expect("a scratch folder");
    for entry in std::fs::read_dir(repository("checkpoints").join(STORIES)).expect("the checkpoint") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, folder.path().join(path.file_name().expect("a name"))).expect("copied");
    }
    folder
}

#[test]
fn quantized_weights_come_from_the_cache_at_the_second_start() {
    let host = ExecOptions { adapter: AdapterChoice::Host, ..quantized("q4_0") };
    for (name, options) in [
        (STORIES, host),
        (STORIES, quantized("q8_0")),
        (STORIES, quantized("nf4")),
        (STORIES, streamed(OffloadMode::Pinned, quantized("q4_0"))),
        (STORIES, streamed(OffloadMode::Mapped, quantized("q4_0"))),
        ("tiny-qwen3-moe", streamed(OffloadMode::Mapped, quantized("q4_0"))),
        ("tiny-falcon-40b", streamed(OffloadMode::Mapped, quantized("q8_0"))),
    ] {
        let checkpoint = checkpoint(name);
        let (cache, expected, first) = filled(&checkpoint, &options);
        let before = contents(cache.path());
        let (found, second) = logits(&checkpoint, &options, Some(cache.path()));
        assert!(found == expected, "{name}, {options:?}: logits of the start that reads");
        assert_eq!((second.read, second.written), (first.written, 0), "{name}, {options:?}: all of it is read");
        assert!(second.notices.is_empty(), "{second:?}");
        assert!(contents(cache.path()) == before, "{name}, {options:?}: and left as it is");
        let size: u64 = before.values().map(|bytes| bytes.len() as u64).sum();
        assert_eq!(size, first.written, "{name}, {options:?}: what is said is what it takes");
    }
}

#[test]
fn one_start_s_packed_weights_serve_all_placements() {
    let stories = checkpoint(STORIES);
    let (cache, _, first) = filled(&stories, &quantized("q4_0"));
    let placements = [
        ExecOptions { adapter: AdapterChoice::Host, ..quantized("q4_0") },
        streamed(OffloadMode::Mapped, quantized("q4_0")),
        ExecOptions { adapter: AdapterChoice::List(vec![AdapterChoice::Index(0); 2]), ..quantized("q4_0") },
    ];
    for options in placements {
        let (expected, _) = logits(&stories, &options, None);
        let by_another_name = checkpoint("tiny-gpt2/../wgpt-stories-4m");
        let (found, used) = logits(&by_another_name, &options, Some(cache.path()));
        assert!(found == expected, "{options:?}");
        assert_eq!((used.read, used.written), (first.written, 0), "{options:?}");
    }
    let (_, other) = logits(&stories, &quantized("q8_0"), Some(cache.path()));
    // But for the head, which has rows too short for q6_k and gets q8_0 with both.
    assert!(other.read < first.written / 4 && other.written > first.written, "another format's are others: {other:?}");
}

#[test]
fn mapped_layers_that_are_packed_come_from_the_cache() {
    // Blocks, transposed rows, and linears of several tensors.
    let names = [
        "tiny-llama-q4_0/model.gguf",
        "tiny-llama-q4_k_m",
        "tiny-gpt2",
        "tiny-llama-gptq",
        "tiny-llama-gptq-act-order",
        "tiny-llama-awq",
        "tiny-llama-bnb-nf4",
        "tiny-llama-fp8",
    ];
    for name in names {
        let checkpoint = checkpoint(name);
        let mapped = streamed(OffloadMode::Mapped, resident());
        let some = ExecOptions { offload: Offload::Layers(1), ..mapped.clone() };
        let (expected, _) = logits(&checkpoint, &mapped, None);
        let cache = tempfile::tempdir().expect("a scratch folder");
        let (found, one) = logits(&checkpoint, &some, Some(cache.path()));
        assert!(found == expected, "{name}: one layer streamed");
        let (found, all) = logits(&checkpoint, &mapped, Some(cache.path()));
        assert!(found == expected, "{name}: all, some of them written");
        let (found, again) = logits(&checkpoint, &mapped, Some(cache.path()));
        assert!(found == expected, "{name}: all, none written");
        let has_one_layer = ["tiny-llama-gptq", "tiny-llama-awq", "tiny-llama-fp8"].contains(&name);
        assert!(one.written > 0 && (all.written == 0) == has_one_layer, "{name}: {one:?}, {all:?}");
        assert_eq!((all.read, again.read, again.written), (one.written, one.written + all.written, 0), "{name}");
        for pinned in [resident(), streamed(OffloadMode::Pinned, resident())] {
            let (found, unused) = logits(&checkpoint, &pinned, Some(cache.path()));
            assert!(found == expected, "{name}: {pinned:?}");
            assert_eq!((unused.read, unused.written), (0, 0), "{name}: packed once, nothing is won by keeping it");
        }
    }
}

#[test]
fn rows_that_lie_in_the_file_as_adapters_have_them_are_not_kept() {
    // Falcon's parallel layers multiply two matrices side by side, which are read straight into one row.
    for name in [STORIES, "tiny-falcon-7b", "tiny-gpt-neox-f16", "tiny-llama-gqa"] {
        let (checkpoint, cache) = (checkpoint(name), tempfile::tempdir().expect("a scratch folder"));
        let mapped = streamed(OffloadMode::Mapped, resident());
        let (expected, _) = logits(&checkpoint, &resident(), None);
        let (found, used) = logits(&checkpoint, &mapped, Some(cache.path()));
        assert!(found == expected, "{name}");
        assert_eq!((used.written, files(cache.path())), (0, vec![]), "{name}: nothing is packed");
    }
}

/// Changes a file in some way.
type Damage = fn(&Path);

fn with_file(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("it is there");
    change(&mut bytes);
    std::fs::write(path, bytes).expect("it can be written");
}

const DAMAGES: [(&str, Damage); 9] = [
    ("a weight", |path| with_file(path, |bytes| *bytes.last_mut().expect("bytes") ^= 1)),
    ("a weight in the middle", |path| {
        with_file(path, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x80;
        });
    }),
    ("a sum", |path| {
        with_file(path, |bytes| {
            let header = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes")) as usize;
            bytes[24 + header] ^= 1;
        });
    }),
    ("the header's sum", |path| with_file(path, |bytes| bytes[16] ^= 1)),
    ("the magic", |path| with_file(path, |bytes| bytes[0] ^= 1)),
    ("the header's length", |path| with_file(path, |bytes| bytes[15] = 0xff)),
    ("its last byte", |path| {
        with_file(path, |bytes| {
            bytes.pop();
        });
    }),
    ("all but a few bytes", |path| with_file(path, |bytes| bytes.truncate(20))),
    ("everything", |path| with_file(path, Vec::clear)),
];

#[test]
fn damaged_files_are_found_and_made_anew() {
    let stories = checkpoint(STORIES);
    for options in [quantized("q4_0"), streamed(OffloadMode::Mapped, quantized("q4_0"))] {
        let (cache, expected, first) = filled(&stories, &options);
        let whole = contents(cache.path());
        let all = files(cache.path());
        for (what, damage) in DAMAGES {
            let victim = &all[all.len() / 2];
            damage(victim);
            assert_ne!(std::fs::read(victim).expect("there"), whole[victim], "{what}: it is another file now");
            let (found, _) = logits(&stories, &options, Some(cache.path()));
            assert!(found == expected, "{what}: the right logits from a damaged cache");
            // A streamed unit's weights are first looked at when it is needed: its file is made anew at the next start.
            let (found, next) = logits(&stories, &options, Some(cache.path()));
            assert!(found == expected, "{what}: and afterwards");
            assert_eq!(next.read + next.written, first.written, "{what}: {next:?}");
            assert!(
                options.offload == Offload::All || next.written == 0,
                "{what}: resident weights are looked at once"
            );
            assert!(contents(cache.path()) == whole, "{what}: all files are as they were");
        }
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_once() {
    let stories = checkpoint(STORIES);
    let (cache, _, _) = filled(&stories, &quantized("q4_0"));
    let victim = &files(cache.path())[1];
    with_file(victim, |bytes| bytes.truncate(100));
    let (_, used) = logits(&stories, &quantized("q4_0"), Some(cache.path()));
    assert_eq!(used.notices.len(), 1, "{used:?}");
    for part in ["damaged", "made anew", &victim.display().to_string()] {
        assert!(used.notices[0].contains(part), "{part}: {used:?}");
    }
}

#[test]
fn a_file_that_is_cut_short_while_it_is_read_is_packed_from_the_checkpoint() {
    let q4_0 = checkpoint("tiny-llama-q4_0/model.gguf");
    let mapped = streamed(OffloadMode::Mapped, resident());
    let (cache, expected, _) = filled(&q4_0, &mapped);
    let (mut executor, report) = opened(&q4_0, &mapped, Some(cache.path()));
    assert!(report.cache.is_some_and(|used| used.read > 0), "it reads the cache");
    assert!(forward(&mut *executor) == expected, "whole");
    for path in files(cache.path()) {
        OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(50)).expect("cut");
    }
    assert!(forward(&mut *executor) == expected, "cut short");
    assert_eq!(files(cache.path()), Vec::<PathBuf>::new(), "damaged files are deleted");
}

#[test]
fn another_version_of_a_checkpoint_has_other_packed_weights() {
    let folder = copy_of_stories();
    let weights = folder.path().join("model.safetensors");
    let open = || Checkpoint::open(folder.path()).expect("it opens");
    let (cache, _, first) = filled(&open(), &quantized("q4_0"));
    let anew = |what: &str| {
        let (expected, _) = logits(&open(), &quantized("q4_0"), None);
        let (found, used) = logits(&open(), &quantized("q4_0"), Some(cache.path()));
        assert!(found == expected, "{what}: the logits of the files that are there");
        assert_eq!((used.read, used.written), (0, first.written), "{what}: nothing of before is used: {used:?}");
        assert!(used.notices.iter().any(|notice| notice.contains("another version")), "{what}: {used:?}");
        assert_eq!(files(cache.path()).len(), 10, "{what}: what was there is deleted");
    };
    let touch = |time: SystemTime| {
        File::options().write(true).open(&weights).and_then(|file| file.set_modified(time)).expect("a time can be set");
    };
    let time = SystemTime::now() - Duration::from_secs(1000);
    touch(time);
    anew("another time");
    // The first weight of the file, under the old time.
    with_file(&weights, |bytes| {
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        bytes[8 + header] ^= 1;
    });
    touch(time);
    anew("other bytes, written at the same time");
    with_file(&folder.path().join("config.json"), |bytes| bytes.push(b'\n'));
    anew("another config");
}

#[test]
fn checkpoints_of_one_name_do_not_share_packed_weights() {
    let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let cache = tempfile::tempdir().expect("a folder");
    for (folder, name) in [(&one, "tiny-llama-q4_0"), (&two, "tiny-llama-q4_1")] {
        let source = repository("checkpoints").join(name).join("model.gguf");
        std::fs::copy(source, folder.path().join("model.gguf")).expect("copied");
    }
    let mapped = streamed(OffloadMode::Mapped, resident());
    for _ in 0..2 {
        for folder in [&one, &two] {
            let checkpoint = Checkpoint::open(&folder.path().join("model.gguf")).expect("it opens");
            let (expected, _) = logits(&checkpoint, &mapped, None);
            let (found, used) = logits(&checkpoint, &mapped, Some(cache.path()));
            assert!(found == expected && used.notices.is_empty(), "{}: {used:?}", folder.path().display());
        }
    }
    let cache = PackedCache::new(cache.path());
    let list = cache.list().expect("it can be read");
    let formats: Vec<_> = list.iter().flat_map(|cached| &cached.formats).collect();
    assert!(list.len() == 2 && formats.iter().any(|format| *format == "q4_1"), "{list:?}");
    let first = list[0].checkpoint.clone().expect("its header says");
    assert_eq!(cache.clear(Some(&first)).expect("it can be deleted"), list[0].bytes, "one of them");
    assert_eq!(cache.list().expect("it can be read"), list[1..], "the other one stays");
}

#[test]
fn weights_that_were_put_into_a_checkpoint_are_not_its_files() {
    let stories = checkpoint(STORIES);
    let tensor = "gpt_neox.layers.0.mlp.dense_4h_to_h.weight";
    let (rows, cols) = {
        let view = stories.tensor(tensor).expect("it is there");
        (view.rows(), view.cols())
    };
    let groups = cols / 32;
    let contents = GptqCodes {
        codes: &vec![7; rows * cols],
        scales: &vec![half::f16::from_f32(0.01); rows * groups],
        zeros: &vec![8; rows * groups],
        group_of: &(0..cols as u32).map(|col| col / 32).collect::<Vec<_>>(),
    };
    let linear = GptqLinear::pack(tensor.into(), Some(32), contents);
    let mapped = streamed(OffloadMode::Mapped, quantized("q8_0"));
    let (cache, plain, _) = filled(&stories, &mapped);
    let rounded = stories.with_gptq(&[linear]);
    let (expected, _) = logits(&rounded, &mapped, None);
    assert!(expected != plain, "it is another model");
    let (found, used) = logits(&rounded, &mapped, Some(cache.path()));
    assert!(found == expected && used.read + used.written == 0, "the cache is about files: {used:?}");
}

/// The program with a cache folder of its own, without the user's settings.
fn wgpt(cache: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
    command.current_dir(repository("")).args(args);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WGPT_")) {
        command.env_remove(name);
    }
    command.env("XDG_CACHE_HOME", cache);
    command
}

const GENERATE: &[&str] = &[
    "generate",
    "--checkpoint",
    "checkpoints/wgpt-stories-4m",
    "--prompt",
    "Once upon a time",
    "--temperature",
    "0",
    "--max-new-tokens",
    "12",
    "--quantize",
    "q4_0",
];

/// Text and remarks of a run.
fn run(cache: &Path, args: &[&str]) -> (String, String) {
    let output = wgpt(cache, args).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("whole UTF-8");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    (stdout, stderr)
}

#[test]
fn a_user_sees_what_is_kept_and_can_delete_it() {
    let cache = tempfile::tempdir().expect("a scratch folder");
    let list = || serde_json::from_str::<Value>(&run(cache.path(), &["cache", "list", "--json"]).0).expect("JSON");
    assert_eq!(list()["bytes"], 0, "nothing yet");
    let (plain, stderr) = run(cache.path(), &[GENERATE, &["--no-cache"]].concat());
    assert!(!stderr.contains("packed weights"), "{stderr}");
    assert_eq!(list()["bytes"], 0, "--no-cache writes nothing");
    let (text, stderr) = run(cache.path(), GENERATE);
    assert_eq!(text, plain, "the start that writes");
    for part in ["kept in", "MB", "wgpt cache clear"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let (text, stderr) = run(cache.path(), GENERATE);
    assert_eq!(text, plain, "the start that reads");
    assert!(stderr.contains("read from") && !stderr.contains("kept in"), "{stderr}");
    let (_, stderr) = run(cache.path(), &[GENERATE, &["--no-cache"]].concat());
    assert!(!stderr.contains("read from"), "--no-cache reads nothing: {stderr}");
    let listed = list();
    let entry = &listed["checkpoints"][0];
    let whole = repository("checkpoints/wgpt-stories-4m").canonicalize().expect("it is there");
    assert_eq!(entry["checkpoint"].as_str(), whole.to_str(), "{listed}");
    assert!(entry["formats"].as_array().is_some_and(|all| all.contains(&"q4_0".into())), "{listed}");
    assert_eq!(entry["bytes"], listed["bytes"], "{listed}");
    let (table, _) = run(cache.path(), &["cache", "list"]);
    for part in ["wgpt-stories-4m", "q4_0", "just now", "MB of packed weights"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    std::fs::write(cache.path().join("wgpt/packed/notes.txt"), "mine").expect("written");
    let (_, stderr) = run(cache.path(), &["cache", "clear"]);
    assert!(stderr.contains("deleted"), "{stderr}");
    assert_eq!(list()["bytes"], 0, "all of it is gone");
    assert!(cache.path().join("wgpt/packed/notes.txt").is_file(), "but for what is not the cache's");
}

#[test]
fn damage_is_said_on_stderr() {
    let cache = tempfile::tempdir().expect("a scratch folder");
    let (plain, _) = run(cache.path(), GENERATE);
    let all = files(&cache.path().join("wgpt/packed"));
    with_file(&all[2], |bytes| *bytes.last_mut().expect("bytes") ^= 1);
    let (text, stderr) = run(cache.path(), GENERATE);
    assert_eq!(text, plain, "the right text");
    assert_eq!(stderr.matches("damaged").count(), 1, "one line: {stderr}");
    let (text, stderr) = run(cache.path(), GENERATE);
    assert!(text == plain && !stderr.contains("damaged"), "it was made anew: {stderr}");
}

#[test]
#[cfg(unix)]
fn what_can_t_be_opened_is_left_as_it_is() {
    let cache = tempfile::tempdir().expect("a scratch folder");
    let (plain, _) = run(cache.path(), GENERATE);
    let all = files(&cache.path().join("wgpt/packed"));
    for file in &all[..2] {
        std::fs::remove_file(file).expect("removed");
        std::os::unix::fs::symlink(file, file).expect("a link to itself can't be opened");
    }
    let (text, stderr) = run(cache.path(), GENERATE);
    assert_eq!(text, plain, "the right text");
    assert!(stderr.contains("(and 1 more): nothing is changed there"), "one line: {stderr}");
    assert!(all[..2].iter().all(|file| file.is_symlink()), "they are still there");
}

#[test]
fn a_cache_that_can_t_be_written_is_said_and_done_without() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("written");
    let (plain, _) = run(folder.path(), &[GENERATE, &["--no-cache"]].concat());
    let (text, stderr) = run(&file, GENERATE);
    assert_eq!(text, plain, "the same text");
    assert_eq!(stderr.matches("packed weights can't be kept").count(), 1, "{stderr}");
    assert!(!stderr.contains("damaged"), "there is nothing yet: {stderr}");
}

#[test]
fn processes_that_fill_one_cache_at_once_do_not_disturb_each_other() {
    let (cache, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (plain, _) = run(other.path(), GENERATE);
    let start =
        || wgpt(cache.path(), GENERATE).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let children = [start(), start(), start()];
    for child in children {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), plain, "the right text");
    }
    let relative = |root: &Path| {
        let root = root.join("wgpt/packed");
        let all = contents(&root).into_iter();
        all.map(|(path, bytes)| (path.strip_prefix(&root).expect("inside").to_owned(), bytes)).collect::<Vec<_>>()
    };
    assert!(relative(cache.path()) == relative(other.path()), "the files that one alone writes, and no others");
}
