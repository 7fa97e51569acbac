//! From a kernel's name and its slots to checked WGSL and the list of its bindings.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::again::again;
use super::library::text;
use super::repeat::repeat;

/// A composed, parsed and validated kernel.
#[derive(Debug, Clone)]
pub struct Composed {
    /// The whole module.
    pub wgsl: String,
    /// Its bindings in group 0, by binding number.
    pub bindings: Vec<Binding>,
}

/// One resource binding of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The WGSL variable's name; ops bind by it.
    pub name: String,
    /// Its number in group 0.
    pub index: u32,
    /// How the kernel uses it.
    pub kind: BindingKind,
}

/// How a kernel uses a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindingKind {
    /// `var<uniform>`
    Uniform,
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    ReadWrite,
}

/// What can be wrong with a kernel's text. Always a defect of wgpt, found by `tests/shaders.rs`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ShaderError {
    /// No such file in the library.
    #[error("shader {kernel}: no file \"{file}\" in the library")]
    MissingFile {
        /// The kernel composed.
        kernel: String,
        /// The file imported.
        file: String,
    },
    /// A slot that nothing was bound to.
    #[error("shader {kernel}: slot {slot} is not bound")]
    UnboundSlot {
        /// The kernel composed.
        kernel: String,
        /// The slot's name.
        slot: String,
    },
    /// A repetition that is none, or text that naga refused.
    #[error("shader {kernel}: {message}")]
    Invalid {
        /// The kernel composed.
        kernel: String,
        /// What is wrong; naga's words, with the line.
        message: String,
    },
}

/// Composes `kernel` (a name such as `gemv`) with its slots (`("WEIGHTS", "quant/q8_0")`), then parses and
/// validates the result and lists its bindings.
///
/// # Errors
/// A missing file, an unbound slot, or text that naga refuses.
pub fn compose(kernel: &str, slots: &[(&str, &str)]) -> Result<Composed, ShaderError> {
    let mut composer = Composer { kernel, slots, seen: BTreeSet::new(), enables: BTreeSet::new(), body: String::new() };
    composer.insert(kernel)?;
    let mut wgsl = String::new();
    for enable in &composer.enables {
        let _ = writeln!(wgsl, "{enable}");
    }
    let body = repeat(&composer.body).map_err(|message| ShaderError::Invalid { kernel: kernel.into(), message })?;
    wgsl.push_str(&number_bindings(&body));
    let bindings = reflect(kernel, &wgsl)?;
    Ok(Composed { wgsl, bindings })
}

struct Composer<'a> {
    kernel: &'a str,
    slots: &'a [(&'a str, &'a str)],
    seen: BTreeSet<String>,
    enables: BTreeSet<String>,
    body: String,
}

impl Composer<'_> {
    fn insert(&mut self, file: &str) -> Result<(), ShaderError> {
        if !self.seen.insert(file.to_owned()) {
            return Ok(());
        }
        let missing = || ShaderError::MissingFile { kernel: self.kernel.into(), file: file.into() };
        let source = text(file).ok_or_else(missing)?;
        for line in source.lines() {
            if let Some(import) = line.strip_prefix("#import ") {
                let file = self.resolve(import.trim())?;
                self.insert(&file)?;
            } else if let Some((slot, prefix)) = line.strip_prefix("#again ").and_then(|again| again.split_once(' ')) {
                let file = self.resolve(slot)?;
                let mut alone =
                    Composer { seen: BTreeSet::new(), enables: BTreeSet::new(), body: String::new(), ..*self };
                alone.insert(&file)?;
                self.body.push_str(&again(&alone.body, prefix));
            } else if line.starts_with("enable ") {
                // WGSL wants them before every declaration.
                self.enables.insert(line.to_owned());
            } else {
                self.body.push_str(line);
                self.body.push('\n');
            }
        }
        Ok(())
    }

    fn resolve(&self, import: &str) -> Result<String, ShaderError> {
        if import.chars().any(|c| c.is_ascii_lowercase()) {
            return Ok(format!("lib/{import}"));
        }
        let slot = self.slots.iter().find(|(slot, _)| *slot == import);
        slot.map(|(_, file)| (*file).to_owned())
            .ok_or_else(|| ShaderError::UnboundSlot { kernel: self.kernel.into(), slot: import.into() })
    }
}

fn number_bindings(body: &str) -> String {
    let mut numbered = String::with_capacity(body.len() + 256);
    for (number, part) in body.split("@bind ").enumerate() {
        if number > 0 {
            let _ = write!(numbered, "@group(0) @binding({}) ", number - 1);
        }
        numbered.push_str(part);
    }
    numbered
}

fn reflect(kernel: &str, wgsl: &str) -> Result<Vec<Binding>, ShaderError> {
    let invalid = |message: String| ShaderError::Invalid { kernel: kernel.into(), message };
    let options = naga::front::wgsl::Options {
        capabilities: naga::valid::Capabilities::all(),
        ..naga::front::wgsl::Options::new()
    };
    let module = naga::front::wgsl::Frontend::new_with_options(options)
        .parse(wgsl)
        .map_err(|error| invalid(error.emit_to_string(wgsl)))?;
    naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
        .validate(&module)
        .map_err(|error| invalid(error.emit_to_string(wgsl)))?;
    let mut bindings: Vec<Binding> = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| {
            let kind = match variable.space {
                naga::AddressSpace::Uniform => BindingKind::Uniform,
                naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => {
                    BindingKind::ReadWrite
                }
                naga::AddressSpace::Storage { .. } => BindingKind::Read,
                _ => return None,
            };
            let index = variable.binding.as_ref()?.binding;
            Some(Binding { name: variable.name.clone()?, index, kind })
        })
        .collect();
    bindings.sort_by_key(|binding| binding.index);
    Ok(bindings)
}
