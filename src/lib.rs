//! wgpt: LLM inference on any GPU, through wgpu.
//!
//! # The house
//! A room imports only rooms below it; `tests/layering.rs` holds the table and enforces it.
//!
//! | floor | room | what lives there |
//! |---|---|---|
//! | 4 | `cli` | arguments, commands, printing |
//! | 4 | [`convert`] | a checkpoint written as a GGUF file, quantized |
//! | 4 | [`gptq`] | linears rounded to 4 bits by what a calibration text makes of them |
//! | 4 | [`session`] | prefill, decode, drafts, token stream, stop conditions |
//! | 3 | [`exec`] | weights placed, steps played: on adapters or on the host |
//! | 3 | [`gpu`] | the only room that names wgpu |
//! | 3 | [`plan`] | units on adapters under memory budgets, as data |
//! | 2 | [`graph`] | a model lowered to a straight line of ops |
//! | 2 | [`ops`] | one file an op: shape rule, kernel, CPU reference, test cases |
//! | 2 | [`model`] | one file a family: config to `ModelSpec` |
//! | 1 | [`checkpoint`] | safetensors, PyTorch's files and GGUF through mmap, typed config |
//! | 1 | [`quant`] | one file a weight format |
//! | 0 | [`tensor`], [`tokenizer`], [`sampler`], [`shader`] | plain data and text |

pub mod checkpoint;
pub mod convert;
pub mod exec;
pub mod gptq;
pub mod gpu;
pub mod graph;
pub mod model;
pub mod ops;
pub mod plan;
pub mod quant;
pub mod sampler;
pub mod session;
pub mod shader;
pub mod tensor;
pub mod tokenizer;
