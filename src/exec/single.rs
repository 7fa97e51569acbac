//! One op alone, on an adapter and by its reference: what tests and benches run cases with.

use half::f16;

use super::ExecError;
use crate::gpu::{Buffer, BufferPart, Device, Dispatch, GpuError, Usage};
use crate::ops::{
    Bind, Call, Case, CaseInput, CaseValue, HostInput, HostSlice, HostWeight, Kernel, Numbers, Operand, Phase,
    StateType, Step, Traits, decode_q8, encode_q8,
};
use crate::tensor::{DType, Dim, Extents, TensorType};

/// Words behind every output that no kernel may touch.
const GUARD: [u32; 64] = [0xA5A5_5A5A; 64];

/// A case with its operands filled, ready to be run anywhere.
#[derive(Debug)]
pub struct FilledCase<'c> {
    case: &'c Case,
    step: Step,
    inputs: Vec<CaseValue>,
    outputs: Vec<CaseValue>,
}

/// A case on a device: buffers and dispatches made, to be run as often as wanted.
#[derive(Debug)]
pub struct PreparedCase {
    step: Step,
    outputs: Vec<(Buffer, u64, Stored)>,
    /// Those of one run, once for each copy of the weights.
    dispatches: Vec<Dispatch>,
    kernels: usize,
}

/// An operand's buffers, one or one a slice, with their lengths.
type Slices = Vec<(Buffer, u64)>;

/// A case's operands on a device.
#[derive(Debug)]
pub struct PlacedCase<'c> {
    case: &'c Case,
    /// Rows that its kernels compute.
    rows: u32,
    forward: Step,
    step: Buffer,
    /// Each copy's.
    inputs: Vec<Vec<Slices>>,
    outputs: Vec<(Buffer, u64, Stored)>,
    types: Vec<Operand>,
    output_types: Vec<Operand>,
    largest: Extents,
}

/// How an output's values lie in its buffer.
#[derive(Debug, Clone, Copy)]
enum Stored {
    F32,
    /// Divided by this.
    F16(f32),
    /// A key or value cache.
    State(StateType),
    /// Rows of so many values in 8-bit blocks.
    Q8(usize),
}

/// What a kernel wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseResult {
    /// Each output's values.
    pub outputs: Vec<Vec<f32>>,
    /// Whether the guard words behind each output are as they were.
    pub guards_intact: bool,
}

