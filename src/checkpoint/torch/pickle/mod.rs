//! Reads a pickle as far as a state dict needs one, and runs nothing.
//!
//! A pickle is a program for a stack machine that may name and call any Python function. Here its instructions only
//! build what `value.rs` lists; any other name, call or instruction ends the reading with an error that says which.
//! Accepted is what Python's pickler emits for such values in protocols 2 to 5. This file has the machine and plain
//! values, `calls.rs` the few names and calls. Invariant: time and memory are bounded by [`MAX_INSTRUCTIONS`], each of
//! which adds at most one value and one object; nothing recurses.

mod calls;

use std::collections::HashMap;

use super::value::{Object, Value};

/// A tensor takes about 45; 46,000 tensors are more than any file holds.
const MAX_INSTRUCTIONS: u32 = 1 << 21;

/// What a pickle described.
#[derive(Debug)]
pub(super) struct Pickle<'p> {
    /// The whole.
    pub(super) top: Value<'p>,
    objects: Vec<Object<'p>>,
}

impl<'p> Pickle<'p> {
    /// What a value refers to; None for values that are held themselves.
    pub(super) fn object(&self, value: Value<'p>) -> Option<&Object<'p>> {
        object(&self.objects, value)
    }
}

fn object<'o, 'p>(objects: &'o [Object<'p>], value: Value<'p>) -> Option<&'o Object<'p>> {
    match value {
        Value::Object(index) => objects.get(index),
        _ => None,
    }
}

/// Reads a whole pickle.
pub(super) fn parse(bytes: &[u8]) -> Result<Pickle<'_>, String> {
    let mut machine = Machine { bytes, at: 0, stack: vec![], marks: vec![], memo: HashMap::new(), objects: vec![] };
    for _ in 0..MAX_INSTRUCTIONS {
        let at = machine.at;
        if let Some(top) = machine.step().map_err(|reason| format!("byte {at}: {reason}"))? {
            return Ok(Pickle { top, objects: machine.objects });
        }
    }
    Err(format!("has more than {MAX_INSTRUCTIONS} instructions, too many for a state dict"))
}

struct Machine<'p> {
    bytes: &'p [u8],
    at: usize,
    stack: Vec<Value<'p>>,
    /// Heights of the stack that a later instruction goes back to.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'p>>,
    objects: Vec<Object<'p>>,
}

