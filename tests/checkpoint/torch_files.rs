//! Builds small PyTorch files: a zip archive and a pickle, valid unless told otherwise.

use tempfile::TempDir;

use crate::files::{CONFIG, directory};

/// A line of a zip's central directory, whatever it claims.
#[derive(Clone, Default)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) flags: u16,
    pub(crate) method: u16,
    /// Bytes the entry takes in the file.
    pub(crate) stored: u32,
    /// Bytes of the entry.
    pub(crate) bytes: u32,
    pub(crate) extra: Vec<u8>,
    /// Where the entry's own header is.
    pub(crate) header: u32,
}

impl Line {
    fn write(&self) -> Vec<u8> {
        let Self { name, flags, method, stored, bytes, extra, header } = self;
        let mut line = b"PK\x01\x02\0\0\0\0".to_vec();
        line.extend([flags.to_le_bytes(), method.to_le_bytes()].concat());
        line.extend([0; 8]);
        line.extend([stored.to_le_bytes(), bytes.to_le_bytes()].concat());
        line.extend([(name.len() as u16).to_le_bytes(), (extra.len() as u16).to_le_bytes()].concat());
        line.extend([0; 10]);
        line.extend(header.to_le_bytes());
        line.extend(name.as_bytes());
        line.extend(extra);
        line
    }
}

/// A zip archive in the making.
#[derive(Clone, Default)]
pub(crate) struct Zip {
    /// The entries' headers and bytes.
    pub(crate) data: Vec<u8>,
    pub(crate) lines: Vec<Line>,
    /// What the end record counts; None counts.
    pub(crate) count: Option<u16>,
    /// Whether the end record leaves all to a zip64 record.
    pub(crate) zip64: bool,
}

impl Zip {
    /// A PyTorch file's entries: a description and numbered storages.
    pub(crate) fn torch(pickle: &[u8], storages: &[&[u8]]) -> Self {
        let zip = Self::default().entry("archive/data.pkl", pickle).entry("archive/byteorder", b"little");
        let numbered = storages.iter().enumerate();
        numbered.fold(zip, |zip, (key, bytes)| zip.entry(&format!("archive/data/{key}"), bytes))
    }

    pub(crate) fn entry(mut self, name: &str, bytes: &[u8]) -> Self {
        let length = bytes.len() as u32;
        let (name, header) = (name.to_owned(), self.data.len() as u32);
        self.data.extend(b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        self.data.extend([length.to_le_bytes(), length.to_le_bytes()].concat());
        // An extra field of odd length: nothing needs to be aligned.
        self.data.extend([(name.len() as u16).to_le_bytes(), 5u16.to_le_bytes()].concat());
        self.data.extend([name.as_bytes(), b"FB\x01\0Z", bytes].concat());
        self.lines.push(Line { name, stored: length, bytes: length, header, ..Line::default() });
        self
    }

    /// The line of an entry, to be changed.
    pub(crate) fn line(&mut self, name: &str) -> &mut Line {
        self.lines.iter_mut().find(|line| line.name == name).expect("an entry of this name")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = self.data.clone();
        let start = file.len() as u64;
        file.extend(self.lines.iter().flat_map(Line::write));
        let bytes = file.len() as u64 - start;
        let count = self.count.unwrap_or(self.lines.len() as u16);
        if self.zip64 {
            let record = file.len() as u64;
            file.extend(b"PK\x06\x06");
            file.extend(44u64.to_le_bytes());
            file.extend([0; 12]);
            file.extend([u64::from(count), u64::from(count), bytes, start].map(u64::to_le_bytes).concat());
            file.extend(b"PK\x06\x07\0\0\0\0");
            file.extend(record.to_le_bytes());
            file.extend(1u32.to_le_bytes());
            file.extend(b"PK\x05\x06\0\0\0\0");
            file.extend([0xff; 12]);
        } else {
            file.extend(b"PK\x05\x06\0\0\0\0");
            file.extend([count, count].map(u16::to_le_bytes).concat());
            file.extend([bytes as u32, start as u32].map(u32::to_le_bytes).concat());
        }
        file.extend([0; 2]);
        file
    }
}

/// A directory with a config and this `pytorch_model.bin`.
pub(crate) fn torch_directory(file: &[u8]) -> TempDir {
    directory(&[("config.json", CONFIG.as_bytes()), ("pytorch_model.bin", file)])
}

/// A directory whose `pytorch_model.bin` has this pickle, in the frame of its protocol, and storages.
pub(crate) fn pickled(body: &[u8], storages: &[&[u8]]) -> TempDir {
    torch_directory(&Zip::torch(&pickle(body), storages).bytes())
}

/// A whole pickle of protocol 2.
pub(crate) fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

/// A text.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// An integer.
pub(crate) fn int(value: i64) -> Vec<u8> {
    [b"\x8a\x08", &value.to_le_bytes()[..]].concat()
}

/// A tuple of integers.
pub(crate) fn ints(values: &[i64]) -> Vec<u8> {
    tuple(&values.iter().map(|value| int(*value)).collect::<Vec<_>>())
}

pub(crate) fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}

/// A dict; keys are values too.
pub(crate) fn dict(items: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|(key, value)| [&key[..], value].concat()).collect();
    [b"}(", &items[..], b"u"].concat()
}

/// A reference to `module.name`.
pub(crate) fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

/// A call.
pub(crate) fn call(module: &str, name: &str, arguments: &[Vec<u8>]) -> Vec<u8> {
    [&global(module, name)[..], &tuple(arguments), b"R"].concat()
}

/// A reference to a storage.
pub(crate) fn storage(kind: &str, key: &str, count: i64) -> Vec<u8> {
    let id = tuple(&[text("storage"), global("torch", kind), text(key), text("cpu"), int(count)]);
    [&id[..], b"Q"].concat()
}

/// A tensor.
pub(crate) fn tensor(storage: &[u8], offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let hooks = call("collections", "OrderedDict", &[]);
    let arguments = [storage.to_vec(), int(offset), ints(shape), ints(strides), b"\x89".to_vec(), hooks];
    call("torch._utils", "_rebuild_tensor_v2", &arguments)
}

/// A dict with one tensor `a` (2, 3) of f32 at storage 0.
pub(crate) fn one() -> Vec<u8> {
    dict(&[(text("a"), tensor(&storage("FloatStorage", "0", 6), 0, &[2, 3], &[3, 1]))])
}
