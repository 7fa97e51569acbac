//! Which format a chat uses, where its defaults come from, and what `--template` and `--system` do about it: the
//! program on copies of tiny checkpoints whose names, files and metadata say so.

mod common;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::repository;
use tempfile::TempDir;
use wgpt::checkpoint::Checkpoint;
use wgpt::session::{Language, SamplingDefaults};

/// A checkpoint without a chat template.
const BASE: &str = "checkpoints/tiny-gpt-neox-f16";

/// A checkpoint with one.
const INSTRUCT: &str = "checkpoints/tiny-llama-gqa";

/// A copy of a checkpoint under this path of a scratch folder.
fn copy(checkpoint: &str, path: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let target = folder.path().join(path);
    std::fs::create_dir_all(&target).expect("made");
    for entry in std::fs::read_dir(repository(checkpoint)).expect("the checkpoint").map(|entry| entry.expect("a file"))
    {
        if !entry.file_name().to_string_lossy().ends_with(".gguf") {
            std::fs::copy(entry.path(), target.join(entry.file_name())).expect("copied");
        }
    }
    (folder, target)
}

/// What a run left: exit code, stdout, stderr.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(args: &[&str], input: &str, variables: &[(&str, &str)]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
    command.current_dir(repository("")).args(args).write_stdin(input.to_owned());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WGPT_")) {
        command.env_remove(name);
    }
    command.env("XDG_CACHE_HOME", common::cache_folder());
    let output = command.envs(variables.iter().copied()).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("whole UTF-8");
    Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Greedy chat on the host, six tokens a reply.
fn chat(checkpoint: &Path, more: &[&str], input: &str) -> Run {
    let fixed = ["--adapter", "host", "--temperature", "0", "--max-new-tokens", "6"];
    run(&[&["chat", "--checkpoint", utf8(checkpoint)][..], &fixed, more].concat(), input, &[])
}

/// What the model answers when the conversation is this text.
fn continuation(checkpoint: &Path, text: &str) -> String {
    let fixed = ["--adapter", "host", "--temperature", "0", "--max-new-tokens", "6", "--quiet"];
    let args = [&["generate", "--checkpoint", utf8(checkpoint), "--prompt", text][..], &fixed].concat();
    let run = run(&args, "", &[]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.stdout.strip_prefix(text).expect("the prompt comes first").to_owned()
}

#[track_caller]
fn answers(run: &Run, reply: &str, note: &str) {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.stdout, reply.to_owned() + "\n", "{}", run.stderr);
    assert!(run.stderr.contains(note), "says {note:?}: {}", run.stderr);
}

/// An error before any weight is loaded, which names all of these.
#[track_caller]
fn refused(run: &Run, parts: &[&str]) {
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
    assert!(!run.stderr.contains("loaded") && !run.stderr.contains("panicked"), "at once: {}", run.stderr);
    for part in parts {
        assert!(run.stderr.contains(part), "{part:?} is named: {}", run.stderr);
    }
}

#[test]
fn a_checkpoint_without_a_template_is_spoken_to_in_the_style_its_path_calls_for() {
    let (_folder, path) = copy(BASE, "togethercomputer/RedPajama-INCITE-Chat-3B-v1");
    let expected = continuation(&path, "<human>: Hello\n<bot>:");
    answers(&chat(&path, &[], "Hello\n"), &expected, "style redpajama-incite-chat");
    let (_folder, path) = copy(BASE, "stabilityai/stablelm-zephyr-3b");
    let expected = continuation(&path, "<|user|>\nHello<|endoftext|>\n<|assistant|>\n");
    answers(&chat(&path, &[], "Hello\n"), &expected, "style stablelm-zephyr");
    let expected =
        continuation(&path, "<|system|>\nBe brief.<|endoftext|>\n<|user|>\nHello<|endoftext|>\n<|assistant|>\n");
    answers(&chat(&path, &["--system", "Be brief."], "Hello\n"), &expected, "style stablelm-zephyr");
}

