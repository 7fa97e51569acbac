//! GPTQ: linears rounded to 4 bits one column after the other, each column's error made up for by the columns that are
//! still to come (Frantar et al. 2022, arXiv:2210.17323).
//!
//! What a layer's linears read of a calibration text gives each a Hessian `H = 2/n · Σ x xᵀ`. `targets` says which
//! linears those are, `factor` turns a Hessian into the matrix the errors are spread by, `sweep` goes over the columns,
//! `folder` writes what comes out as other engines read it. Layers are taken in order, and the linears of a layer in
//! the order of the forward: the inputs of each are computed with all before it already rounded. Forwards run on an
//! adapter, one layer at a time ([`UnitRunner`]), and so do the Hessians where that is faster ([`crate::exec::Gram`]);
//! the rest is the host's.
//!
//! Embedding, head, norms, routers and experts keep their numbers. Invariant: no more than one layer's weights and one
//! Hessian are in memory, besides the calibration text's hidden states.

mod factor;
mod folder;
mod foresee;
mod sweep;
mod targets;

use std::fmt;
use std::path::PathBuf;

pub use folder::to_folder;
pub use foresee::foresee;
pub use sweep::{Rounded, round_linear};

use crate::checkpoint::{Checkpoint, CheckpointError, GptqCodes, GptqLinear};
use crate::exec::{
    Activations, ExecError, ExecOptions, UnitInput, UnitPlace, UnitRunner, WeightSource, describe_checkpoint,
    lower_checkpoint,
};
use crate::graph::{Graph, Quantize, Weight};
use crate::model::WeightRole;
use crate::ops::KvFormat;
use crate::quant::{BlockFormat, F16, F32};
use targets::{Stage, Target, Targets};

/// How to round.
#[derive(Debug, Clone, Copy)]
pub struct GptqOptions {
    /// Inputs that share a scale and a zero point; none for all of an output's.
    pub group_size: Option<usize>,
    /// Round the columns with the largest inputs first.
    pub act_order: bool,
    /// Added to the Hessian's diagonal, as a share of its mean.
    pub damp: f64,
    /// Round weights that are quantized already too.
    pub requantize: bool,
}

impl Default for GptqOptions {
    fn default() -> Self {
        Self { group_size: Some(128), act_order: false, damp: 0.01, requantize: false }
    }
}

/// Tokens of a window of the calibration text, where the model's context is not shorter.
pub const WINDOW: usize = 512;

/// Windows of a calibration text at most: more costs time and changes little.
pub const MAX_WINDOWS: usize = 256;

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub enum Progress {
    /// Weights that will be rounded.
    Total(u64),
    /// Weights rounded since the last one.
    Rounded(u64),
}

/// What was done.
#[derive(Debug, Clone)]
pub struct GptqReport {
    /// The group size that was used.
    pub group_size: Option<usize>,
    /// The one asked for.
    pub wanted: Option<usize>,
    /// Linears rounded.
    pub rounded: usize,
    /// Linears that keep their numbers, by the reason.
    pub kept: Vec<(String, usize)>,
    /// Things a user should be told once.
    pub notices: Vec<String>,
    /// Tokens of the calibration text that were used.
    pub tokens: usize,
    /// Where it ran.
    pub place: String,
}

