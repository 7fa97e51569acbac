//! Compiled pipelines kept on disk between runs, where the backend lets programs keep them (Vulkan).
//!
//! One file an adapter and driver, in a folder that the caller names. What the driver's bytes mean is the driver's to
//! say; that they are the ones it gave is checked here, since drivers check no more than a header. Invariant: a file
//! that is absent, damaged, of another driver or that can't be written costs time, never a run.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::device::Device;

/// What a file begins with; a checksum of the rest follows.
const MAGIC: [u8; 8] = *b"wgptpipe";

/// Caches only grow, with every version of every kernel; one this large is begun anew.
const MOST_BYTES: usize = 256 << 20;

/// A pipeline cache with the file that it comes from and goes to.
#[derive(Debug)]
pub(super) struct KeptPipelines {
    pub(super) raw: wgpu::PipelineCache,
    file: PathBuf,
    /// Bytes of the driver's that the file is known to hold.
    held: AtomicU64,
}

/// The name of an adapter's file; `None` where the backend keeps no pipelines.
pub(super) fn file_name(info: &wgpu::AdapterInfo) -> Option<String> {
    let key = wgpu::util::pipeline_cache_key(info)?;
    let driver = format!("{} {} {}", info.name, info.driver, info.driver_info);
    Some(format!("{key}_{:016x}", checksum(driver.as_bytes())))
}

impl Device {
    /// Takes compiled pipelines from a file of this folder from now on; [`Self::save_pipelines`] writes it.
    pub fn keep_pipelines(&mut self, folder: &Path) {
        let Some(name) = self.pipeline_file.as_ref().filter(|_| self.keeps_pipelines()) else { return };
        let file = folder.join(name);
        let held = read(&file);
        // Data that is not what it should be is an error of wgpu's where it names another adapter.
        let made =
            held.as_deref().and_then(|data| self.cache(Some(data))).map(|raw| (raw, held.map_or(0, |d| d.len())));
        let made = made.or_else(|| self.cache(None).map(|raw| (raw, 0)));
        tracing::debug!(
            "{}: {} bytes of compiled pipelines",
            file.display(),
            made.as_ref().map_or(0, |(_, held)| *held)
        );
        self.kept = made.map(|(raw, held)| KeptPipelines { raw, file, held: AtomicU64::new(held as u64) });
    }

    /// Writes the compiled pipelines to their file where there are more of them than it holds, whole or not at all. Says
    /// whether it did; what can't be written is only logged.
    pub fn save_pipelines(&self) -> bool {
        let Some((kept, data)) = self.kept.as_ref().and_then(|kept| Some((kept, kept.raw.get_data()?))) else {
            return false;
        };
        if data.len() as u64 <= kept.held.load(Ordering::Relaxed) {
            return false;
        }
        match write(&kept.file, &data) {
            Ok(()) => {
                tracing::debug!("{}: {} bytes of compiled pipelines written", kept.file.display(), data.len());
                kept.held.store(data.len() as u64, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::info!("{}: compiled pipelines can't be kept: {error}", kept.file.display());
                return false;
            }
        }
        true
    }

    fn keeps_pipelines(&self) -> bool {
        self.raw.features().contains(wgpu::Features::PIPELINE_CACHE)
    }

    fn cache(&self, data: Option<&[u8]>) -> Option<wgpu::PipelineCache> {
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("wgpt"), data, fallback: true };
        // SAFETY: the data is what `get_data` of such a cache returned, as its checksum shows; wgpu and the driver check
        // that it was on this adapter and driver.
        let made =
            self.scoped(wgpu::ErrorFilter::Validation, || unsafe { self.raw.create_pipeline_cache(&descriptor) });
        made.inspect_err(|error| tracing::info!("compiled pipelines are not taken from disk: {error}")).ok()
    }
}

/// The driver's bytes of a file, where it is whole.
fn read(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(file).ok()?;
    let start = MAGIC.len() + size_of::<u64>();
    let (magic, rest) = bytes.split_at_checked(MAGIC.len())?;
    let (sum, data) = rest.split_first_chunk()?;
    let whole = magic == MAGIC && u64::from_le_bytes(*sum) == checksum(data) && data.len() <= MOST_BYTES;
    whole.then(|| bytes.split_off(start))
}

/// Writes beside the file and renames, so that no one ever reads half of one.
fn write(file: &Path, data: &[u8]) -> std::io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let partial = file.with_extension(format!("partial-{}-{number}", std::process::id()));
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let bytes = [MAGIC.as_slice(), &checksum(data).to_le_bytes(), data].concat();
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, file));
    written.inspect_err(|_| drop(std::fs::remove_file(&partial)))
}

/// FNV-1a (Fowler, Noll, Vo) by words, the last one padded with zeros, then the length.
fn checksum(bytes: &[u8]) -> u64 {
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    };
    let words = bytes.chunks(8).map(word).chain([bytes.len() as u64]);
    words.fold(0xcbf2_9ce4_8422_2325, |hash, word| (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::super::adapter::enumerate;
    use super::super::device::DeviceOptions;
    use super::*;

    #[test]
    fn every_adapter_and_driver_has_a_file_of_its_own() {
        let (_, adapter) = enumerate().into_iter().next().expect("tests need an adapter");
        let info = adapter.get_info();
        let name = file_name(&info);
        assert_eq!(name.is_some(), info.backend == wgpu::Backend::Vulkan, "only Vulkan gives pipelines away");
        let others = [
            wgpu::AdapterInfo { device: info.device + 1, ..info.clone() },
            wgpu::AdapterInfo { vendor: info.vendor + 1, ..info.clone() },
            wgpu::AdapterInfo { driver_info: "another version".into(), ..info.clone() },
        ];
        assert!(others.iter().all(|other| name.is_none() || file_name(other) != name), "{name:?}");
    }

    #[test]
    fn pipelines_of_another_adapter_are_not_taken_and_replaced() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let open = || {
            let mut device = Device::open(0, DeviceOptions::default()).expect("it opens");
            device.keep_pipelines(folder.path());
            device
        };
        let device = open();
        let Some(kept) = &device.kept else { return assert!(!device.keeps_pipelines(), "where it can, it does") };
        assert!(device.save_pipelines(), "an empty cache has a header");
        let mut data = read(&kept.file).expect("written");
        // Behind wgpu's own magic, version and word size: the backend, then the adapter.
        data[20] ^= 0xff;
        write(&kept.file, &data).expect("written, with the right checksum");
        let again = open();
        assert!(again.kept.is_some() && again.check().is_ok(), "it goes on without");
        assert!(again.save_pipelines(), "and writes its own");
        data[20] ^= 0xff;
        assert_eq!(read(&kept.file), Some(data), "as it was before");
    }

    #[test]
    fn only_whole_files_are_read() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let file = folder.path().join("deeper/pipelines");
        assert_eq!(read(&file), None, "no file");
        write(&file, b"compiled code").expect("written, its folder made");
        assert_eq!(read(&file).as_deref(), Some(b"compiled code".as_slice()), "as it was written");
        let whole = std::fs::read(&file).expect("readable");
        for length in 0..whole.len() {
            std::fs::write(&file, &whole[..length]).expect("written");
            assert_eq!(read(&file), None, "cut to {length} bytes");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&file, &damaged).expect("written");
            assert_eq!(read(&file), None, "byte {at} is another one");
        }
        let left = std::fs::read_dir(file.parent().expect("a folder")).expect("the folder").count();
        assert_eq!(left, 1, "nothing lies beside it");
    }
}