#[test]
fn two_turns_in_a_style_are_both_remembered() {
    let (_folder, path) = copy(BASE, "togethercomputer/RedPajama-INCITE-Chat-3B-v1");
    let talk = chat(&path, &[], "Hello\nAnd you?\n");
    assert_eq!(talk.code, Some(0), "{}", talk.stderr);
    assert!(talk.stderr.contains("held from before"), "the second turn goes on behind the first: {}", talk.stderr);
}

#[test]
fn a_checkpoint_of_no_known_name_continues_plain_text_and_says_so() {
    let (_folder, path) = copy(BASE, "someone/something");
    answers(&chat(&path, &[], "Hello\n"), &continuation(&path, "Hello"), "no chat template");
}

#[test]
fn the_checkpoint_s_template_goes_before_a_style() {
    let (_folder, path) = copy(INSTRUCT, "togethercomputer/RedPajama-INCITE-Chat-3B-v1");
    let expected = continuation(&path, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
    let talk = chat(&path, &[], "Hello\n");
    answers(&talk, &expected, "");
    assert!(!talk.stderr.contains("style"), "no style is spoken of: {}", talk.stderr);
}

#[test]
fn the_template_flag_chooses_by_name_style_or_file() {
    let (folder, path) = copy(INSTRUCT, "model");
    std::fs::create_dir(path.join("additional_chat_templates")).expect("made");
    let shout = "{% for m in messages %}{{ m.content | upper }}!{% endfor %}";
    std::fs::write(path.join("additional_chat_templates/shout.jinja"), shout).expect("written");
    let file = folder.path().join("mine.jinja");
    std::fs::write(&file, "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}").expect("written");
    let cases = [
        ("shout", "HELLO!", "the checkpoint's template \"shout\""),
        ("default", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", "the checkpoint's template"),
        ("phi-2", "Instruct:Hello\nOutput:", "style phi-2"),
        ("plain", "Hello", "plain text"),
        (utf8(&file), "[user] Hello", "mine.jinja"),
    ];
    for (name, text, note) in cases {
        answers(&chat(&path, &["--template", name], "Hello\n"), &continuation(&path, text), note);
    }
    let wrong = chat(&path, &["--template", "klingon"], "Hello\n");
    refused(&wrong, &["klingon", "default, shout", "redpajama-incite-chat", "llama-2-chat", "chatml", "plain"]);
    refused(&chat(&path, &["--template", "no/such.jinja"], "Hello\n"), &["no/such.jinja"]);
    std::fs::write(&file, "a\n{% if %}").expect("written");
    refused(&chat(&path, &["--template", utf8(&file)], "Hello\n"), &["line 2"]);
}

#[test]
fn a_template_that_refuses_is_an_error_and_never_another_format() {
    let (_folder, path) = copy(INSTRUCT, "togethercomputer/RedPajama-INCITE-Chat-3B-v1");
    let no_system = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system role!') }}{% endif %}\
                     {{ m.content }}{% endfor %}{% if messages[-1].content == 'bad' %}{{ raise_exception('Bad!') }}{% endif %}";
    std::fs::write(path.join("chat_template.jinja"), no_system).expect("written");
    refused(&chat(&path, &["--system", "Be brief."], "Hello\n"), &["No system role!", "--template"]);
    let talk = chat(&path, &[], "bad\n/system Be brief.\nHello\n");
    for part in ["Bad!", "No system role!"] {
        assert!(talk.stderr.contains(part), "{part:?} is said: {}", talk.stderr);
    }
    assert_eq!(talk.code, Some(1), "two lines failed: {}", talk.stderr);
    answers(&Run { code: Some(0), ..talk }, &continuation(&path, "Hello"), "generated: ");
}

#[test]
fn a_style_without_a_place_for_a_system_message_refuses_one() {
    let (_folder, path) = copy(BASE, "togethercomputer/RedPajama-INCITE-Chat-3B-v1");
    refused(&chat(&path, &["--system", "Be brief."], "Hello\n"), &["redpajama-incite-chat", "--template"]);
}

#[test]
fn inspect_says_which_format_a_chat_would_use() {
    let shown = |path: &Path| run(&["inspect", "--checkpoint", utf8(path)], "", &[]).stdout;
    let (_folder, path) = copy(BASE, "tiiuae/falcon-7b-instruct");
    assert!(shown(&path).contains("style falcon-instruct"), "{}", shown(&path));
    assert!(shown(&repository(BASE)).contains("plain text"), "{}", shown(&repository(BASE)));
    assert!(shown(&repository(INSTRUCT)).contains("the checkpoint's template"), "{}", shown(&repository(INSTRUCT)));
}

#[test]
fn generation_config_decides_what_no_flag_does() {
    let (_folder, path) = copy(INSTRUCT, "model");
    let config = |json: &str| std::fs::write(path.join("generation_config.json"), json).expect("written");
    let talk = |more: &[&str], variables: &[(&str, &str)]| {
        let fixed = ["chat", "--checkpoint", utf8(&path), "--adapter", "host", "--seed", "5"];
        let run = run(&[&fixed[..], more].concat(), "Hello\n", variables);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        run
    };
    let length = |run: &Run| run.stderr.contains("generated: 3 tokens");
    config(r#"{"do_sample": false, "max_new_tokens": 3, "eos_token_id": 0}"#);
    let greedy = talk(&[], &[]);
    assert!(length(&greedy), "as many as the file says: {}", greedy.stderr);
    assert_eq!(greedy.stdout, talk(&["--temperature", "0"], &[]).stdout, "do_sample false is greedy");
    let hot = talk(&["--temperature", "9", "--top-k", "0"], &[]);
    assert_ne!(hot.stdout, greedy.stdout, "a flag wins");
    assert_eq!(talk(&["--top-k", "0"], &[("WGPT_TEMPERATURE", "9")]).stdout, hot.stdout, "so does a variable");
    assert!(!length(&talk(&["--max-new-tokens", "2"], &[])), "and a limit");
    config(r#"{"temperature": 9, "top_k": 0, "max_new_tokens": 3, "eos_token_id": 0}"#);
    assert_eq!(talk(&[], &[]).stdout, hot.stdout, "the file's sampling is the flags' sampling");
    // generate keeps its own
    let generated = |more: &[&str]| {
        let fixed = ["generate", "--checkpoint", utf8(&path), "--adapter", "host", "--seed", "5", "--quiet"];
        run(&[&fixed[..], &["--prompt", "Hello"], more].concat(), "", &[]).stdout
    };
    let own = ["--temperature", "0.8", "--top-k", "200", "--max-new-tokens", "50"];
    assert_eq!(generated(&[]), generated(&own), "temperature 0.8, top-k 200, 50 tokens");
}

#[test]
fn a_generation_config_out_of_range_is_an_error_that_names_file_and_key() {
    let (_folder, path) = copy(INSTRUCT, "model");
    let cases = [
        (r#"{"temperature": -1}"#, "temperature"),
        (r#"{"top_p": 1.2}"#, "top_p"),
        (r#"{"top_k": "many"}"#, "top_k"),
        (r#"{"eos_token_id": "x"}"#, "eos_token_id"),
        ("{", "JSON"),
    ];
    for (json, key) in cases {
        std::fs::write(path.join("generation_config.json"), json).expect("written");
        refused(&chat(&path, &[], "Hello\n"), &["generation_config.json", if key == "JSON" { "EOF" } else { key }]);
    }
}

/// A GGUF metadata pair: its key, the number of its type, its value.
fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&(key.len() as u64).to_le_bytes()[..], key.as_bytes(), &kind.to_le_bytes(), value].concat()
}

fn text(key: &str, value: &str) -> Vec<u8> {
    pair(key, 8, &[&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat())
}

/// The name that the GPT-NeoX vocabulary's metadata gives.
const NAME: &[u8] = b"gpt-neox-20b";

/// The GPT-NeoX vocabulary with further metadata, opened.
fn gguf(pairs: &[Vec<u8>]) -> Checkpoint {
    named_gguf(NAME, pairs)
}

/// The same under a name that is as long as its own.
fn named_gguf(name: &[u8], pairs: &[Vec<u8>]) -> Checkpoint {
    let mut bytes = std::fs::read(repository("checkpoints/vocab/ggml-vocab-gpt-neox.gguf")).expect("the vocabulary");
    let at = bytes.windows(NAME.len()).position(|window| window == NAME).expect("its name");
    bytes[at..at + NAME.len()].copy_from_slice(name);
    // magic, version and the number of tensors, which is none; then the number of pairs, then the pairs
    let count = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes")) + pairs.len() as u64;
    bytes.splice(16..24, [&count.to_le_bytes()[..], &pairs.concat()].concat());
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("written");
    Checkpoint::open(&path).expect("a valid file")
}

fn language(pairs: &[Vec<u8>]) -> Language {
    Language::of(&gguf(pairs)).expect("a vocabulary")
}

#[test]
fn a_gguf_file_s_templates_come_by_name() {
    let named = |name: &str, source: &str| text(&format!("tokenizer.chat_template{name}"), source);
    let language = language(&[named("", "default"), named(".tool_use", "tools"), named("_notes", "not one")]);
    assert_eq!(language.chat_templates().collect::<Vec<_>>(), ["default", "tool_use"], "both and no other");
    let format = |name| language.chat_format(name).expect("a format").to_string();
    assert_eq!(format(None), "the checkpoint's template", "the default");
    assert_eq!(format(Some("tool_use")), "the checkpoint's template \"tool_use\"", "by name");
}

#[test]
fn a_gguf_file_s_own_name_calls_for_a_style_too() {
    let format = |name: &[u8]| {
        let language = Language::of(&named_gguf(name, &[])).expect("a vocabulary");
        language.chat_format(None).expect("a format").to_string()
    };
    assert_eq!(format(NAME), "plain text", "a name that calls for none");
    assert_eq!(format(b"vicuna-7b-v1"), "style vicuna", "`general.name`, whatever the file is called");
}

#[test]
fn a_gguf_file_s_ends_of_turn_and_message_end_a_reply() {
    let id = |key: &str, id: u32| pair(&format!("tokenizer.ggml.{key}"), 4, &id.to_le_bytes());
    let ends = language(&[id("eot_token_id", 11), id("eom_token_id", 12)]).end_ids;
    assert!([0, 11, 12].iter().all(|id| ends.contains(id)), "EOS, end of turn, end of message: {ends:?}");
    let far = Language::of(&gguf(&[id("eom_token_id", 99_999_999)])).expect_err("no such token").to_string();
    assert!(far.contains("eom_token_id") && far.contains("99999999"), "{far}");
}

#[test]
fn a_gguf_file_s_sampling_is_read() {
    let float = |key: &str, value: f32| pair(&format!("general.sampling.{key}"), 6, &value.to_le_bytes());
    let top_k = |value: i32| pair("general.sampling.top_k", 5, &value.to_le_bytes());
    let read = |pairs: &[Vec<u8>]| SamplingDefaults::of(&gguf(pairs));
    let found = read(&[float("temp", 0.5), float("top_p", 0.9), float("penalty_repeat", 1.1), top_k(-1)]);
    let expected = SamplingDefaults {
        temperature: Some(0.5),
        top_k: Some(0),
        top_p: Some(0.9),
        repetition_penalty: Some(1.1),
        ..SamplingDefaults::default()
    };
    assert_eq!(found.expect("in range"), expected, "all that is there");
    assert_eq!(read(&[]).expect("nothing"), SamplingDefaults::default(), "nothing is made up");
    let error = read(&[float("top_p", 1.5)]).expect_err("out of range").to_string();
    assert!(error.contains("model.gguf") && error.contains("general.sampling.top_p"), "names both: {error}");
}
