//! Where an output lies until it is whole: beside its place, under its name and the number of the process that writes it.
//!
//! Renaming then moves no bytes, and two processes never write to one file. Invariant: only what a process that has ended
//! left is ever deleted; processes that this one can't see, as on another machine or in a container, count as ended.

use std::path::{Path, PathBuf};

use sysinfo::{IS_SUPPORTED_SYSTEM, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

const MARK: &str = ".partial-";

/// Where this process writes an output, file or folder; `None` where its path ends in no name.
pub fn partial(output: &Path) -> Option<PathBuf> {
    let mut name = output.file_name()?.to_owned();
    name.push(format!("{MARK}{}", std::process::id()));
    Some(output.with_file_name(name))
}

/// Deletes what processes that were killed have left of an output.
pub(crate) fn sweep_partials(output: &Path) {
    let Some(name) = output.file_name().map(|name| name.to_string_lossy()) else { return };
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for path in std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())) {
        let file = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let process = file.strip_prefix(&*name).and_then(|rest| rest.strip_prefix(MARK)).and_then(|id| id.parse().ok());
        if process.is_some_and(has_ended) {
            // What can't be deleted is in nobody's way.
            drop(std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path)));
        }
    }
}

/// Whether there is surely no such process.
fn has_ended(process: u32) -> bool {
    let (id, mut system) = (Pid::from_u32(process), System::new());
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[id]), true, ProcessRefreshKind::nothing());
    IS_SUPPORTED_SYSTEM && system.process(id).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ended_processes_left_is_deleted() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let output = folder.path().join("out.gguf");
        // Beyond the largest number that Linux gives a process.
        let [left, deeper] =
            ["out.gguf.partial-4194999", "out.gguf.partial-4194998"].map(|name| folder.path().join(name));
        let kept =
            ["out.gguf", "out.gguf.partial-x", "other.gguf.partial-4194999"].map(|name| folder.path().join(name));
        let own = partial(&output).expect("a name");
        for path in [&left, &own].into_iter().chain(&kept) {
            std::fs::write(path, "half").expect("written");
        }
        std::fs::create_dir(&deeper).expect("made");
        std::fs::write(deeper.join("model.safetensors"), "half").expect("written");
        sweep_partials(&output);
        assert!(!left.exists() && !deeper.exists(), "file and folder of processes that are no more");
        assert!(own.exists() && kept.iter().all(|path| path.exists()), "all else is somebody's");
    }
}