impl<'c> FilledCase<'c> {
    /// Fills a case's operands with the numbers of a seed.
    pub fn new(case: &'c Case, seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let mut fill = |operands: &[CaseInput]| -> Vec<CaseValue> {
            operands.iter().map(|operand| operand.fill(case.step, &mut numbers)).collect()
        };
        let inputs = fill(&case.inputs);
        Self { case, step: case.step, inputs, outputs: fill(&case.outputs) }
    }

    /// Rows that its kernels compute.
    pub fn rows(&self) -> u32 {
        let of = |(ty, _): (&TensorType, f32)| ty.shape[0].length(self.step.extents());
        self.case.outputs[0].activation().map_or(self.step.tokens, of)
    }

    /// The one row `row` of it: the forward of its token alone, after those before it.
    pub fn row(&self, row: u32) -> Self {
        let all = self.step.extents();
        let token = match &self.case.outputs[0] {
            CaseInput::Activation(ty) if ty.shape[0] == Dim::LogitRows => all.tokens - all.logit_rows + row,
            _ => row,
        };
        let one = |(value, input): (&CaseValue, &CaseInput)| {
            let (at, of) = match input {
                CaseInput::Activation(ty) if ty.shape[0] == Dim::LogitRows => (row, all.logit_rows),
                CaseInput::Activation(_)
                | CaseInput::Large(..)
                | CaseInput::Tokens { .. }
                | CaseInput::Selection { .. } => (token, all.tokens),
                _ => return value.clone(),
            };
            value.nth_of(at as usize, of as usize)
        };
        let of_row = |values: &[CaseValue], inputs: &[CaseInput]| values.iter().zip(inputs).map(one).collect();
        Self {
            case: self.case,
            step: Step::new(1, self.step.position + token, 1),
            inputs: of_row(&self.inputs, &self.case.inputs),
            outputs: of_row(&self.outputs, &self.case.outputs),
        }
    }

    /// The reference's outputs.
    pub fn reference(&self) -> Vec<Vec<f32>> {
        let inputs: Vec<HostInput<'_>> = self.inputs.iter().map(host_input).collect();
        let mut outputs: Vec<Vec<f32>> = self.outputs.iter().map(|value| value_slice(value).to_vec()).collect();
        let mut views: Vec<&mut [f32]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        self.case.op.reference(self.step, &inputs, &mut views);
        outputs
    }

    /// Uploads the operands and makes the dispatches.
    ///
    /// # Errors
    /// A device that refuses a buffer or a kernel.
    pub fn prepare(&self, device: &Device) -> Result<PreparedCase, ExecError> {
        self.place(device, 1)?.prepare(device, &device.traits)
    }

    /// Uploads the operands, its weights so many times over: runs that take them in turn find none in a cache.
    ///
    /// # Errors
    /// A device that refuses a buffer.
    pub fn place(&self, device: &Device, copies: usize) -> Result<PlacedCase<'_>, ExecError> {
        let step = device.buffer("step", size_of::<Step>() as u64, Usage::Uniform)?;
        device.write(&step, 0, bytemuck::bytes_of(&self.step));
        let largest = self.largest();
        let [types, output_types] = self.operands(&device.traits);
        let stored = [(&self.inputs, &types), (&self.outputs, &output_types)];
        let [inputs, outputs] =
            stored.map(|(values, types)| values.iter().zip(types).map(as_taken).collect::<Vec<_>>());
        // Activations have room for whole groups of rows, as those of a plan.
        let room = |operand: &Operand| match operand {
            Operand::Activation(ty) => ty.bytes(largest),
            _ => 0,
        };
        let upload_all = |values: &[CaseValue], operands: &[Operand]| -> Result<Vec<Slices>, GpuError> {
            values.iter().zip(operands).map(|(value, operand)| upload(device, value, room(operand))).collect()
        };
        let first = upload_all(&inputs, &types)?;
        let mut placed = vec![first.clone()];
        while placed.len() < copies.max(1) {
            // What is staged for uploads is freed.
            device.flush()?;
            let copy = |(value, first): (&CaseValue, &Slices)| match value {
                CaseValue::Weight(..) => upload(device, value, 0),
                _ => Ok(first.clone()),
            };
            placed.push(inputs.iter().zip(&first).map(copy).collect::<Result<_, GpuError>>()?);
        }
        let formats = outputs.iter().map(|value| match value {
            CaseValue::State(ty, _) => Stored::State(*ty),
            CaseValue::Q8(_, cols) => Stored::Q8(*cols),
            CaseValue::F16(_, scale) => Stored::F16(*scale),
            _ => Stored::F32,
        });
        let outputs = upload_all(&outputs, &output_types)?.into_iter().zip(formats).map(|(mut made, stored)| {
            let (buffer, bytes) = made.swap_remove(0);
            (buffer, bytes, stored)
        });
        Ok(PlacedCase {
            case: self.case,
            rows: self.rows(),
            forward: self.step,
            step,
            inputs: placed,
            outputs: outputs.collect(),
            types,
            output_types,
            largest,
        })
    }

    /// Types of its inputs and outputs on an adapter of these traits.
    fn operands(&self, traits: &Traits) -> [Vec<Operand>; 2] {
        let operands = |values: &[CaseValue], cases: &[CaseInput]| -> Vec<Operand> {
            values.iter().zip(cases).map(|(value, case)| operand(value, case)).collect()
        };
        let (inputs, outputs) =
            (operands(&self.inputs, &self.case.inputs), operands(&self.outputs, &self.case.outputs));
        let phase = Phase::of(self.rows(), self.step.tokens);
        self.case.taken(&Call { phase, inputs: &inputs, outputs: &outputs, traits, largest: self.largest() })
    }

    /// What activations have room for.
    fn largest(&self) -> Extents {
        let Extents { tokens, logit_rows } = self.step.extents();
        Extents { tokens: tokens.next_multiple_of(16), logit_rows: logit_rows.next_multiple_of(16) }
    }
}

