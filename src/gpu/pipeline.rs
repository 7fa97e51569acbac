//! Pipelines, keyed by what makes them differ, and dispatches ready to be recorded.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rayon::prelude::*;

use super::device::{Buffer, BufferPart, Device};
use super::error::GpuError;
use crate::ops::{Bind, Extent, Kernel, Step};
use crate::shader::{Binding, BindingKind, compose, emulate_matrices};

/// What makes one shader differ from another: the kernel's file and what fills its slots.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ModuleKey {
    source: &'static str,
    slots: Vec<(&'static str, String)>,
}

impl ModuleKey {
    fn of(kernel: &Kernel) -> Self {
        Self { source: kernel.source, slots: kernel.slots.clone() }
    }
}

/// A shader that pipelines of different constants are made from, or why there is none: made by the first that asks,
/// while others wait.
pub(super) type Module = Arc<OnceLock<Result<(wgpu::ShaderModule, Vec<Binding>), String>>>;

/// Everything that makes one pipeline differ from another: derived from the kernel, never written by hand.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PipelineKey {
    module: ModuleKey,
    /// Constants by name, values as bits.
    overrides: Vec<(&'static str, u64)>,
    /// Bindings behind the shader's.
    early: usize,
}

impl PipelineKey {
    fn of(kernel: &Kernel) -> Self {
        let overrides = kernel.overrides.iter().map(|(name, value)| (*name, value.to_bits()));
        let early = early(kernel).count();
        Self { module: ModuleKey::of(kernel), overrides: overrides.collect(), early }
    }
}

/// What a kernel makes readable for later ones.
fn early(kernel: &Kernel) -> impl Iterator<Item = Bind> + '_ {
    kernel.bindings.iter().filter(|(name, _)| *name == Kernel::EARLY).map(|(_, bind)| *bind)
}

/// A compiled kernel.
#[derive(Debug)]
pub(super) struct Pipeline {
    raw: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    bindings: Vec<Binding>,
}

/// A kernel with its pipeline and bind group: recorded as often as wanted.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// The kernel's file, for profiles and messages.
    pub label: &'static str,
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) bind_group: wgpu::BindGroup,
    pub(super) workgroups: [Extent; 3],
}

impl Dispatch {
    /// Whether it has anything to do in a forward.
    pub fn runs(&self, step: Step) -> bool {
        self.workgroups.iter().all(|extent| extent.count(step) > 0)
    }
}

impl Device {
    /// Compiles what is not yet compiled, in parallel: drivers take 10 to 25 ms a pipeline.
    ///
    /// # Errors
    /// A kernel the driver refuses.
    pub fn compile(&self, kernels: &[Kernel]) -> Result<(), GpuError> {
        let mut missing: Vec<&Kernel> = Vec::new();
        {
            let known = self.pipelines.lock().expect("no thread panics while it holds the pipelines");
            let mut wanted = std::collections::HashSet::new();
            for kernel in kernels {
                let key = PipelineKey::of(kernel);
                if !known.contains_key(&key) && wanted.insert(key) {
                    missing.push(kernel);
                }
            }
        }
        let (count, start) = (missing.len(), Instant::now());
        missing.into_par_iter().try_for_each(|kernel| self.pipeline(kernel).map(drop))?;
        tracing::debug!("{}: {count} pipelines compiled in {:?}", self.info.name, start.elapsed());
        Ok(())
    }

