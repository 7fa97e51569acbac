//! All that a state dict's pickle can be made of: a closed list of types and names.
//!
//! What is not here can't be built, whatever a file says. Values are small and copied; what they refer to lies in
//! one list, so that shared and nested objects cost nothing to copy, walk or drop. Invariant: a [`Value::Object`] is
//! an index into the list of the pickle it came from.

use std::fmt;

/// One value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'p> {
    /// A `None`, or a number that no tensor's description needs.
    Opaque,
    Bool,
    Int(i64),
    Text(&'p str),
    Global(Global),
    Object(usize),
}

/// What is held by reference.
#[derive(Debug)]
pub(super) enum Object<'p> {
    /// Never looked into.
    List,
    Tuple(Vec<Value<'p>>),
    /// `dict` or `OrderedDict`, in the order of insertion; keys may repeat.
    Dict(Vec<(Value<'p>, Value<'p>)>),
    Storage(Storage<'p>),
    /// Boxed: most objects are smaller, and a hostile file may make many.
    Tensor(Box<Tensor<'p>>),
}

/// A run of elements, held by an entry of the archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'p> {
    pub(super) dtype: &'static Dtype,
    /// The entry's name below `data/`.
    pub(super) key: &'p str,
    /// Elements.
    pub(super) count: i64,
}

/// A view of a storage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor<'p> {
    pub(super) storage: Storage<'p>,
    pub(super) dtype: &'static Dtype,
    /// Elements of `dtype` before the first.
    pub(super) offset: i64,
    /// A tuple of sizes, outermost first.
    pub(super) shape: Value<'p>,
    /// A tuple of steps between neighbours along each dimension, in elements.
    pub(super) strides: Value<'p>,
    /// Whether the values are to be negated or conjugated when read.
    pub(super) lazy: bool,
}

/// A name that a pickle may refer to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Global {
    OrderedDict,
    /// `torch.Size`, a tuple.
    Size,
    /// `_rebuild_tensor_v2`, and `_rebuild_tensor_v3`, which names the element type apart from the storage's.
    RebuildTensor {
        names_dtype: bool,
    },
    RebuildParameter,
    Storage(&'static Dtype),
    Dtype(&'static Dtype),
}

impl fmt::Display for Global {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OrderedDict => f.write_str("collections.OrderedDict"),
            Self::Size => f.write_str("torch.Size"),
            Self::RebuildTensor { names_dtype: false } => f.write_str("torch._utils._rebuild_tensor_v2"),
            Self::RebuildTensor { names_dtype: true } => f.write_str("torch._utils._rebuild_tensor_v3"),
            Self::RebuildParameter => f.write_str("torch._utils._rebuild_parameter"),
            Self::Storage(dtype) => write!(f, "the storage of torch.{}", dtype.name),
            Self::Dtype(dtype) => write!(f, "torch.{}", dtype.name),
        }
    }
}

impl Global {
    /// The meaning of `module.name`; None where it has none in a state dict.
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        let dtype = |fits: &dyn Fn(&Dtype) -> bool| DTYPES.iter().find(|dtype| fits(dtype));
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch", "Size") => Some(Self::Size),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor { names_dtype: false }),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::RebuildTensor { names_dtype: true }),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            // Bytes, until a tensor names another type.
            ("torch.storage", "UntypedStorage") => dtype(&|dtype| dtype.name == "uint8").map(Self::Storage),
            ("torch", name) => {
                let storage = dtype(&|dtype| dtype.storage == Some(name)).map(Self::Storage);
                storage.or_else(|| dtype(&|dtype| dtype.name == name).map(Self::Dtype))
            }
            _ => None,
        }
    }
}

/// An element type.
#[derive(Debug)]
pub(super) struct Dtype {
    /// As `torch.<name>`.
    pub(super) name: &'static str,
    /// The storage's type, as `torch.<name>`; newer types come in untyped storages only.
    storage: Option<&'static str>,
    /// Bytes of an element.
    pub(super) bytes: i64,
    /// wgpt's format for it, where there is one.
    pub(super) format: Option<&'static str>,
}

const fn dtype(name: &'static str, storage: Option<&'static str>, bytes: i64, format: Option<&'static str>) -> Dtype {
    Dtype { name, storage, bytes, format }
}

static DTYPES: &[Dtype] = &[
    dtype("float32", Some("FloatStorage"), 4, Some("f32")),
    dtype("float16", Some("HalfStorage"), 2, Some("f16")),
    dtype("bfloat16", Some("BFloat16Storage"), 2, Some("bf16")),
    dtype("float64", Some("DoubleStorage"), 8, None),
    dtype("bool", Some("BoolStorage"), 1, None),
    dtype("uint8", Some("ByteStorage"), 1, None),
    dtype("int8", Some("CharStorage"), 1, None),
    dtype("int16", Some("ShortStorage"), 2, None),
    dtype("int32", Some("IntStorage"), 4, None),
    dtype("int64", Some("LongStorage"), 8, None),
    dtype("complex64", Some("ComplexFloatStorage"), 8, None),
    dtype("complex128", Some("ComplexDoubleStorage"), 16, None),
    dtype("uint16", None, 2, None),
    dtype("uint32", None, 4, None),
    dtype("uint64", None, 8, None),
    dtype("float8_e4m3fn", None, 1, None),
    dtype("float8_e4m3fnuz", None, 1, None),
    dtype("float8_e5m2", None, 1, None),
    dtype("float8_e5m2fnuz", None, 1, None),
    dtype("float8_e8m0fnu", None, 1, None),
];