/// What can be in the way.
#[derive(Debug, thiserror::Error)]
pub enum GptqError {
    /// The model can't be loaded or run.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The checkpoint can't be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Less text than one window.
    #[error(
        "the calibration text has {tokens} tokens, too few to fill one window of {window}; give a longer one (some \
         10 000 tokens and more of what the model is to write)"
    )]
    TooShort {
        /// What it has.
        tokens: usize,
        /// What a window takes.
        window: usize,
    },
    /// Weights that were rounded before.
    #[error(
        "tensor \"{tensor}\" is quantized already, to {format}: rounding twice is worse than either alone; take the \
         original checkpoint, or say --requantize"
    )]
    Quantized {
        /// Which.
        tensor: String,
        /// To what.
        format: &'static str,
    },
    /// A group size that no linear's rows are multiples of.
    #[error("--group-size {wanted} and all smaller ones divide no linear of this model: rows of {rows}")]
    GroupSize {
        /// What was asked for.
        wanted: String,
        /// The row lengths there are.
        rows: String,
    },
    /// Activations that are not numbers.
    #[error(
        "layer {layer}: what \"{tensor}\" reads of the calibration text is NaN or infinite: is the checkpoint sound?"
    )]
    NotFinite {
        /// Which layer.
        layer: String,
        /// One of the linears that read it.
        tensor: String,
    },
    /// A Hessian that stays without an inverse.
    #[error("layer {layer}: the Hessian of \"{tensor}\" has no inverse, even damped; give a longer calibration text")]
    Singular {
        /// Which layer.
        layer: String,
        /// The linear.
        tensor: String,
    },
    /// Weights that are not numbers.
    #[error(
        "{}: tensor \"{tensor}\": row {row}, weight {column} is {value}, which no code stands for; the file is damaged: \
         fetch or convert it again",
        .file.display()
    )]
    Weight {
        /// The file it is in.
        file: PathBuf,
        /// Which.
        tensor: String,
        /// Its output.
        row: usize,
        /// Its input.
        column: usize,
        /// What is there.
        value: f32,
    },
    /// Weights beyond the scales of the layout.
    #[error("tensor \"{tensor}\": row {row} has weights that need a scale beyond what f16 holds")]
    Scale {
        /// Which.
        tensor: String,
        /// Its row.
        row: usize,
    },
    /// A checkpoint that can't be written as a folder.
    #[error("{}: {reason}", .path.display())]
    NotWritten {
        /// The checkpoint or the output.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Cuts the tokens of a calibration text into windows; of a long text some, spread evenly.
///
/// # Errors
/// Too few tokens for one window.
pub fn windows(tokens: &[u32], max_context_length: u32) -> Result<Vec<&[u32]>, GptqError> {
    // The Hessian takes rows by fours.
    let window = WINDOW.min(max_context_length as usize / 4 * 4).max(4);
    let all: Vec<&[u32]> = tokens.chunks_exact(window).collect();
    if all.is_empty() {
        return Err(GptqError::TooShort { tokens: tokens.len(), window });
    }
    let count = all.len().min(MAX_WINDOWS);
    Ok((0..count).map(|index| all[index * all.len() / count]).collect())
}

/// Rounds a checkpoint's linears, layer by layer. `texts` are windows of equal length; `take` gets each linear as soon
/// as its layer is done.
///
/// # Errors
/// A checkpoint that can't be read or run, linears that are quantized already or that no group size divides, or what
/// `take` says.
pub fn quantize(
    checkpoint: &Checkpoint,
    texts: &[Vec<u32>],
    options: &GptqOptions,
    exec: &ExecOptions,
    progress: &mut dyn FnMut(Progress),
    take: &mut dyn FnMut(GptqLinear) -> Result<(), GptqError>,
) -> Result<GptqReport, GptqError> {
    let tokens = texts.first().map_or(0, Vec::len);
    let graph = working_graph(checkpoint, tokens as u32, exec, options.requantize)?;
    let targets = Targets::of(checkpoint, &graph, options)?;
    progress(Progress::Total(targets.weights()));
    let mut calibration = Calibration {
        checkpoint,
        graph: &graph,
        group_size: targets.group_size,
        options,
        tokens: tokens as u32,
        hidden: Vec::new(),
        place: UnitPlace::open(exec)?,
    };
    let place = calibration.place.name().to_owned();
    calibration.embed(texts)?;
    let mut rounded = 0;
    for (unit, stages) in &targets.layers {
        for linear in calibration.layer(*unit, stages, progress)? {
            rounded += 1;
            take(linear)?;
        }
    }
    Ok(targets.report(options, rounded, tokens * texts.len(), place))
}

/// The model in the numbers that calibration computes with: f32 where weights are, else f16.
fn working_graph(
    checkpoint: &Checkpoint,
    tokens: u32,
    exec: &ExecOptions,
    requantize: bool,
) -> Result<Graph, GptqError> {
    let spec = describe_checkpoint(checkpoint)?;
    let mut format: &'static dyn BlockFormat = &F16;
    for (role, weight) in spec.weights() {
        let view = checkpoint.tensor(&weight.parts[0].tensor)?;
        if role == WeightRole::Linear && view.format.name() == F32.name() {
            format = &F32;
        }
        if role == WeightRole::Linear && !requantize && (view.format.block_len() > 1 || view.is_composed()) {
            return Err(GptqError::Quantized { tensor: view.name.into(), format: view.format.name() });
        }
    }
    let exec = ExecOptions {
        context_length: Some(tokens),
        kv_format: Some(KvFormat::F32),
        activations: Some(Activations::F32),
        apart: true,
        quantize: Some(Quantize { format, head: Some(format), requantize: true }),
        ..exec.clone()
    };
    Ok(lower_checkpoint(checkpoint, &exec)?.1)
}

/// A model on its way through calibration.
struct Calibration<'c> {
    checkpoint: &'c Checkpoint,
    graph: &'c Graph,
    group_size: Option<usize>,
    options: &'c GptqOptions,
    /// Of a window.
    tokens: u32,
    /// What the next unit reads, by window: f32 `(tokens, hidden_size)`.
    hidden: Vec<Vec<f32>>,
    place: UnitPlace,
}

