//! What adapters and devices can fail with.

/// An adapter or device that could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GpuError {
    /// No adapter at all.
    #[error(
        "no GPU adapter found: install a Vulkan, Metal or DX12 driver (on Linux the package \
         mesa-vulkan-drivers brings one that runs on the CPU), or use --adapter host"
    )]
    NoAdapter,
    /// No adapter of that index or name.
    #[error("no adapter {wanted}; there are: {}", .present.join(", "))]
    UnknownAdapter {
        /// What was asked for.
        wanted: String,
        /// `index: name` of each adapter.
        present: Vec<String>,
    },
    /// Fewer adapters than asked for.
    #[error(
        "there are not {wanted} adapters but {distinct}: {}; the same one may be opened twice, as --adapters 0,0",
        .present.join(", ")
    )]
    TooFewAdapters {
        /// How many were asked for.
        wanted: usize,
        /// How many there are, each piece of hardware once.
        distinct: usize,
        /// `index: name` of each adapter.
        present: Vec<String>,
    },
    /// The host executor can't be one of several adapters.
    #[error("the host computes alone: use --adapter host, or leave it out of --adapters")]
    HostAmongAdapters,
    /// The driver refused to open a device.
    #[error("adapter \"{adapter}\" could not be opened: {reason}")]
    Open {
        /// The adapter's name.
        adapter: String,
        /// The driver's reason.
        reason: String,
    },
    /// A buffer could not be allocated.
    #[error(
        "adapter \"{adapter}\": {bytes} bytes for {label} could not be allocated ({reason}); \
         use a shorter context, a quantized checkpoint or another adapter"
    )]
    OutOfMemory {
        /// The adapter's name.
        adapter: String,
        /// What the buffer is for.
        label: String,
        /// Its size.
        bytes: u64,
        /// The driver's reason.
        reason: String,
    },
    /// Memory of the host that an adapter reads could not be had.
    #[error(
        "adapter \"{adapter}\": {bytes} bytes of host memory for {label} could not be had ({reason}); \
         close other programs or raise the limit of this one"
    )]
    HostMemory {
        /// The adapter's name.
        adapter: String,
        /// What the buffer is for.
        label: String,
        /// Its size.
        bytes: u64,
        /// The driver's reason.
        reason: String,
    },
    /// A buffer larger than the adapter can bind.
    #[error(
        "adapter \"{adapter}\": {label} needs {bytes} bytes in one buffer, the adapter's limit is {limit}; \
         use a shorter context or smaller prefill chunks"
    )]
    TooLarge {
        /// The adapter's name.
        adapter: String,
        /// What the buffer is for.
        label: String,
        /// Its size.
        bytes: u64,
        /// The adapter's limit.
        limit: u64,
    },
    /// A shader that did not compile: a defect of wgpt.
    #[error("adapter \"{adapter}\": kernel {kernel} was refused: {reason}")]
    Pipeline {
        /// The adapter's name.
        adapter: String,
        /// The kernel.
        kernel: String,
        /// The reason.
        reason: String,
    },
    /// An adapter whose kernels can't be timed.
    #[error("adapter \"{adapter}\" has no clock that single kernels can be timed by (timestamp queries inside passes)")]
    NoClock {
        /// The adapter's name.
        adapter: String,
    },
    /// The device went away or reported an error of its own.
    #[error("adapter \"{adapter}\" failed: {reason}; the KV cache on it is lost, restart to go on")]
    Lost {
        /// The adapter's name.
        adapter: String,
        /// The driver's words.
        reason: String,
    },
}