impl PlacedCase<'_> {
    /// The kernels that an adapter of these traits would run.
    pub fn kernels(&self, traits: &Traits) -> Vec<Kernel> {
        let phase = Phase::of(self.rows, self.forward.tokens);
        let (inputs, outputs, largest) = (&self.types, &self.output_types, self.largest);
        self.case.op.kernels(&Call { phase, inputs, outputs, traits, largest })
    }

    /// Makes the dispatches that an adapter of these traits would run.
    ///
    /// # Errors
    /// A device that refuses a kernel.
    pub fn prepare(&self, device: &Device, traits: &Traits) -> Result<PreparedCase, ExecError> {
        let kernels = self.kernels(traits);
        let scratch_count = kernels.iter().map(|kernel| kernel.scratch.len()).max().unwrap_or(0);
        let scratch_bytes = |n| kernels.iter().filter_map(|k| k.scratch.get(n)).max().copied().unwrap_or(0);
        let scratch: Vec<Buffer> = (0..scratch_count)
            .map(|n| device.buffer("scratch", scratch_bytes(n), Usage::Activations))
            .collect::<Result<_, GpuError>>()?;
        let mut dispatches = Vec::new();
        for (inputs, kernel) in self.inputs.iter().flat_map(|inputs| kernels.iter().map(move |kernel| (inputs, kernel)))
        {
            dispatches.push(device.dispatch(kernel, &self.step, |bind| match bind {
                Bind::Input(n) => whole(&inputs[n][0].0),
                Bind::Output(n) => whole(&self.outputs[n].0),
                Bind::Scratch(n) => scratch[n].whole(),
                Bind::Tensor(tensor) | Bind::TensorWeight { tensor, .. } => {
                    panic!("tensor {tensor} of no graph is bound")
                }
                Bind::Weight { input, slice, region } => {
                    let Operand::Weight(weight) = &self.types[input] else {
                        panic!("input {input} is bound as a weight")
                    };
                    let range = &weight.slices[slice].1.regions[region];
                    inputs[input][slice].0.part(range.start, range.end - range.start)
                }
            })?);
        }
        let (step, kernels) = (self.forward, kernels.len());
        Ok(PreparedCase { step, outputs: self.outputs.clone(), dispatches, kernels })
    }
}

impl PreparedCase {
    /// Runs the kernels `times` over, each copy of the weights in turn, without waiting.
    ///
    /// # Errors
    /// A lost device.
    pub fn submit(&self, device: &Device, times: usize) -> Result<(), ExecError> {
        let repeated = self.dispatches.iter().cycle().take(times * self.kernels);
        Ok(device.submit(self.step, repeated, &[], None)?)
    }

    /// Runs the kernels once and fetches the outputs.
    ///
    /// # Errors
    /// A lost device.
    pub fn run(&self, device: &Device) -> Result<CaseResult, ExecError> {
        let parts: Vec<(&Buffer, u64, u64)> =
            self.outputs.iter().map(|(buffer, ..)| (buffer, 0, buffer.bytes())).collect();
        let bytes = parts.iter().map(|(_, _, bytes)| bytes).sum();
        let readback = device.readback("case", bytes)?;
        device.submit(self.step, self.dispatches[..self.kernels].iter(), &parts, Some(&readback))?;
        let all = device.read(&readback, bytes, <[u8]>::to_vec)?;
        let mut at = 0;
        let mut result = CaseResult { outputs: Vec::new(), guards_intact: true };
        for (buffer, bytes, state) in &self.outputs {
            let whole = &all[at..at + buffer.bytes() as usize];
            let (values, guard) = whole.split_at(*bytes as usize);
            result.guards_intact &=
                guard[guard.len() - size_of_val(&GUARD)..] == *bytemuck::cast_slice::<u32, u8>(&GUARD);
            result.outputs.push(decode(values, *state));
            at += buffer.bytes() as usize;
        }
        Ok(result)
    }
}

