//! The WGSL library and the composer that makes one module of a kernel and its snippets.
//!
//! A kernel is a file of `shaders/`; `#import name` inserts a file once; an import in capitals is a *slot*, bound
//! to a file when the pipeline is built (`#import WEIGHTS` to `quant/q8_0`). `@bind` stands for the next free
//! `@group(0) @binding(n)`, so that neither kernels nor snippets number their bindings. This is the only
//! variation in shaders besides WGSL's own `override`: there is no conditional text. `#for` repeats lines, for values that
//! need names of their own; `#again WEIGHTS second` inserts once more, for other buffers, what reads a slot's bindings.
//! (Tests rewrite calls of cooperative matrices, see [`emulate_matrices`].) Nothing here needs a device.

mod again;
mod compose;
mod emulate;
mod library;
mod repeat;

pub use compose::{Binding, BindingKind, Composed, ShaderError, compose};
pub use emulate::emulate_matrices;
pub use library::{KERNELS, SNIPPETS, text};