impl<'p> Machine<'p> {
    /// Plays one instruction; gives the whole when it was the last.
    fn step(&mut self) -> Result<Option<Value<'p>>, String> {
        match self.number(1)? as u8 {
            // PROTO, FRAME
            0x80 => self.protocol()?,
            0x95 => self.frame()?,
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.stack.push(Value::Opaque),
            0x88 | 0x89 => self.stack.push(Value::Bool),
            // BININT1, BININT2, BININT, LONG1, LONG4, BINFLOAT
            b'K' => self.unsigned(1)?,
            b'M' => self.unsigned(2)?,
            b'J' => self.signed(4)?,
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => self.float()?,
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => self.text(1)?,
            b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => self.remember(1)?,
            b'r' => self.remember(4)?,
            0x94 => self.remember(0)?,
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            // GLOBAL, STACK_GLOBAL, REDUCE, BUILD, BINPERSID
            b'c' => self.global()?,
            0x93 => self.stack_global()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'Q' => self.persistent()?,
            // STOP
            b'.' => return self.stop().map(Some),
            instruction => self.container(instruction)?,
        }
        Ok(None)
    }

    /// Instructions that make and fill tuples, lists and dicts.
    fn container(&mut self, instruction: u8) -> Result<(), String> {
        match instruction {
            // MARK
            b'(' => self.marks.push(self.stack.len()),
            // EMPTY_TUPLE, TUPLE1 to TUPLE3, TUPLE
            b')' => self.hold(Object::Tuple(Vec::new())),
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(instruction) - 0x84)?;
                self.hold(Object::Tuple(items));
            }
            b't' => {
                let items = self.pop_mark()?;
                self.hold(Object::Tuple(items));
            }
            // EMPTY_LIST, APPEND, APPENDS
            b']' => self.hold(Object::List),
            b'a' => {
                self.pop()?;
                self.top_list()?;
            }
            b'e' => {
                self.pop_mark()?;
                self.top_list()?;
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.hold(Object::Dict(Vec::new())),
            b's' => {
                let items = self.pop_many(2)?;
                self.set_items(&items)?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            refused => return Err(self.refuse(refused)),
        }
        Ok(())
    }

    // Bytes

    fn take(&mut self, count: u64) -> Result<&'p [u8], String> {
        let left = self.bytes.len() - self.at;
        if count > left as u64 {
            return Err(format!("is cut short: {count} bytes are needed at byte {}, {left} are left", self.at));
        }
        let start = self.at;
        self.at += count as usize;
        Ok(&self.bytes[start..self.at])
    }

    /// A little-endian number of up to eight bytes.
    fn number(&mut self, bytes: u64) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Bytes up to the end of the line, as text.
    fn line(&mut self) -> Result<&'p str, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or("is cut short: a line does not end")?;
        let line = self.take(length as u64 + 1)?;
        str::from_utf8(&line[..length]).map_err(|_| "a name is not UTF-8".into())
    }

    // The stack

    /// Puts an object on the stack.
    fn hold(&mut self, object: Object<'p>) {
        self.stack.push(Value::Object(self.objects.len()));
        self.objects.push(object);
    }

    /// Lowest index that may be popped: what lies below a mark is left alone until the mark is gone back to.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or_default()
    }

    fn top(&self) -> Result<Value<'p>, String> {
        let above = &self.stack[self.floor()..];
        above.last().copied().ok_or_else(|| "takes more from the stack than there is".into())
    }

    fn pop(&mut self) -> Result<Value<'p>, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The topmost values, lowest first.
    fn pop_many(&mut self, count: usize) -> Result<Vec<Value<'p>>, String> {
        let start = self.stack.len().checked_sub(count).filter(|start| *start >= self.floor());
        Ok(self.stack.split_off(start.ok_or("takes more from the stack than there is")?))
    }

    /// All values above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Value<'p>>, String> {
        let mark = self.marks.pop().ok_or("goes back to a mark that was not set")?;
        Ok(self.stack.split_off(mark))
    }

    fn top_list(&self) -> Result<(), String> {
        match object(&self.objects, self.top()?) {
            Some(Object::List) => Ok(()),
            _ => Err("appends to what is no list".into()),
        }
    }

    /// Puts keys and values, by turns, into the dict on top.
    fn set_items(&mut self, items: &[Value<'p>]) -> Result<(), String> {
        let (pairs, odd) = items.as_chunks();
        let dict = match self.top()? {
            Value::Object(index) => self.objects.get_mut(index),
            _ => None,
        };
        let (Some(Object::Dict(entries)), []) = (dict, odd) else { return Err("sets items of what is no dict".into()) };
        entries.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    // Plain values

    fn protocol(&mut self) -> Result<(), String> {
        match self.number(1)? {
            2..=5 => Ok(()),
            version => Err(format!("pickle protocol {version}; 2 to 5 are read")),
        }
    }

    /// A frame only says how much to read at once.
    fn frame(&mut self) -> Result<(), String> {
        let (bytes, left) = (self.number(8)?, self.bytes.len() - self.at);
        if bytes <= left as u64 {
            Ok(())
        } else {
            Err(format!("is cut short: a frame of {bytes} bytes, {left} are left"))
        }
    }

    fn unsigned(&mut self, bytes: u64) -> Result<(), String> {
        let value = self.number(bytes)?;
        self.stack.push(Value::Int(value as i64));
        Ok(())
    }

    /// Two's complement, up to eight bytes.
    fn signed(&mut self, bytes: u64) -> Result<(), String> {
        let stored = self.take(bytes)?;
        let negative = stored.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..stored.len()].copy_from_slice(stored);
        self.stack.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn long(&mut self, length_bytes: u64) -> Result<(), String> {
        match self.number(length_bytes)? {
            bytes @ 0..=8 => self.signed(bytes),
            bytes => Err(format!("an integer of {bytes} bytes; sizes and offsets have up to 8")),
        }
    }

    fn float(&mut self) -> Result<(), String> {
        self.take(8)?;
        self.stack.push(Value::Opaque);
        Ok(())
    }

    fn text(&mut self, length_bytes: u64) -> Result<(), String> {
        let length = self.number(length_bytes)?;
        let text = str::from_utf8(self.take(length)?).map_err(|error| format!("a text is not UTF-8: {error}"))?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    // The memo

    /// Under the given number, or the next one where none is given.
    fn remember(&mut self, bytes: u64) -> Result<(), String> {
        let slot = if bytes == 0 { self.memo.len() as u32 } else { self.number(bytes)? as u32 };
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, bytes: u64) -> Result<(), String> {
        let slot = self.number(bytes)? as u32;
        let value = self.memo.get(&slot).ok_or_else(|| format!("recalls memo {slot}, which is not set"))?;
        self.stack.push(*value);
        Ok(())
    }

    fn stop(&mut self) -> Result<Value<'p>, String> {
        let top = self.pop()?;
        if !self.stack.is_empty() || self.at != self.bytes.len() {
            return Err("ends with values or bytes left over".into());
        }
        Ok(top)
    }
}