impl Calibration<'_> {
    /// Loads a unit, hands it to `with`, unloads it.
    fn with_unit<R>(
        &mut self,
        checkpoint: &Checkpoint,
        unit: usize,
        with: impl FnOnce(&mut UnitRunner<'_>, &mut Vec<Vec<f32>>) -> Result<R, ExecError>,
    ) -> Result<R, GptqError> {
        let place = std::mem::replace(&mut self.place, UnitPlace::Host);
        let mut runner = UnitRunner::new(place, self.graph, unit, self.tokens, WeightSource::new(checkpoint))?;
        let result = with(&mut runner, &mut self.hidden)?;
        self.place = runner.into_place();
        Ok(result)
    }

    fn embed(&mut self, texts: &[Vec<u32>]) -> Result<(), GptqError> {
        let (end, output) = (self.graph.units[0].nodes.end, self.graph.units[0].output);
        self.hidden = self.with_unit(self.checkpoint, 0, |runner, _| {
            texts.iter().map(|text| runner.run(UnitInput::Tokens(text), end, output)).collect()
        })?;
        Ok(())
    }

    /// Rounds a layer's linears and leaves in `hidden` what the layer makes with them.
    fn layer(
        &mut self,
        unit: usize,
        stages: &[Stage],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<GptqLinear>, GptqError> {
        let mut linears: Vec<GptqLinear> = Vec::new();
        for stage in stages {
            let hessian = self.hessian(unit, stage, &linears)?;
            linears.extend(self.round(unit, stage, hessian, progress)?);
        }
        let rounded = self.checkpoint.with_gptq(&linears);
        let (end, output) = (self.graph.units[unit].nodes.end, self.graph.units[unit].output);
        self.with_unit(&rounded, unit, |runner, hidden| {
            for hidden in hidden {
                *hidden = runner.run(UnitInput::Hidden(hidden), end, output)?;
            }
            Ok(())
        })?;
        Ok(linears)
    }

    /// `2/n · Σ x xᵀ` of what a stage's linears read, with `linears` in place of those before them.
    fn hessian(&mut self, unit: usize, stage: &Stage, linears: &[GptqLinear]) -> Result<Vec<f32>, GptqError> {
        let rounded = self.checkpoint.with_gptq(linears);
        let width = stage.targets[0].cols;
        let (mut hessian, rows) = self.with_unit(&rounded, unit, |runner, hidden| {
            let mut gram = runner.gram(width)?;
            for hidden in hidden {
                let x = runner.run(UnitInput::Hidden(hidden), stage.node, stage.x)?;
                gram.add(runner.device(), &x)?;
            }
            let rows = gram.rows();
            Ok((gram.finish(runner.device())?, rows))
        })?;
        hessian.iter_mut().for_each(|sum| *sum *= 2.0 / rows as f32);
        if hessian.iter().any(|sum| !sum.is_finite()) {
            let (layer, tensor) = (self.graph.units[unit].name.clone(), stage.targets[0].tensor.clone());
            return Err(GptqError::NotFinite { layer, tensor });
        }
        Ok(hessian)
    }

    fn round(
        &self,
        unit: usize,
        stage: &Stage,
        hessian: Vec<f32>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<GptqLinear>, GptqError> {
        let cols = stage.targets[0].cols;
        let singular = || {
            let (layer, tensor) = (self.graph.units[unit].name.clone(), stage.targets[0].tensor.clone());
            GptqError::Singular { layer, tensor }
        };
        let factor = factor::Factor::new(&hessian, cols, self.options).ok_or_else(singular)?;
        drop(hessian);
        let mut linears = Vec::with_capacity(stage.targets.len());
        for target in &stage.targets {
            let weights = self.weights(target)?;
            let rounded = sweep::sweep(&weights, &factor, self.group_size);
            if let Some(at) = rounded.scales.iter().position(|scale| !scale.is_finite()) {
                let row = at / (rounded.scales.len() / target.rows);
                return Err(GptqError::Scale { tensor: target.tensor.clone(), row });
            }
            let contents = GptqCodes {
                codes: &rounded.codes,
                scales: &rounded.scales,
                zeros: &rounded.zeros,
                group_of: &rounded.group_of,
            };
            linears.push(GptqLinear::pack(target.tensor.clone(), self.group_size, contents));
            progress(Progress::Rounded((target.rows * target.cols) as u64));
        }
        Ok(linears)
    }

    /// f32 `(rows, cols)`: outputs by inputs, however they are stored. All are numbers: rounding takes NaN for none.
    fn weights(&self, target: &Target) -> Result<Vec<f32>, GptqError> {
        let weight = Weight { specs: vec![target.spec.clone()], format: &F32, ordered: false };
        let mut values = Vec::with_capacity(target.rows * target.cols);
        WeightSource::new(self.checkpoint).stored(&weight, |stored: &[u8]| -> Result<(), ExecError> {
            values.extend(stored.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
            Ok(())
        })?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let (tensor, row, column) = (target.tensor.clone(), at / target.cols, at % target.cols);
            let file = self.checkpoint.tensor(&tensor)?.file.to_owned();
            return Err(GptqError::Weight { file, tensor, row, column, value: values[at] });
        }
        Ok(values)
    }
}

impl fmt::Display for GptqReport {
    /// `gptq.int4: 28 linears in 4 bits, groups of 128, calibrated on 10 240 tokens on …; …`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, kept) = self.parts();
        write!(f, "{what}, calibrated with {} tokens on {}{kept}", self.tokens, self.place)
    }
}

impl GptqReport {
    /// What is done to which linears.
    fn summary(&self) -> String {
        let (what, kept) = self.parts();
        what + &kept
    }

    fn parts(&self) -> (String, String) {
        let groups = self.group_size.map_or("one group a row".to_owned(), |size| format!("groups of {size}"));
        let kept = self.kept.iter().map(|(reason, count)| format!("; {count} kept as they are: {reason}"));
        (format!("gptq.int4: {} linears in 4 bits, {groups}", self.rounded), kept.collect())
    }
}
