//! The names a state dict's pickle may use and the calls it may make: all describe data.
//!
//! Nothing is looked up outside `value.rs`'s list; whatever else a file asks for is named in the error. Invariant: a
//! call copies no arguments, so that many calls with one large tuple cost no more than many instructions.

use super::{Machine, object};
use crate::checkpoint::torch::excerpt;
use crate::checkpoint::torch::value::{Global, Object, Storage, Tensor, Value};

/// PyTorch counts its storages; the key is looked up for every tensor.
const MAX_KEY: usize = 64;

/// Instructions that call or import, by name; the rest of the language is refused by number.
const REFUSED: &[(u8, &str)] = &[
    (b'i', "INST"),
    (b'o', "OBJ"),
    (b'P', "PERSID"),
    (0x81, "NEWOBJ"),
    (0x92, "NEWOBJ_EX"),
    (0x82, "EXT1"),
    (0x83, "EXT2"),
    (0x84, "EXT4"),
];

impl Machine<'_> {
    /// Why an instruction is not played; INST spells out what it would call.
    pub(super) fn refuse(&mut self, instruction: u8) -> String {
        let known = REFUSED.iter().find(|(code, _)| *code == instruction);
        let name = known.map_or_else(|| format!("0x{instruction:02x}"), |(_, name)| (*name).into());
        let global = match (instruction, self.line(), self.line()) {
            (b'i', Ok(module), Ok(name)) => format!(" of \"{}\"", dotted(module, name)),
            _ => String::new(),
        };
        format!("the pickle instruction {name}{global} has no place in a state dict and is refused")
    }

    pub(super) fn global(&mut self) -> Result<(), String> {
        let (module, name) = (self.line()?, self.line()?);
        self.push_global(module, name)
    }

    pub(super) fn stack_global(&mut self) -> Result<(), String> {
        match self.pop_many(2)?.as_slice() {
            [Value::Text(module), Value::Text(name)] => self.push_global(module, name),
            _ => Err("names a global by what is no text".into()),
        }
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let global = Global::find(module, name).ok_or_else(|| {
            let global = dotted(module, name);
            format!(
                "names \"{global}\", which has no place in a state dict; it is refused and nothing was run. Of a \
                 training checkpoint, save the model's state_dict() alone"
            )
        })?;
        self.stack.push(Value::Global(global));
        Ok(())
    }

    /// Calls one of the few known functions, which all describe data.
    pub(super) fn reduce(&mut self) -> Result<(), String> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Value::Global(callee) = callee else { return Err("calls what is no function".into()) };
        let Some(Object::Tuple(arguments)) = object(&self.objects, arguments) else {
            return Err("calls a function with what is no tuple".into());
        };
        let wrong = || format!("calls {callee} with arguments that a state dict's never has");
        match (callee, arguments.as_slice()) {
            (Global::OrderedDict, []) => self.hold(Object::Dict(Vec::new())),
            (Global::Size, [sizes]) if matches!(object(&self.objects, *sizes), Some(Object::Tuple(_))) => {
                self.stack.push(*sizes);
            }
            (Global::RebuildTensor { names_dtype }, arguments) => {
                let tensor = tensor(&self.objects, arguments, names_dtype).ok_or_else(wrong)?;
                self.hold(Object::Tensor(Box::new(tensor)));
            }
            (Global::RebuildParameter, [data, Value::Bool, _hooks])
                if matches!(object(&self.objects, *data), Some(Object::Tensor(_))) =>
            {
                self.stack.push(*data);
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// Sets attributes of the object on top. A state dict keeps its `_metadata` so, which nothing here needs.
    pub(super) fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        match (object(&self.objects, self.top()?), object(&self.objects, state)) {
            (Some(Object::Dict(_)), Some(Object::Dict(_))) => Ok(()),
            _ => Err("sets attributes of what is no state dict".into()),
        }
    }

    /// A reference out of the pickle: always to a storage.
    pub(super) fn persistent(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let Some(Object::Tuple(id)) = object(&self.objects, id) else {
            return Err("refers to what is no tuple".into());
        };
        let [
            Value::Text("storage"),
            Value::Global(Global::Storage(dtype)),
            Value::Text(key),
            Value::Text(_device),
            Value::Int(count),
        ] = id[..]
        else {
            return Err("refers to something that is no storage".into());
        };
        if key.len() > MAX_KEY {
            return Err(format!("names a storage by a key of {} bytes; at most {MAX_KEY} are read", key.len()));
        }
        self.hold(Object::Storage(Storage { dtype, key, count }));
        Ok(())
    }
}

/// The arguments of `_rebuild_tensor_v2` or v3: storage, offset, size, stride, requires_grad, hooks, in v3 the element
/// type, and perhaps a dict of flags.
fn tensor<'p>(objects: &[Object<'p>], arguments: &[Value<'p>], names_dtype: bool) -> Option<Tensor<'p>> {
    let (fixed, mut rest) = arguments.split_first_chunk::<6>()?;
    let [storage, Value::Int(offset), shape, strides, Value::Bool, _hooks] = *fixed else { return None };
    let Some(Object::Storage(storage)) = object(objects, storage) else { return None };
    let mut dtype = storage.dtype;
    if names_dtype {
        let (Value::Global(Global::Dtype(named)), behind) = rest.split_first()? else { return None };
        (dtype, rest) = (named, behind);
    }
    let lazy = match rest {
        [] | [Value::Opaque] => false,
        [flags] => match object(objects, *flags)? {
            // Any flag: what is not known might change the values.
            Object::Dict(flags) => !flags.is_empty(),
            _ => return None,
        },
        _ => return None,
    };
    Some(Tensor { storage: *storage, dtype, offset, shape, strides, lazy })
}

/// `module.name`, as a message may show it.
fn dotted(module: &str, name: &str) -> String {
    excerpt(&format!("{module}.{name}"))
}
