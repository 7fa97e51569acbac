//! The house's floors: a room imports only what its line allows, and only `gpu` names wgpu.

use std::path::{Path, PathBuf};

/// Room, and the rooms it may name. A file `src/x.rs` is the room `x`.
const ALLOWED: &[(&str, &[&str])] = &[
    // floor 0: plain data
    ("tensor", &[]),
    ("tokenizer", &[]),
    ("sampler", &[]),
    ("shader", &[]),
    // floor 1: what a weight is
    ("quant", &["tensor"]),
    ("checkpoint", &["tensor", "quant"]),
    // floor 2: what is computed
    ("ops", &["tensor", "sampler", "quant", "shader"]),
    ("model", &["tensor", "checkpoint", "ops"]),
    ("graph", &["tensor", "quant", "model", "ops"]),
    // floor 3: where it is computed
    ("plan", &["tensor", "quant", "ops", "graph"]),
    ("gpu", &["tensor", "shader", "ops"]),
    ("exec", &["tensor", "sampler", "quant", "checkpoint", "model", "ops", "graph", "plan", "gpu"]),
    // floor 4: the product
    ("session", &["exec", "checkpoint", "tokenizer", "sampler"]),
    ("gptq", &["quant", "checkpoint", "model", "ops", "graph", "exec"]),
    ("convert", &["quant", "checkpoint", "model", "ops", "graph", "exec", "session", "tokenizer"]),
    (
        "cli",
        &[
            "tensor",
            "tokenizer",
            "sampler",
            "shader",
            "quant",
            "checkpoint",
            "ops",
            "model",
            "graph",
            "plan",
            "gpu",
            "exec",
            "session",
            "convert",
            "gptq",
        ],
    ),
];

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the entry can be read").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every source file with the room it belongs to.
fn rooms() -> Vec<(String, PathBuf)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let room = |path: &PathBuf| {
        let first = path.strip_prefix(&src).expect("below src").components().next().expect("a name");
        first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
    };
    files.into_iter().map(|path| (room(&path), path)).filter(|(room, _)| room != "lib" && room != "main").collect()
}

/// The rooms that a text names as `crate::room` or `wgpt::room`, comments left out.
fn named(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    let mut rooms = Vec::new();
    for prefix in ["crate::", "wgpt::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            rooms.push(rest[..end].to_owned());
        }
    }
    rooms
}

#[test]
fn rooms_import_only_what_their_line_allows() {
    let known: Vec<&str> = ALLOWED.iter().map(|(room, _)| *room).collect();
    let mut trespasses = Vec::new();
    for (room, path) in rooms() {
        let line = ALLOWED.iter().find(|(name, _)| *name == room);
        let (_, allowed) = line.unwrap_or_else(|| panic!("{} is in no room of the table", path.display()));
        let text = std::fs::read_to_string(&path).expect("the file can be read");
        for other in named(&text) {
            let inside = known.contains(&other.as_str()) && other != room && !allowed.contains(&other.as_str());
            if inside {
                trespasses.push(format!("{} ({room}) names {other}", path.display()));
            }
        }
    }
    assert!(trespasses.is_empty(), "{}", trespasses.join("\n"));
}

#[test]
fn only_the_gpu_room_names_wgpu() {
    let outside = rooms().into_iter().filter(|(room, _)| room != "gpu").filter(|(_, path)| {
        let text = std::fs::read_to_string(path).expect("the file can be read");
        text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("wgpu::"))
    });
    let outside: Vec<PathBuf> = outside.map(|(_, path)| path).collect();
    assert!(outside.is_empty(), "wgpu is named in {outside:?}");
}
