//! Pickles that want to run something, or to exhaust something: each ends in an error, none does what it says.

use wgpt::checkpoint::Checkpoint;

use crate::assert_refused;
use crate::torch_files::{
    Zip, call, dict, global, int, ints, one, pickle, pickled, storage, tensor, text, torch_directory, tuple,
};

#[track_caller]
fn assert_pickle_refused(body: &[u8], parts: &[&str]) {
    assert_refused(pickled(body, &[&[0; 24]]).path(), &[&["pytorch_model.bin: data.pkl byte "], parts].concat());
}

/// What pickles in the wild have called, or could.
const GLOBALS: &[(&str, &str)] = &[
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "setattr"),
    ("builtins", "__import__"),
    ("__builtin__", "apply"),
    ("operator", "attrgetter"),
    ("functools", "partial"),
    ("importlib", "import_module"),
    ("pickle", "loads"),
    ("runpy", "_run_code"),
    ("ctypes", "CDLL"),
    ("webbrowser", "open"),
    ("torch", "load"),
    ("torch", "classes.load_library"),
    ("torch.hub", "load"),
    ("torch.storage", "_load_from_bytes"),
    ("torch._utils", "_rebuild_qtensor"),
    ("torch._utils", "__class__"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ("torch", "_utils._rebuild_tensor_v2"),
    ("collections", "OrderedDict.__init__"),
    ("collections", "defaultdict"),
    ("", ""),
];

#[test]
fn any_other_global_is_refused_by_its_full_name() {
    for (module, name) in GLOBALS {
        let full = format!("names \"{module}.{name}\", which has no place in a state dict; it is refused");
        let argument = [text("touch wgpt-was-here")];
        assert_pickle_refused(&call(module, name, &argument), &[&full]);
        let stacked = [&text(module)[..], &text(name), b"\x93", &tuple(&argument), b"R"].concat();
        assert_pickle_refused(&stacked, &[&full]);
        assert_pickle_refused(&dict(&[(text("a"), global(module, name))]), &[&full]);
    }
}

#[test]
fn calls_hidden_inside_a_state_dict_are_refused() {
    let evil = || call("os", "system", &[text("true")]);
    let named = &["names \"os.system\""];
    let six = storage("FloatStorage", "0", 6);
    let good = tensor(&six, 0, &[2, 3], &[3, 1]);
    for hidden in [
        tensor(&evil(), 0, &[2, 3], &[3, 1]),
        call("torch._utils", "_rebuild_tensor_v2", &[six.clone(), evil()]),
        call("torch._utils", "_rebuild_parameter", &[good.clone(), b"\x88".to_vec(), evil()]),
        call("collections", "OrderedDict", &[evil()]),
        call("torch", "Size", &[tuple(&[evil()])]),
        [&tuple(&[text("storage"), evil()])[..], b"Q"].concat(),
        // As the state that is set on the dict, and as the object whose state is set.
        [&one()[..], &dict(&[(text("_metadata"), evil())]), b"b"].concat(),
        [&evil()[..], &dict(&[]), b"b"].concat(),
        dict(&[(text("a"), good.clone()), (evil(), good)]),
    ] {
        assert_pickle_refused(&hidden, named);
    }
}

#[test]
fn known_functions_take_known_arguments_only() {
    let six = || storage("FloatStorage", "0", 6);
    let never = "with arguments that a state dict's never has";
    let tensor_of = |arguments: &[Vec<u8>]| call("torch._utils", "_rebuild_tensor_v2", arguments);
    let no = || b"\x89".to_vec();
    assert_pickle_refused(&call("torch", "FloatStorage", &[int(1 << 40)]), &["the storage of torch.float32", never]);
    assert_pickle_refused(&call("torch.storage", "UntypedStorage", &[int(9)]), &["the storage of torch.uint8", never]);
    assert_pickle_refused(&call("torch", "float16", &[]), &["calls torch.float16", never]);
    assert_pickle_refused(&call("torch", "Size", &[int(3)]), &["calls torch.Size", never]);
    assert_pickle_refused(
        &call("collections", "OrderedDict", &[tuple(&[])]),
        &["calls collections.OrderedDict", never],
    );
    assert_pickle_refused(&tensor_of(&[]), &["torch._utils._rebuild_tensor_v2", never]);
    assert_pickle_refused(&tensor_of(&[text("0"), int(0), ints(&[6]), ints(&[1]), no(), no()]), &[never]);
    assert_pickle_refused(&tensor_of(&[six(), text("0"), ints(&[6]), ints(&[1]), no(), no()]), &[never]);
    let longer = [six(), int(0), ints(&[6]), ints(&[1]), no(), no(), dict(&[]), dict(&[])];
    assert_pickle_refused(&tensor_of(&longer), &[never]);
    assert_pickle_refused(&call("torch._utils", "_rebuild_tensor_v3", &longer[..6]), &["_rebuild_tensor_v3", never]);
    assert_pickle_refused(&call("torch._utils", "_rebuild_parameter", &[six(), no(), no()]), &[never]);
    assert_pickle_refused(&[&text("os.system")[..], b")R"].concat(), &["calls what is no function"]);
    assert_pickle_refused(&[&global("torch", "Size")[..], b"NR"].concat(), &["with what is no tuple"]);
    assert_pickle_refused(&[&int(3)[..], &int(3), b"\x93"].concat(), &["names a global by what is no text"]);
    assert_pickle_refused(&[&int(3)[..], b"Q"].concat(), &["refers to what is no tuple"]);
    let module = tuple(&[text("module"), global("torch", "FloatStorage"), text("0"), text("cpu"), int(6)]);
    assert_pickle_refused(&[&module[..], b"Q"].concat(), &["refers to something that is no storage"]);
    assert_pickle_refused(&storage("FloatStorage", &"0".repeat(65), 6), &["by a key of 65 bytes"]);
    assert_pickle_refused(&[&int(3)[..], &dict(&[]), b"b"].concat(), &["sets attributes of what is no state dict"]);
    assert_pickle_refused(&[&one()[..], b"Nb"].concat(), &["sets attributes of what is no state dict"]);
}