    /// Makes the dispatch of a kernel; `resolve` says what each of its bindings is, `step` is the uniform.
    ///
    /// # Errors
    /// A kernel the driver refuses, or a binding it lacks.
    pub fn dispatch<'b>(
        &self,
        kernel: &Kernel,
        step: &Buffer,
        mut resolve: impl FnMut(Bind) -> BufferPart<'b>,
    ) -> Result<Dispatch, GpuError> {
        let pipeline = self.pipeline(kernel)?;
        let refused = |reason: String| self.refused(kernel, reason);
        let mut entries = Vec::with_capacity(pipeline.bindings.len());
        for binding in &pipeline.bindings {
            let resource = if binding.name == "step" {
                step.raw.as_entire_binding()
            } else {
                let bind = kernel.bindings.iter().find(|(name, _)| *name == binding.name);
                let (_, bind) = bind.ok_or_else(|| refused(format!("nothing is bound to {}", binding.name)))?;
                resolve(*bind).resource()
            };
            entries.push(wgpu::BindGroupEntry { binding: binding.index, resource });
        }
        let behind = (pipeline.bindings.len() as u32..).zip(early(kernel));
        entries
            .extend(behind.map(|(binding, bind)| wgpu::BindGroupEntry { binding, resource: resolve(bind).resource() }));
        let bind_group = self.scoped(wgpu::ErrorFilter::Validation, || {
            self.raw.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(kernel.source),
                layout: &pipeline.layout,
                entries: &entries,
            })
        });
        Ok(Dispatch {
            label: kernel.source,
            pipeline: pipeline.raw.clone(),
            bind_group: bind_group.map_err(refused)?,
            workgroups: kernel.workgroups,
        })
    }

    fn refused(&self, kernel: &Kernel, reason: String) -> GpuError {
        let slots: Vec<&str> = kernel.slots.iter().map(|(_, file)| file.as_str()).collect();
        let kernel = format!("{} [{}]", kernel.source, slots.join(", "));
        GpuError::Pipeline { adapter: self.info.name.clone(), kernel, reason }
    }

    fn pipeline(&self, kernel: &Kernel) -> Result<Arc<Pipeline>, GpuError> {
        let key = PipelineKey::of(kernel);
        let known = |device: &Self| {
            let pipelines = device.pipelines.lock().expect("no thread panics while it holds the pipelines");
            pipelines.get(&key).cloned()
        };
        if let Some(pipeline) = known(self) {
            return Ok(pipeline);
        }
        let pipeline = Arc::new(self.build(kernel)?);
        let mut pipelines = self.pipelines.lock().expect("no thread panics while it holds the pipelines");
        Ok(pipelines.entry(key).or_insert(pipeline).clone())
    }

    fn build(&self, kernel: &Kernel) -> Result<Pipeline, GpuError> {
        let module = self.module(kernel);
        let (module, bindings) = module
            .get_or_init(|| self.build_module(kernel))
            .as_ref()
            .map_err(|reason| self.refused(kernel, reason.clone()))?;
        let built = self.scoped(wgpu::ErrorFilter::Validation, || {
            let behind = (bindings.len() as u32..).take(early(kernel).count());
            let behind = behind.map(|binding| (binding, BindingKind::Read));
            let own = bindings.iter().map(|binding| (binding.index, binding.kind));
            let entries: Vec<_> = own.chain(behind).map(layout_entry).collect();
            let layout = self.raw.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(kernel.source),
                entries: &entries,
            });
            let pipeline_layout = self.raw.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(kernel.source),
                bind_group_layouts: &[Some(&layout)],
                ..wgpu::PipelineLayoutDescriptor::default()
            });
            let raw = self.raw.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel.source),
                layout: Some(&pipeline_layout),
                module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &kernel.overrides,
                    // Kernels write workgroup memory before they read it.
                    zero_initialize_workgroup_memory: self.checks,
                },
                cache: self.kept.as_ref().map(|kept| &kept.raw),
            });
            (raw, layout)
        });
        let (raw, layout) = built.map_err(|reason| self.refused(kernel, reason))?;
        Ok(Pipeline { raw, layout, bindings: bindings.clone() })
    }

    fn module(&self, kernel: &Kernel) -> Module {
        let mut modules = self.modules.lock().expect("no thread panics while it holds the modules");
        modules.entry(ModuleKey::of(kernel)).or_default().clone()
    }

    fn build_module(&self, kernel: &Kernel) -> Result<(wgpu::ShaderModule, Vec<Binding>), String> {
        let slots: Vec<(&str, &str)> = kernel.slots.iter().map(|(slot, file)| (*slot, file.as_str())).collect();
        let composed = compose(kernel.source, &slots).map_err(|error| error.to_string())?;
        let emulated = self.emulates.then(|| emulate_matrices(&composed.wgsl));
        let make = || self.shader(kernel.source, emulated.as_ref().unwrap_or(&composed.wgsl));
        let raw = self.scoped(wgpu::ErrorFilter::Validation, make)?;
        Ok((raw, composed.bindings))
    }

    fn shader(&self, label: &str, wgsl: &str) -> wgpu::ShaderModule {
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(wgsl.into()) };
        if self.checks {
            return self.raw.create_shader_module(descriptor);
        }
        // SAFETY: the text is wgpt's own; every kernel runs in tests/ops.rs over odd sizes and with guard words behind
        // each buffer, some with these checks and some without, and its loops are bounded by constants or by `step`.
        unsafe { self.raw.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
    }
}

fn layout_entry((binding, kind): (u32, BindingKind)) -> wgpu::BindGroupLayoutEntry {
    let ty = match kind {
        BindingKind::Uniform => wgpu::BufferBindingType::Uniform,
        BindingKind::Read => wgpu::BufferBindingType::Storage { read_only: true },
        BindingKind::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
    };
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}