/// A value as its operand is stored: what could be f16 may be f32.
fn as_taken((value, operand): (&CaseValue, &Operand)) -> CaseValue {
    match value {
        CaseValue::F16(values, _) if !operand.is_f16() => CaseValue::F32(values.clone()),
        other => other.clone(),
    }
}

/// All but the guard words.
fn whole(buffer: &Buffer) -> BufferPart<'_> {
    buffer.part(0, buffer.bytes() - size_of_val(&GUARD) as u64)
}

fn decode(bytes: &[u8], stored: Stored) -> Vec<f32> {
    match stored {
        Stored::Q8(cols) => decode_q8(bytes, cols),
        Stored::State(state) => state.decode(bytes),
        Stored::F16(scale) => {
            let halves = bytes.chunks_exact(2).map(|half| f16::from_le_bytes([half[0], half[1]]));
            halves.map(|half| half.to_f32() * scale).collect()
        }
        Stored::F32 => {
            bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
        }
    }
}

/// The operand's buffers (one, or one a slice) with their lengths; guard words follow, behind `room` bytes at least.
fn upload(device: &Device, value: &CaseValue, room: u64) -> Result<Slices, GpuError> {
    let with_guard = |bytes: &[u8]| {
        let length = bytes.len().next_multiple_of(4) as u64;
        let buffer =
            device.buffer("case", length.max(room).max(16) + size_of_val(&GUARD) as u64, Usage::Activations)?;
        let mut padded = bytes.to_vec();
        padded.resize(length as usize, 0);
        device.write(&buffer, 0, &padded);
        let end = buffer.bytes() - size_of_val(&GUARD) as u64;
        device.write(&buffer, end, bytemuck::cast_slice(&GUARD));
        Ok((buffer, length))
    };
    match value {
        CaseValue::F32(values) => Ok(vec![with_guard(bytemuck::cast_slice(values))?]),
        CaseValue::U32(values) => Ok(vec![with_guard(bytemuck::cast_slice(values))?]),
        CaseValue::F16(values, scale) => {
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value / scale)).collect();
            Ok(vec![with_guard(bytemuck::cast_slice(&halves))?])
        }
        CaseValue::Q8(values, cols) => Ok(vec![with_guard(&encode_q8(values, *cols))?]),
        CaseValue::Weight(_, slices) => slices.iter().map(|bytes| with_guard(bytes)).collect(),
        CaseValue::State(ty, values) => Ok(vec![with_guard(&ty.encode(values))?]),
    }
}

fn operand(value: &CaseValue, case: &CaseInput) -> Operand {
    if let Some((ty, _)) = case.activation() {
        return Operand::Activation(ty.clone());
    }
    match (value, case) {
        (CaseValue::Weight(ty, _), _) => Operand::Weight(ty.clone()),
        (CaseValue::State(ty, _), _) => Operand::State(*ty),
        (CaseValue::U32(_), _) => Operand::Activation(TensorType { dtype: DType::U32, shape: vec![Dim::Tokens] }),
        (CaseValue::F32(values) | CaseValue::F16(values, _) | CaseValue::Q8(values, _), _) => {
            Operand::Vector(values.len())
        }
    }
}

fn value_slice(value: &CaseValue) -> &[f32] {
    match value {
        CaseValue::F32(values) | CaseValue::F16(values, _) | CaseValue::Q8(values, _) | CaseValue::State(_, values) => {
            values
        }
        other => panic!("not an output: {other:?}"),
    }
}

fn host_input(value: &CaseValue) -> HostInput<'_> {
    match value {
        CaseValue::F32(values) | CaseValue::F16(values, _) | CaseValue::Q8(values, _) | CaseValue::State(_, values) => {
            HostInput::F32(values)
        }
        CaseValue::U32(ids) => HostInput::U32(ids),
        CaseValue::Weight(ty, packed) => {
            let slices = ty.slices.iter().zip(packed);
            let slices = slices.map(|((first_row, layout), bytes)| HostSlice { first_row: *first_row, layout, bytes });
            HostInput::Weight(HostWeight { format: ty.format, rows: ty.rows, cols: ty.cols, slices: slices.collect() })
        }
    }
}
