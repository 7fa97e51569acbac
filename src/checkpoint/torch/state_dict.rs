//! Finds the state dict in what a pickle described, and checks its tensors against the archive.
//!
//! Entries that are no tensors are passed over: counters, `None`, and whatever else a training run keeps. Invariant:
//! every tensor handed out is one run of bytes, row after row, inside one storage.

use std::collections::HashSet;
use std::ops::Range;

use super::excerpt;
use super::pickle::Pickle;
use super::value::{Object, Tensor, Value};
use super::zip::Archive;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::mmap::MappedFile;
use crate::checkpoint::view::{Encoding, TensorEntry, tensor_bytes};
use crate::quant;

/// PyTorch's own limit. Without one, a shape named by many tensors could be copied for each.
const MAX_DIMENSIONS: usize = 64;

/// Keys under which training programs keep the state dict.
const WRAPPERS: [&str; 2] = ["state_dict", "model"];

type Items<'p> = [(Value<'p>, Value<'p>)];

/// Every tensor of the file, which is number `file` of the checkpoint.
pub(super) fn entries(
    pickle: &Pickle<'_>,
    archive: &Archive<'_>,
    root: &str,
    mapping: &MappedFile,
    file: usize,
) -> Result<Vec<TensorEntry>, CheckpointError> {
    let malformed = |reason| CheckpointError::Malformed { file: mapping.path().into(), reason };
    let mut names = HashSet::new();
    let mut entries = Vec::new();
    for (key, value) in find(pickle).map_err(malformed)? {
        let Some(Object::Tensor(tensor)) = pickle.object(*value) else { continue };
        let Value::Text(name) = *key else {
            return Err(malformed("holds a tensor under a key that is no text".into()));
        };
        if !names.insert(name) {
            return Err(malformed(format!("tensor \"{}\" is there twice", excerpt(name))));
        }
        let storage = archive.get(&format!("{root}/data/{}", tensor.storage.key));
        let entry = check(pickle, tensor, storage).map(|(encoding, shape, range)| {
            let shape = shape.iter().map(|dim| *dim as usize).collect();
            TensorEntry { name: name.into(), file, encoding, shape, range }
        });
        entries.push(entry.map_err(|reason| CheckpointError::BadTensor {
            file: mapping.path().into(),
            tensor: excerpt(name),
            reason,
        })?);
    }
    Ok(entries)
}

/// The dict of tensors: the whole, or what lies under a [`WRAPPERS`] key of it.
fn find<'o, 'p>(pickle: &'o Pickle<'p>) -> Result<&'o Items<'p>, String> {
    let Some(Object::Dict(top)) = pickle.object(pickle.top) else {
        return Err("holds no dict of tensors; save a model's state_dict()".into());
    };
    let has_tensors =
        |items: &Items<'p>| items.iter().any(|(_, value)| matches!(pickle.object(*value), Some(Object::Tensor(_))));
    if has_tensors(top) {
        return Ok(top);
    }
    let inner = WRAPPERS.iter().filter_map(|wrapper| {
        // Of a key that repeats the last one counts, as in Python.
        let (_, value) = top.iter().rfind(|(key, _)| matches!(key, Value::Text(key) if key == wrapper))?;
        match pickle.object(*value) {
            Some(Object::Dict(items)) if has_tensors(items) => Some(items),
            _ => None,
        }
    });
    match inner.collect::<Vec<_>>().as_slice() {
        [items] => Ok(items),
        [] => Err(format!("holds no tensors, neither itself nor under {}", WRAPPERS.join(" or "))),
        _ => Err(format!("holds several dicts of tensors ({}); only one can be meant", WRAPPERS.join(", "))),
    }
}

/// Compares a tensor with the bytes of its storage.
fn check(
    pickle: &Pickle<'_>,
    tensor: &Tensor<'_>,
    storage: Option<Range<usize>>,
) -> Result<(Encoding, Vec<u64>, Range<usize>), String> {
    let key = excerpt(tensor.storage.key);
    let storage = storage.ok_or_else(|| format!("its bytes are missing: the archive has no entry data/{key}"))?;
    let claimed = tensor.storage.count.checked_mul(tensor.storage.dtype.bytes).and_then(|n| u64::try_from(n).ok());
    if claimed != Some(storage.len() as u64) {
        let (count, dtype) = (tensor.storage.count, tensor.storage.dtype.name);
        return Err(format!("expected {count} elements of {dtype} in data/{key}, found {} bytes", storage.len()));
    }
    let (shape, strides) = (sizes(pickle, tensor.shape)?, sizes(pickle, tensor.strides)?);
    let bytes = tensor_bytes(&shape, 1, tensor.dtype.bytes as u64 * 8)?;
    check_strides(&shape, &strides)?;
    let start = u64::try_from(tensor.offset).ok().and_then(|offset| offset.checked_mul(tensor.dtype.bytes as u64));
    let end = start.and_then(|start| start.checked_add(bytes)).filter(|end| *end <= storage.len() as u64);
    let (Some(start), Some(end)) = (start, end) else {
        let (dtype, offset) = (tensor.dtype.name, tensor.offset);
        let reason =
            format!("{dtype} {shape:?} from element {offset} on is outside the {} bytes of data/{key}", storage.len());
        return Err(reason);
    };
    if tensor.lazy {
        return Err("is kept negated, conjugated or with other flags; save it again after resolve_neg()".into());
    }
    let encoding = match tensor.dtype.format.and_then(quant::format) {
        Some(format) => Encoding::Known(format),
        None => Encoding::Unknown(format!("dtype {}", tensor.dtype.name)),
    };
    Ok((encoding, shape, storage.start + start as usize..storage.start + end as usize))
}

/// A tuple of sizes or strides.
fn sizes(pickle: &Pickle<'_>, value: Value<'_>) -> Result<Vec<u64>, String> {
    let Some(Object::Tuple(items)) = pickle.object(value) else { return Err("its shape is no tuple".into()) };
    if items.len() > MAX_DIMENSIONS {
        return Err(format!("has {} dimensions; at most {MAX_DIMENSIONS} are possible", items.len()));
    }
    let size = |item: &Value<'_>| match item {
        Value::Int(size) => u64::try_from(*size).map_err(|_| format!("has a negative size or stride, {size}")),
        _ => Err("its shape is not made of integers".into()),
    };
    items.iter().map(size).collect()
}

/// Only rows that follow each other can be mapped. Along a dimension of one element a stride means nothing, and of
/// no elements all are in order.
fn check_strides(shape: &[u64], strides: &[u64]) -> Result<(), String> {
    let mut expected = vec![1u64; shape.len()];
    for dim in (1..shape.len()).rev() {
        expected[dim - 1] = expected[dim].saturating_mul(shape[dim].max(1));
    }
    let mut dims = shape.iter().zip(strides).zip(&expected);
    let in_order = dims.all(|((size, stride), expected)| *size == 1 || stride == expected);
    if shape.len() == strides.len() && (shape.contains(&0) || in_order) {
        return Ok(());
    }
    Err(format!(
        "shape {shape:?} is not stored row after row: expected strides {expected:?}, found {strides:?}; save it again \
         after contiguous()"
    ))
}