#[test]
fn metadata_of_a_state_dict_has_no_effect() {
    let body = [&one()[..], &dict(&[(text("_metadata"), dict(&[])), (text("a"), int(1))]), b"b"].concat();
    let directory = pickled(&body, &[&[5; 24]]);
    let checkpoint = Checkpoint::open(directory.path()).expect("a valid file");
    assert_eq!(checkpoint.tensor("a").expect("still there").bytes, [5; 24], "attributes are no entries");
}

#[test]
fn instructions_that_import_or_call_are_refused_by_name() {
    let refused = |body: &[u8], name: &str| {
        assert_pickle_refused(body, &[&format!("the pickle instruction {name} "), "is refused"]);
    };
    assert_pickle_refused(b"(X\x04\0\0\0trueios\nsystem\n", &["instruction INST of \"os.system\" has no place"]);
    refused(b"(ios", "INST");
    let class = global("collections", "OrderedDict");
    refused(&[b"(", &class[..], b"o"].concat(), "OBJ");
    refused(&[&class[..], b")\x81"].concat(), "NEWOBJ");
    refused(&[&class[..], b")}\x92"].concat(), "NEWOBJ_EX");
    refused(b"\x82\x01", "EXT1");
    refused(b"\x83\x01\x01", "EXT2");
    refused(b"\x84\x01\x01\x01\x01", "EXT4");
    refused(b"Pstorage\n", "PERSID");
    assert_pickle_refused(b"C\x01x", &["instruction 0x43 has no place"]);
    assert_pickle_refused(b"\x80\x01", &["protocol 1; 2 to 5 are read"]);
}

#[test]
fn every_byte_is_an_instruction_or_refused() {
    for byte in 0..=255u8 {
        for rest in [&[0u8; 16][..], &[0xff; 16], b""] {
            for before in [&b""[..], b"}(", b"))"] {
                let directory = pickled(&[before, &[byte], rest].concat(), &[]);
                assert_refused(directory.path(), &["pytorch_model.bin: "]);
            }
        }
    }
}

#[test]
fn lengths_beyond_the_pickle_are_refused() {
    let short = "is cut short: ";
    assert_pickle_refused(b"X\xff\xff\xff\xff", &[short, "4294967295 bytes are needed"]);
    assert_pickle_refused(b"\x8c\xffabc", &[short, "255 bytes are needed at byte 4, 4 are left"]);
    assert_pickle_refused(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", &[short, "18446744073709551615 bytes"]);
    assert_pickle_refused(b"\x8d\0\0\0\0\0\0\0\x80", &[short, "9223372036854775808 bytes"]);
    assert_pickle_refused(b"\x95\xff\xff\xff\xff\xff\xff\xff\xff", &[short, "a frame of 18446744073709551615"]);
    assert_pickle_refused(b"\x8a\xff", &["an integer of 255 bytes"]);
    assert_pickle_refused(b"\x8b\xff\xff\xff\x7f", &["an integer of 2147483647 bytes"]);
    assert_pickle_refused(b"\x8b\0\0\0\x80", &["an integer of 2147483648 bytes"]);
    assert_pickle_refused(b"cos\nsystem", &[short, "a line does not end"]);
    assert_pickle_refused(b"X\x01\0\0\0\xff", &["a text is not UTF-8"]);
    assert_pickle_refused(b"c\xff\nx\n", &["a name is not UTF-8"]);
    assert_pickle_refused(&global(&"a".repeat(100_000), "b"), &["aaaa…\""]);
    assert_pickle_refused(&global("\x1b[31mos", "system"), &["names \"\\u{1b}[31mos.system\""]);
}

#[test]
fn the_stack_is_never_taken_below_its_bottom_or_mark() {
    let empty = "takes more from the stack than there is";
    for body in [&b""[..], b"q\0", b"a", b"s", b"\x85", b"N\x86", b"R", b"b", b"Q", b"\x93", b"N(\x85", b"}(s", b"N(a"]
    {
        assert_pickle_refused(body, &[empty]);
    }
    for body in [&b"t"[..], b"u", b"e", b"(tt", b"N(e("] {
        assert_pickle_refused(body, &[]);
    }
    assert_pickle_refused(b"Nt", &["goes back to a mark that was not set"]);
    assert_pickle_refused(b"}(Nu", &["sets items of what is no dict"]);
    assert_pickle_refused(b"](NNu", &["sets items of what is no dict"]);
    assert_pickle_refused(b"}Na", &["appends to what is no list"]);
    assert_pickle_refused(b"NN", &["ends with values or bytes left over"]);
    assert_pickle_refused(b"N.N", &["ends with values or bytes left over"]);
    assert_pickle_refused(b"h\x07", &["recalls memo 7, which is not set"]);
    assert_pickle_refused(b"j\xff\xff\xff\xff", &["recalls memo 4294967295, which is not set"]);
}

#[test]
fn deep_nesting_costs_no_stack() {
    let deep = |before: &[u8], each: &[u8], behind: &[u8]| {
        let body = [&before.repeat(500_000)[..], each, &behind.repeat(500_000)].concat();
        assert_refused(pickled(&body, &[]).path(), &["holds no dict of tensors"]);
    };
    deep(b"(", b"", b"t");
    deep(b"", b")", b"\x85");
    deep(b"]", b"]", b"a");
    // Dicts in dicts, under a key that is looked into once only.
    let body = [&[b"}", &text("model")[..]].concat().repeat(100_000)[..], b"N", &b"s".repeat(100_000)].concat();
    assert_refused(pickled(&body, &[]).path(), &["holds no tensors"]);
}

#[test]
fn sharing_does_not_multiply_work() {
    // Every tuple holds the one before twice: 2^100000 leaves, were they walked.
    let laughs = [&b")q\0"[..], &b"h\0\x86q\0".repeat(100_000)].concat();
    assert_refused(pickled(&laughs, &[]).path(), &["holds no dict of tensors"]);
    // One large dict under the same key many times.
    let again = [&text("model")[..], b"h\0"].concat().repeat(200_000);
    let body = [&b"}("[..], &text("first"), b"}q\0(", &b"NN".repeat(200_000), b"u", &again, b"u"].concat();
    assert_refused(pickled(&body, &[]).path(), &["holds no tensors"]);
    // One shape of many dimensions for many tensors.
    let shape = [&b"("[..], &b"K\x01".repeat(200_000), b"tq\0"].concat();
    let six = [&storage("FloatStorage", "0", 6)[..], b"q\x01"].concat();
    let hooks = call("collections", "OrderedDict", &[]);
    let define = [&global("torch._utils", "_rebuild_tensor_v2")[..], b"q\x02"].concat();
    let first = [&b"]"[..], &shape, b"a", b"]", &six, b"a", b"]", &define, b"a", b"]", &hooks, b"q\x03a"].concat();
    let tensors: Vec<u8> =
        (0..20_000).flat_map(|i| [&text(&i.to_string())[..], b"h\x02(h\x01K\0h\0h\0\x89h\x03tR"].concat()).collect();
    let body = [&b"}("[..], &text("list"), b"](", &first, b"e", &tensors, b"u"].concat();
    assert_refused(pickled(&body, &[&[0; 24]]).path(), &["has 200000 dimensions"]);
}

#[test]
fn too_many_instructions_end_the_reading() {
    let refused = |body: &[u8]| {
        assert_refused(pickled(body, &[]).path(), &["data.pkl has more than 2097152 instructions"]);
    };
    refused(&b"N".repeat(3_000_000));
    refused(&b"}".repeat(3_000_000));
    refused(&b"(".repeat(3_000_000));
    refused(&[&b"N"[..], &b"\x94".repeat(3_000_000)].concat());
    let slots: Vec<u8> = (0..3_000_000u32).flat_map(|slot| [b"r", &slot.to_le_bytes()[..]].concat()).collect();
    refused(&[&b"N"[..], &slots].concat());
}

#[test]
fn pickles_and_files_cut_anywhere_are_refused() {
    let whole = pickle(&[&one()[..], &dict(&[(text("_metadata"), dict(&[]))]), b"b"].concat());
    for length in 0..whole.len() {
        let file = Zip::torch(&whole[..length], &[&[0; 24]]).bytes();
        assert_refused(torch_directory(&file).path(), &["pytorch_model.bin: data.pkl byte"]);
    }
    let zip = Zip::torch(&whole, &[&[0; 24]]);
    for file in [zip.bytes(), Zip { zip64: true, ..zip }.bytes()] {
        assert!(Checkpoint::open(torch_directory(&file).path()).is_ok(), "it is valid where it is whole");
        for length in 0..file.len() {
            assert_refused(torch_directory(&file[..length]).path(), &["pytorch_model.bin: is "]);
        }
    }
}
