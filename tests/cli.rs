//! The program as a user runs it: help, usage errors, bad input, and every command on the tiny checkpoints.

mod common;

use std::path::Path;

use assert_cmd::Command;
use common::{golden, max_difference, repository};
use serde_json::Value;

/// A small checkpoint with a tokenizer and a chat template.
const LLAMA: &str = "checkpoints/tiny-llama-gqa";

/// The program, in the repository, without the user's settings.
fn wgpt(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
    command.current_dir(repository("")).args(args);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WGPT_")) {
        command.env_remove(name);
    }
    // What one test leaves must not be found by another.
    command.env("WGPT_NO_CACHE", "1");
    // What was measured, tuned and compiled before would make runs differ.
    command.env("XDG_CACHE_HOME", common::cache_folder());
    command
}

/// What a run left: exit code, stdout, stderr.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(command: &mut Command) -> Run {
    let output = command.output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("whole UTF-8");
    Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A run that must succeed.
fn ok(args: &[&str]) -> Run {
    let run = run(&mut wgpt(args));
    assert_eq!(run.code, Some(0), "{args:?}: {}", run.stderr);
    run
}

/// A run that must fail with exit code 1, print nothing on stdout and name every one of `parts` in its error.
fn fails(args: &[&str], parts: &[&str]) {
    let run = run(&mut wgpt(args));
    assert_eq!(run.code, Some(1), "{args:?}: {}", run.stderr);
    assert_eq!(run.stdout, "", "{args:?} prints nothing");
    assert!(run.stderr.contains("error: "), "{args:?}: {}", run.stderr);
    assert!(!run.stderr.contains("panicked"), "{args:?}: {}", run.stderr);
    for part in parts {
        assert!(run.stderr.contains(part), "{args:?} names {part:?}: {}", run.stderr);
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// `generate` on the host, greedy, quiet, with further flags.
fn greedy<'a>(prompt: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["generate", "--checkpoint", LLAMA, "--adapter", "host", "--temperature", "0", "--quiet", "--prompt"];
    [&fixed, &[prompt][..], more].concat()
}

#[test]
fn help_lists_every_command_flag_default_and_variable() {
    let help = ok(&["--help"]).stdout;
    let commands = [
        "generate",
        "chat",
        "logits",
        "tokenize",
        "perplexity",
        "compare",
        "adapters",
        "inspect",
        "plan",
        "bench",
        "quantize",
    ];
    for command in commands {
        assert!(help.contains(command), "{command} is listed: {help}");
        assert!(ok(&[command, "--help"]).stdout.contains("Usage: wgpt"), "{command} has help");
    }
    let help = ok(&["generate", "--help"]).stdout;
    let flags = [
        "--prompt",
        "--prompt-file",
        "--checkpoint",
        "--num-samples",
        "--max-new-tokens",
        "--temperature",
        "--top-k",
        "--top-p",
        "--min-p",
        "--repetition-penalty",
        "--seed",
        "--stop",
        "--context-length",
        "--adapter",
        "--adapters",
        "--memory",
        "--memory-fraction",
        "--offload",
        "--kv-cache",
        "--speculate",
        "--draft",
        "--draft-adapter",
        "--draft-tokens",
        "--quiet",
    ];
    for part in flags.iter().chain(&["[default: 50]", "[default: 0.8]", "[default: 200]", "WGPT_TOP_P"]) {
        assert!(help.contains(part), "{part} is documented: {help}");
    }
    let help = ok(&["chat", "--help"]).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "--template",
        "--system",
        "generation_config.json",
        "checkpoint's, else 0.8",
        "checkpoint's, else 200",
        "/system TEXT",
        "/save FILE",
        "empty lines are skipped",
    ] {
        assert!(help.contains(part), "{part} is documented: {help}");
    }
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_right() {
    let wrong: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["sing"], "unrecognized subcommand"),
        (&["generate"], "<--prompt <TEXT>|--prompt-file <FILE>>"),
        (&["generate", "--prompt", "a", "--prompt-file", "b"], "cannot be used with"),
        (&["generate", "--prompt", "a", "--loud"], "--loud"),
        (&["generate", "--prompt", "a", "--temperature", "-1"], "--temperature"),
        (&["generate", "--prompt", "a", "--temperature=-1"], "0 or more"),
        (&["generate", "--prompt", "a", "--top-p", "1.5"], "from 0 to 1"),
        (&["generate", "--prompt", "a", "--repetition-penalty", "0"], "greater than 0"),
        (&["generate", "--prompt", "a", "--num-samples", "0"], "--num-samples"),
        (&["logits", "--tokens", "1,x"], "--tokens"),
        (&["bench", "--format", "xml"], "possible values: md, json, csv"),
        (&["bench", "--quantize", "q9_k"], "expected one of f32"),
        (&["bench", "--requantize"], "--quantize"),
        (&["plan", "--kv-cache", "q5_0"], "expected one of f16, f32, q8_0, q4_0"),
        (&["generate", "--prompt", "a", "--kv-cache", "8"], "--kv-cache"),
        (&["quantize", "--kv-cache", "q8_0"], "--kv-cache"),
        (&["quantize", "--quantize", "q4_0"], "--output"),
        (&["quantize", "--output", "x.gguf"], "--quantize"),
        (&["bench", "--profile", "--format", "csv"], "--profile has no form in CSV"),
    ];
    for (args, part) in wrong {
        let run = run(&mut wgpt(args));
        assert_eq!(run.code, Some(2), "{args:?}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{args:?} prints nothing on stdout");
        assert!(run.stderr.contains(part), "{args:?} says {part:?}: {}", run.stderr);
    }
}

#[test]
fn settings_come_from_the_environment_too() {
    let run = run(wgpt(&["generate", "--prompt", "a"]).env("WGPT_TOP_P", "2"));
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("--top-p"), "the flag is named: {}", run.stderr);
}

#[test]
fn variables_give_way_to_what_is_typed() {
    let with = |args: &[&str], variables: &[(&str, &str)]| run(wgpt(args).envs(variables.iter().copied()));
    let plan = ["plan", "--checkpoint", LLAMA];
    for (typed, variables) in [
        (&["--adapters", "0,0"][..], &[("WGPT_ADAPTER", "host")][..]),
        (&["--adapter", "0"], &[("WGPT_ADAPTERS", "0,0")]),
        (&["--adapter", "0"], &[("WGPT_ADAPTERS", "0,0"), ("WGPT_MEMORY", "0=1GiB,0=1GiB")]),
        (&["--memory", "1GiB"], &[("WGPT_MEMORY_FRACTION", "0.0001")]),
        (&[], &[("WGPT_QUANTIZE_HEAD", "q8_0"), ("WGPT_GROUP_SIZE", "32"), ("WGPT_REQUANTIZE", "1")]),
        (&["--quantize", "q4_0"], &[("WGPT_CALIBRATION", "no/such/text"), ("WGPT_ACT_ORDER", "1")]),
        (&[], &[("WGPT_MEMORY", ""), ("WGPT_OFFLOAD", ""), ("WGPT_CONTEXT_LENGTH", "")]),
    ] {
        let (expected, found) = (ok(&[&plan[..], typed].concat()), with(&[&plan[..], typed].concat(), variables));
        assert_eq!(found.code, Some(0), "{typed:?} with {variables:?}: {}", found.stderr);
        let units =
            |run: &Run| run.stdout.lines().take_while(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(units(&found), units(&expected), "{typed:?} with {variables:?} as without");
    }
    let few = greedy("Once upon a time", &["--max-new-tokens", "4"]);
    let expected = ok(&few).stdout;
    for variables in [
        &[("WGPT_DRAFT_TOKENS", "3")][..],
        &[("WGPT_SEED", ""), ("WGPT_STOP", "")],
        &[("WGPT_MEMORY", "1GiB"), ("WGPT_OFFLOAD", "all")],
        &[("WGPT_DRAFT_ADAPTER", "0"), ("WGPT_DRAFT_TOKENS", "3"), ("WGPT_SPECULATE", "lookup")],
    ] {
        let found = with(&few, variables);
        assert_eq!((found.code, found.stdout.as_str()), (Some(0), &*expected), "{variables:?}: {}", found.stderr);
    }
    let guess = [&few[..], &["--draft", LLAMA]].concat();
    let guess: Vec<&str> = guess.into_iter().filter(|arg| *arg != "--quiet").collect();
    let found = with(&guess, &[("WGPT_SPECULATE", "lookup"), ("WGPT_DRAFT_TOKENS", "2")]);
    assert!(found.code == Some(0) && found.stderr.contains("guesses: "), "the draft guesses: {}", found.stderr);
    // A partner may be typed or a variable too.
    let int8 = with(&["plan", "--checkpoint", LLAMA, "--quantize-head", "q8_0"], &[("WGPT_QUANTIZE", "q4_0")]);
    assert_eq!(int8.code, Some(0), "{}", int8.stderr);
    for (variables, part) in [
        (&[("WGPT_ADAPTER", "0"), ("WGPT_ADAPTERS", "2")][..], "cannot be used with"),
        (&[("WGPT_QUANTIZE", "gptq.int4"), ("WGPT_GROUP_SIZE", "48")], "expected 128, 64, 32 or -1"),
        (&[("WGPT_QUANTIZE", "gptq.int4")], "needs --calibration FILE"),
    ] {
        let found = with(&["logits", "--checkpoint", LLAMA, "--tokens", "1"], variables);
        assert_eq!(found.code, Some(2), "{variables:?}: {}", found.stderr);
        assert!(found.stderr.contains(part), "{part}: {}", found.stderr);
    }
    let partly = with(&["quantize", "--checkpoint", LLAMA], &[("WGPT_QUANTIZE", "q8_0")]);
    let names = |flag: &str| partly.stderr.split("Usage").next().is_some_and(|missing| missing.contains(flag));
    assert!(names("--output") && !names("--quantize"), "only what is missing: {}", partly.stderr);
    assert!(
        with(&["generate", "--help"], &[("WGPT_SEED", "")]).stdout.contains("WGPT_SEED"),
        "help tells of them still"
    );
}

#[test]
fn a_missing_checkpoint_is_an_error_that_lists_what_there_is() {
    for command in ["tokenize", "inspect"] {
        let more: &[&str] = if command == "tokenize" { &["text"] } else { &[] };
        let args = [&[command, "--checkpoint", "no/such/model"], more].concat();
        fails(&args, &["no/such/model", "tiny-llama-gqa", "fetch"]);
    }
}

#[test]
fn a_checkpoint_is_found_below_checkpoints() {
    let there = ok(&["tokenize", "--checkpoint", LLAMA, "Hello"]).stdout;
    assert_eq!(ok(&["tokenize", "--checkpoint", "tiny-llama-gqa", "Hello"]).stdout, there, "by its name alone");
}

#[test]
fn clearing_the_cache_of_what_is_not_there_is_an_error() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let clear = |path: &str| run(wgpt(&["cache", "clear", path]).env("XDG_CACHE_HOME", folder.path()));
    let misspelled = clear("wgpt-storys-4m");
    assert_eq!(misspelled.code, Some(1), "{}", misspelled.stderr);
    for part in ["wgpt-storys-4m", "cache list", "checkpoints/ holds"] {
        assert!(misspelled.stderr.contains(part), "{part:?}: {}", misspelled.stderr);
    }
    assert_eq!(clear(LLAMA).code, Some(0), "a checkpoint that has nothing there");
}

#[test]
fn damaged_checkpoints_are_errors_that_name_the_file() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    for entry in std::fs::read_dir(repository(LLAMA)).expect("the checkpoint").map(|entry| entry.expect("an entry")) {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copied");
    }
    let path = folder.path().to_str().expect("a UTF-8 path").to_owned();
    let weights = folder.path().join("model.safetensors");
    let whole = std::fs::read(&weights).expect("the weights");
    std::fs::write(&weights, &whole[..whole.len() / 2]).expect("written");
    fails(&["logits", "--checkpoint", &path, "--tokens", "1", "--adapter", "host"], &["model.safetensors"]);
    std::fs::write(&weights, &whole).expect("written");
    std::fs::write(folder.path().join("config.json"), "{").expect("written");
    fails(&["logits", "--checkpoint", &path, "--tokens", "1", "--adapter", "host"], &["config.json"]);
    let config = r#"{"model_type": "perceptron"}"#;
    std::fs::write(folder.path().join("config.json"), config).expect("written");
    fails(&["logits", "--checkpoint", &path, "--tokens", "1", "--adapter", "host"], &["perceptron"]);
}

#[test]
fn an_unknown_adapter_is_an_error_that_lists_what_there_is() {
    let args = ["generate", "--checkpoint", LLAMA, "--prompt", "a", "--adapter", "Voodoo2"];
    fails(&args, &["Voodoo2"]);
    fails(&["generate", "--checkpoint", LLAMA, "--prompt", "a", "--adapter", "99"], &["99"]);
}

#[test]
fn surplus_budgets_of_an_adapter_are_refused() {
    let args = ["plan", "--checkpoint", LLAMA, "--memory", "0=200MB,0=300MB,0=1GB"];
    fails(&args, &["adapter 0", "3 times", "1 times"]);
    fails(&[&args[..], &["--adapters", "0,0"]].concat(), &["3 times", "2 times"]);
    ok(&[&args[..], &["--adapters", "0,0,0"]].concat());
}

#[test]
fn generate_prints_the_prompt_and_its_continuation_only() {
    let prompt = "Once upon a time";
    let run = ok(&greedy(prompt, &[]));
    assert!(run.stdout.starts_with(prompt) && run.stdout.len() > prompt.len(), "continued: {:?}", run.stdout);
    assert_eq!(run.stderr, "", "--quiet leaves stderr empty");
    assert_eq!(ok(&greedy(prompt, &["--max-new-tokens", "0"])).stdout, prompt, "nothing new");
}

#[test]
fn drivers_don_t_tell_of_a_display_that_isn_t_there() {
    let mut command = wgpt(&["generate", "--prompt", "Once upon a time", "--max-new-tokens", "2", "--quiet"]);
    let run = run(command.env_remove("XDG_RUNTIME_DIR").env_remove("NODEVICE_SELECT"));
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "a machine without a desktop");
}

#[test]
fn a_log_is_kept_where_it_is_asked_for() {
    let args = ["generate", "--checkpoint", LLAMA, "--prompt", "a", "--max-new-tokens", "2", "--quiet"];
    let logged = |filter: &str| run(wgpt(&args).env("WGPT_LOG", filter)).stderr;
    assert_eq!(logged(""), "", "an empty filter is none");
    let log = logged("debug");
    for part in ["1 files, ", "bytes mapped", "opened: ", "plan: ", "pipelines compiled", "wgpu_core"] {
        assert!(log.contains(part), "{part:?} is logged: {log}");
    }
    assert!(!logged("info").contains("pipelines compiled"), "as much as was asked for");
}

#[test]
fn the_model_that_comes_with_the_program_needs_no_flag() {
    let args = ["generate", "--prompt", "Once upon a time", "--temperature", "0", "--quiet"];
    let text = ok(&args).stdout;
    assert!(text.starts_with("Once upon a time") && text.split_whitespace().count() > 20, "a story: {text:?}");
}

#[test]
fn an_installed_program_carries_its_model_along() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let mut command = wgpt(&["tokenize", "Once upon a time"]);
    command.current_dir(folder.path()).env("XDG_CACHE_HOME", folder.path());
    let elsewhere = run(&mut command);
    assert_eq!(elsewhere.code, Some(0), "{}", elsewhere.stderr);
    assert_eq!(elsewhere.stdout, ok(&["tokenize", "Once upon a time"]).stdout, "the same model");
    assert_eq!(std::fs::read_dir(folder.path().join("wgpt")).expect("the cache").count(), 1, "unpacked once");
}

#[test]
fn generate_says_what_it_cost_on_stderr() {
    let args = ["generate", "--checkpoint", LLAMA, "--adapter", "host", "--prompt", "Once", "--max-new-tokens", "3"];
    let run = ok(&args);
    for part in ["loaded", "prompt: ", "generated: 3 tokens", "tokens/s", "memory on host", "seed: "] {
        assert!(run.stderr.contains(part), "{part:?} is there: {}", run.stderr);
    }
}

#[test]
fn a_prompt_comes_from_the_command_line_stdin_or_a_file() {
    let typed = ok(&greedy("Héllo wörld\n", &[])).stdout;
    let piped = run(wgpt(&greedy("-", &[])).write_stdin("Héllo wörld\n"));
    assert_eq!(piped.stdout, typed, "stdin: {}", piped.stderr);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "Héllo wörld\n").expect("written");
    let mut args = greedy("", &["--prompt-file", file.to_str().expect("a UTF-8 path")]);
    args.retain(|arg| !arg.is_empty() && *arg != "--prompt");
    assert_eq!(ok(&args).stdout, typed, "file");
    fails(&["generate", "--prompt-file", "no/such/file", "--checkpoint", LLAMA], &["no/such/file"]);
}

#[test]
fn the_same_seed_gives_the_same_text_and_samples_differ() {
    let args = |seed: &'static str| {
        let fixed = ["generate", "--checkpoint", LLAMA, "--adapter", "host", "--quiet", "--prompt", "One"];
        [&fixed[..], &["--num-samples", "2", "--temperature", "2", "--seed", seed]].concat()
    };
    let first = ok(&args("1")).stdout;
    assert_eq!(ok(&args("1")).stdout, first, "repeatable");
    assert_ne!(ok(&args("2")).stdout, first, "another seed");
    let samples: Vec<&str> = first.match_indices("One").map(|(at, _)| &first[at..]).collect();
    assert!(samples.len() >= 2 && first.contains("\nOne"), "two texts, a line break between: {first:?}");
}

#[test]
fn the_adapter_and_the_host_write_the_same_text() {
    let on_host = ok(&greedy("Once upon a time", &[])).stdout;
    let args: Vec<&str> =
        greedy("Once upon a time", &[]).into_iter().filter(|arg| !["--adapter", "host"].contains(arg)).collect();
    assert_eq!(ok(&args).stdout, on_host, "greedy, f32 weights");
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let prompt = "Once upon a time";
    let whole = ok(&greedy(prompt, &[])).stdout;
    let continuation = &whole[prompt.len()..];
    let stop: String = continuation.chars().skip(6).take(3).collect();
    let expected = &continuation[..continuation.find(&stop).expect("it is in there")];
    let found = ok(&greedy(prompt, &["--stop", &stop])).stdout;
    assert_eq!(&found[prompt.len()..], expected, "stopped at {stop:?}");
}

#[test]
fn a_prompt_beyond_the_context_is_refused() {
    let long = "word ".repeat(300);
    fails(&greedy(&long, &[]), &["256"]);
    fails(&greedy("some words that need more than two tokens", &["--context-length", "2"]), &["--context-length", "2"]);
    fails(&greedy("a", &["--context-length", "100000"]), &["100000"]);
    let run = run(&mut wgpt(&greedy(&long, &[])));
    assert!(!run.stderr.contains("--context-length"), "the model has no more: {}", run.stderr);
}

#[test]
fn a_context_beyond_the_model_s_is_refused_without_flags_that_are_not_there() {
    let text = repository("tests/golden/perplexity.txt").display().to_string();
    let ids = vec!["1"; 257].join(",");
    for args in [
        &["perplexity", "--file", &text, "--context", "257"][..],
        &["perplexity", "--file", &text, "--context-length", "257"],
        &["logits", "--tokens", &ids],
        &["bench", "-p", "257", "-n", "0"],
    ] {
        let args = [args, &["--checkpoint", LLAMA, "--adapter", "host"]].concat();
        fails(&args, &["a context of 257 tokens is more than the 256 positions the model was made for"]);
        let run = run(&mut wgpt(&args));
        assert!(!run.stderr.contains("--context-length"), "{}", run.stderr);
    }
}

#[test]
fn a_reader_that_closes_stdout_is_no_error() {
    use std::io::Read;
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_wgpt"))
        .current_dir(repository(""))
        .env("XDG_CACHE_HOME", common::cache_folder())
        .args(greedy("Once upon a time", &["--max-new-tokens", "200"]))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    stdout.read_exact(&mut [0; 8]).expect("the prompt begins");
    drop(stdout);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn chat_answers_each_piped_line_and_obeys_commands() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("talk.json");
    let save = format!("/save {}", file.display());
    let input = format!("\n/help\nHello\n  \n//And you?\n\n{save}\n/exit\nnever read\n");
    let flags = ["--adapter", "host", "--temperature", "0", "--max-new-tokens", "6", "--system", "Be brief."];
    let args = [&["chat", "--checkpoint", LLAMA][..], &flags].concat();
    let run = run(wgpt(&args).write_stdin(input));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    for part in ["/reset", "held from before", "saved to"] {
        assert!(run.stderr.contains(part), "{part:?} is on stderr: {}", run.stderr);
    }
    let saved = json(&std::fs::read_to_string(file).expect("saved"));
    let roles: Vec<&str> = saved.as_array().expect("a list").iter().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"], "until it was saved: {saved}");
    assert_eq!(saved[3]["content"], "/And you?", "two slashes are one: {saved}");
    let replies = [2, 4].map(|at| saved[at]["content"].as_str().expect("a text").to_owned() + "\n").concat();
    assert_eq!(run.stdout, replies, "stdout is the replies");
}

#[test]
fn a_line_from_a_pipe_that_fails_is_said_and_fails_the_chat_in_the_end() {
    let args = ["chat", "--checkpoint", LLAMA, "--adapter", "host", "--temperature", "0", "--max-new-tokens", "2"];
    for wrong in ["/dance", "/usr/bin is full", "/save", "/save no/such/folder/talk.txt"] {
        let run = run(wgpt(&args).write_stdin(format!("{wrong}\nHello\n")));
        assert_eq!(run.code, Some(1), "{wrong}: {}", run.stderr);
        let first = wrong.split(' ').next().expect("a word").trim_end_matches("/bin");
        let named = run.stderr.contains(first) || run.stderr.contains("talk.txt: cannot write");
        assert!(named && run.stderr.contains("1 failed"), "{wrong}: {}", run.stderr);
        assert!(run.stderr.contains("generated: "), "the next line is answered: {}", run.stderr);
    }
}

#[test]
fn chat_that_outgrows_the_context_says_so_and_goes_on() {
    let args = ["chat", "--checkpoint", LLAMA, "--adapter", "host", "--context-length", "48", "--max-new-tokens", "4"];
    let long = "a rather long message that does not fit into so short a context at all, whatever one tries to do";
    let run = run(wgpt(&args).write_stdin(format!("{long}\nHi\n")));
    assert_eq!(run.code, Some(1), "in the end: {}", run.stderr);
    assert!(run.stderr.contains("/reset"), "says what to do: {}", run.stderr);
    assert!(run.stderr.contains("generated: "), "the second message is answered: {}", run.stderr);
}

#[test]
fn logits_equal_the_golden_ones_in_a_file() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    for name in ["tiny-llama-gqa", "tiny-gpt-neox-parallel"] {
        let golden = golden(&repository("checkpoints").join(name));
        let tokens = golden.tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let file = folder.path().join("out.safetensors");
        let output = file.to_str().expect("a UTF-8 path");
        ok(&["logits", "--checkpoint", name, "--adapter", "host", "--tokens", &tokens, "--output", output]);
        let bytes = std::fs::read(&file).expect("written");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let logits = tensors.tensor("logits").expect("it holds logits");
        assert_eq!(logits.shape()[0], golden.tokens.len(), "a row a token");
        let found: Vec<f32> =
            logits.data().chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().expect("four"))).collect();
        assert!(max_difference(&golden.logits, &found) <= 1e-4, "{name}");
        let ids = tensors.tensor("tokens").expect("it holds tokens");
        let ids: Vec<u32> =
            ids.data().chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four"))).collect();
        assert_eq!(ids, golden.tokens, "{name}");
    }
}

#[test]
fn logits_as_text_are_the_five_best_of_each_position() {
    let run = ok(&["logits", "--checkpoint", LLAMA, "--adapter", "host", "--tokens", "5,6"]);
    assert_eq!(run.stdout.lines().count(), 12, "two positions: {}", run.stdout);
}

#[test]
fn tokens_out_of_range_write_no_file() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("out.safetensors");
    let output = file.to_str().expect("a UTF-8 path");
    let args = ["logits", "--checkpoint", LLAMA, "--adapter", "host", "--tokens", "1,99999", "--output", output];
    fails(&args, &["99999", "512"]);
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing half-written");
}

#[test]
fn a_place_that_can_t_be_written_to_is_refused_before_anything_is_loaded() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let folder = folder.path().to_str().expect("UTF-8");
    let nowhere = format!("{folder}/no/such/file");
    for (place, why) in [(folder, "is a folder"), (&*nowhere, "cannot write")] {
        for args in [&["logits", "--tokens", "1", "--output"][..], &["bench", "-p", "4", "-n", "0", "--trace"]] {
            let args = [args, &[place, "--checkpoint", LLAMA]].concat();
            fails(&args, &[place, why]);
            assert!(!run(&mut wgpt(&args)).stderr.contains("loaded"), "{args:?}: at once");
        }
    }
}

#[test]
fn tokenize_equals_the_references() {
    for (reference, checkpoint) in [("tiny", LLAMA), ("falcon", "checkpoints/vocab/ggml-vocab-falcon.gguf")] {
        let path = repository("tests/golden/tokenizer").join(reference).with_extension("json");
        let golden = json(&std::fs::read_to_string(path).expect("the reference"));
        let cases = golden["cases"].as_array().expect("cases");
        // each case starts the program: take some from everywhere; the tokenizer's own tests take all
        for case in cases.iter().step_by(cases.len() / 8) {
            let text = case["text"].as_str().expect("a text");
            if text.contains('\0') || text == "-" {
                continue;
            }
            let args = ["tokenize", "--checkpoint", checkpoint, "--json", "--no-special", "--", text];
            let found = json(&ok(&args).stdout);
            assert_eq!(found["ids"], case["ids"], "{reference}: {text:?}");
            let (ids, pieces) = (found["ids"].as_array(), found["pieces"].as_array());
            assert_eq!(ids.map(Vec::len), pieces.map(Vec::len), "a piece an id: {text:?}");
        }
    }
}

#[test]
fn tokenize_reads_stdin_and_prints_a_line_a_token() {
    let typed = ok(&["tokenize", "--checkpoint", LLAMA, "two words"]).stdout;
    let piped = run(wgpt(&["tokenize", "--checkpoint", LLAMA, "-"]).write_stdin("two words"));
    assert_eq!(piped.stdout, typed, "{}", piped.stderr);
    let count =
        json(&ok(&["tokenize", "--checkpoint", LLAMA, "--json", "two words"]).stdout)["ids"].as_array().map(Vec::len);
    assert_eq!(Some(typed.lines().count()), count, "{typed}");
}

#[test]
fn perplexity_is_that_of_the_second_halves() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("text.txt");
    std::fs::write(&file, "The quick brown fox jumps over the lazy dog. ".repeat(12)).expect("written");
    let path = file.to_str().expect("a UTF-8 path");
    let fixed = ["perplexity", "--checkpoint", LLAMA, "--adapter", "host", "--file", path, "--context", "32"];
    let run = ok(&[&fixed[..], &["--chunks", "3"]].concat());
    let found: f64 = run
        .stdout
        .strip_prefix("PPL = ")
        .and_then(|rest| rest.split(' ').next())
        .map_or(f64::NAN, |number| number.parse().unwrap_or(f64::NAN));
    let expected = reference_perplexity(&file, 32, 3);
    assert!((found - expected).abs() <= 1e-3 * expected, "{found} against {expected}: {}", run.stdout);
    assert!(run.stderr.contains("[3] "), "the running value: {}", run.stderr);
    fails(&["perplexity", "--checkpoint", LLAMA, "--file", path, "--context", "256", "--adapter", "99"], &["99"]);
    std::fs::write(&file, "short").expect("written");
    fails(&fixed, &["text.txt", "--context"]);
}

/// The method, directly: all logits of each window, the second half scored.
fn reference_perplexity(file: &Path, window: usize, windows: usize) -> f64 {
    let text = std::fs::read_to_string(file).expect("the text");
    let ids = json(&run(wgpt(&["tokenize", "--checkpoint", LLAMA, "--json", "-"]).write_stdin(text)).stdout);
    let ids: Vec<u32> = serde_json::from_value(ids["ids"].clone()).expect("ids");
    let checkpoint = wgpt::checkpoint::Checkpoint::open(&repository(LLAMA)).expect("the checkpoint");
    let options = wgpt::exec::ExecOptions { adapter: wgpt::gpu::AdapterChoice::Host, ..Default::default() };
    let (mut executor, _) = wgpt::exec::open(&checkpoint, &options, &mut |_| ()).expect("it loads");
    let (mut sum, mut count) = (0.0, 0.0);
    for tokens in ids.chunks_exact(window).take(windows) {
        let batch = wgpt::exec::Batch { tokens, position: 0, logits: wgpt::exec::LogitRows::All };
        let logits = executor.forward(&batch).expect("a forward");
        for (row, &next) in logits.rows().zip(&tokens[1..]).skip(window / 2) {
            let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            sum += total.ln() - f64::from(row[next as usize]);
            count += 1.0;
        }
    }
    f64::exp(sum / count)
}

/// `compare` on the host, as JSON.
fn compare(args: &[&str]) -> Value {
    let fixed = ["compare", "--adapter", "host", "--quiet", "--json"];
    json(&ok(&[&fixed[..], args].concat()).stdout)
}

#[test]
fn comparisons_are_those_of_float64_references() {
    let golden = json(&std::fs::read_to_string(repository("tests/golden/compare.json")).expect("the golden file"));
    for case in golden["cases"].as_array().expect("cases") {
        let path = |key: &str| format!("checkpoints/{}", case[key].as_str().expect("a checkpoint"));
        let (a, b) = (path("a"), path("b"));
        let (context, chunks) = (case["context"].to_string(), case["chunks"].to_string());
        let mut args = vec![&a[..], &b, "--text", "tests/golden/perplexity.txt", "--context", &context];
        args.extend(["--chunks", &chunks, "--kv-cache", "f32"]);
        if case["quantized"] == true {
            args.extend(["--quantize-b", "q8_0"]);
        }
        let found = compare(&args);
        assert_eq!(found["scored"], case["scored"], "{case}: {found}");
        let near = |found: &Value, expected: &Value, tolerance: f64, what: &str| {
            let numbers = found.as_f64().zip(expected.as_f64());
            let near = numbers.is_some_and(|(found, expected)| (found - expected).abs() <= tolerance * expected.abs());
            assert!(near, "{a} and {b}: {what} is {found}, torch has {expected}");
        };
        near(&found["a"]["perplexity"], &case["perplexity"][0], 1e-5, "the perplexity of A");
        near(&found["b"]["perplexity"], &case["perplexity"][1], 1e-5, "the perplexity of B");
        for figure in ["mean", "median", "p99", "max"] {
            near(&found["kl_divergence"][figure], &case["kl_divergence"][figure], 1e-3, figure);
        }
        near(&found["same_top_token"], &case["same_top_token"], 1e-12, "the share of equal tokens");
        for figure in ["mean_absolute", "rms"] {
            near(&found["probability_change"][figure], &case[figure], 1e-3, figure);
        }
    }
}

#[test]
fn a_checkpoint_is_no_distance_from_itself_and_others_are_refused() {
    let text = ["--text", "tests/golden/perplexity.txt", "--context", "32", "--chunks", "2"];
    let same = compare(&[&[LLAMA][..], &text].concat());
    for figure in ["mean", "median", "p99", "max"] {
        assert_eq!(same["kl_divergence"][figure], 0.0, "exactly: {same}");
    }
    assert_eq!((&same["same_top_token"], &same["perplexity_ratio"]), (&json("1.0"), &json("1.0")), "{same}");
    // an adapter's kernels against the host's loops
    let adapter = ["compare", LLAMA, "--adapter-b", "host", "--quiet", "--json"];
    let found = json(&ok(&[&adapter[..], &text].concat()).stdout);
    assert!(found["kl_divergence"]["max"].as_f64().is_some_and(|max| max < 1e-5), "{found}");
    let shown = ok(&[&["compare", LLAMA, LLAMA, "--adapter", "host", "--quantize-b", "q4_0"][..], &text].concat());
    for part in ["perplexity of A", "ratio B / A", "KL divergence, mean", "99th percentile", "same top token", "Δp"] {
        assert!(shown.stdout.contains(part), "{part}: {}", shown.stdout);
    }
    let other = "checkpoints/wgpt-stories-4m";
    fails(&[&["compare", LLAMA, other][..], &text].concat(), &[LLAMA, other, "can't be compared", "512"]);
}

#[test]
fn a_profile_tells_of_kernels_layers_and_idle_time() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = folder.path().join("trace.json");
    let trace = file.to_str().expect("UTF-8");
    let args = ["bench", "--checkpoint", LLAMA, "-p", "4", "-n", "2", "--repeats", "1", "--profile", "--trace", trace];
    let text = ok(&args).stdout;
    for part in ["| pp4 ", "| tg2 ", "| layer 0 ", "| layer 1 ", "dispatches take", "waits for the host"] {
        assert!(text.contains(part), "{part:?} is there: {text}");
    }
    let trace: Value = serde_json::from_slice(&std::fs::read(&file).expect("written")).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("a list");
    let count = |category: &str| events.iter().filter(|event| event["cat"] == category).count();
    assert_eq!(count("idle"), 2, "one for each forward");
    let kernels = events.len() - count("idle") - count("unit");
    assert!(count("unit") >= 8 && kernels > count("unit"), "units and the kernels inside them: {events:?}");
    let dispatches = text.lines().find(|line| line.starts_with("tg2: ")).expect("a line about the token");
    let of_token = events.iter().filter(|event| event["tid"] == "tg2" && event["cat"] != "unit").count() - 1;
    assert!(dispatches.contains(&format!("tg2: {of_token} dispatches")), "as many as the trace has: {dispatches}");
}

#[test]
fn a_profile_is_part_of_the_json_and_follows_the_figures_of_a_table() {
    let args =
        ["bench", "--checkpoint", LLAMA, "-p", "4", "-n", "2", "--repeats", "1", "--profile", "--format", "json"];
    let figures = json(&ok(&args).stdout);
    for figure in figures.as_array().expect("a list") {
        let profile = &figure["profile"];
        let dispatches = |list: &str| -> u64 {
            let parts = profile[list].as_array().expect("a list");
            parts.iter().filter_map(|part| part["dispatches"].as_u64()).sum()
        };
        let all = profile["dispatches"].as_u64().expect("a number");
        assert!(all > 8 && dispatches("kernels") == all && dispatches("units") == all, "{profile}");
        assert!(profile["forward_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{profile}");
    }
    let plain = json(&ok(&args.iter().filter(|arg| **arg != "--profile").copied().collect::<Vec<_>>()).stdout);
    assert!(plain[0].get("profile").is_none(), "only where it was asked for: {plain}");
}

#[test]
fn what_has_no_profile_is_refused_before_it_is_measured() {
    for (more, part) in [
        (&["--adapter", "host"][..], "--adapter"),
        (&["--adapters", "0,0"], "--adapters"),
        (&["--offload", "all"], "--offload"),
        (&["--prefill-chunk", "32"], "--prefill-chunk 40"),
    ] {
        let args = [&["bench", "--checkpoint", LLAMA, "-p", "40", "-n", "2", "--profile"][..], more].concat();
        fails(&args, &[part, "a profile is of one"]);
        let run = run(&mut wgpt(&args));
        assert!(!run.stderr.contains("tokens/s"), "{args:?} measures nothing: {}", run.stderr);
    }
}

#[test]
fn what_a_probe_measured_is_shown_where_it_can_t_be_kept() {
    let file = tempfile::NamedTempFile::new().expect("a file where a folder should be");
    let run = run(wgpt(&["adapters", "--probe", "--json"]).env("XDG_CACHE_HOME", file.path()));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("could not be kept"), "{}", run.stderr);
    assert!(json(&run.stdout)[0]["rates"]["memory"].as_f64().is_some_and(|rate| rate > 0.0), "{}", run.stdout);
}

#[test]
fn adapters_are_listed_as_a_table_and_as_json() {
    let list = json(&ok(&["adapters", "--json"]).stdout);
    let first = list.as_array().expect("a list").first().expect("tests need an adapter");
    let name = first["name"].as_str().expect("a name");
    assert!(first["limits"]["max_binding"].as_u64().is_some_and(|limit| limit > 0), "{first}");
    let table = ok(&["adapters"]).stdout;
    assert!(table.contains(name) && table.starts_with('|'), "{table}");
}

#[test]
fn inspect_shows_shapes_formats_and_words() {
    let report = json(&ok(&["inspect", "--checkpoint", LLAMA, "--json"]).stdout);
    let model = &report["model"];
    let shape = [&model["layers"], &model["hidden_size"], &model["heads"], &model["kv_heads"], &model["vocab_size"]];
    assert_eq!(shape.map(Value::as_u64), [2, 64, 4, 2, 512].map(Some), "{report}");
    assert_eq!(report["tokenizer"]["chat_template"], true, "{report}");
    assert!(report["formats"]["f32"]["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{report}");
    assert!(ok(&["inspect", "--checkpoint", LLAMA]).stdout.contains("llama"), "as text");
    let vocabulary = ok(&["inspect", "--checkpoint", "checkpoints/vocab/ggml-vocab-gpt-neox.gguf"]).stdout;
    assert!(vocabulary.contains("no weights") && vocabulary.contains("tokenizer"), "{vocabulary}");
}

#[test]
fn the_kv_cache_s_format_is_chosen_and_its_bytes_are_shown() {
    const SMOLLM2: &str = "checkpoints/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
    // 30 layers, keys and values of 3 heads of 64, 4096 tokens; a scale of two bytes for 32 values.
    let values = 30 * 2 * 3 * 64 * 4096;
    for (flags, format, bytes) in [
        (&[][..], "f16", values * 2),
        (&["--kv-cache", "q8_0"], "q8_0", values + values / 16),
        (&["--kv-cache", "Q4_0"], "q4_0", values / 2 + values / 16),
    ] {
        let args = |command| [&[command, "--checkpoint", SMOLLM2, "--json"], flags].concat();
        let inspected = json(&ok(&args("inspect")).stdout);
        assert_eq!(inspected["kv_cache"]["bytes"], bytes, "{format}: {inspected}");
        assert_eq!(inspected["kv_cache"]["format"], format, "{inspected}");
        let planned = json(&ok(&args("plan")).stdout);
        assert_eq!(planned["kv_format"], format, "{planned}");
        assert_eq!(planned["adapters"][0]["bytes"]["kv_cache"], bytes, "{format}: {planned}");
    }
    let shown = ok(&["inspect", "--checkpoint", SMOLLM2, "--kv-cache", "q8_0"]).stdout;
    assert!(shown.contains("in q8_0 for 4096 tokens"), "{shown}");
    let shown = ok(&["plan", "--checkpoint", SMOLLM2, "--kv-cache", "q8_0"]).stdout;
    assert!(shown.contains("keys and values in q8_0"), "{shown}");
}

#[test]
fn every_kv_cache_format_continues_a_prompt_on_adapter_and_host_alike() {
    for format in ["f32", "f16", "q8_0", "q4_0"] {
        let host = ok(&greedy("the cat", &["--max-new-tokens", "6", "--kv-cache", format])).stdout;
        let args = [&greedy("the cat", &["--max-new-tokens", "6"])[..], &["--kv-cache", format]].concat();
        let args: Vec<&str> = args.into_iter().map(|arg| if arg == "host" { "0" } else { arg }).collect();
        assert_eq!(ok(&args).stdout, host, "{format}");
    }
}

#[test]
fn bench_measures_prompts_and_generation() {
    let sizes = ["-p", "8,16", "-n", "4", "-r", "2", "--format", "json"];
    let args = [&["bench", "--checkpoint", LLAMA, "--adapter", "host", "--quiet"][..], &sizes].concat();
    let figures = json(&ok(&args).stdout);
    let kinds: Vec<&str> = figures.as_array().expect("a list").iter().filter_map(|f| f["kind"].as_str()).collect();
    assert_eq!(kinds, ["prompt", "prompt", "generation"], "{figures}");
    assert!(figures[2]["mean"].as_f64().is_some_and(|mean| mean > 0.0), "{figures}");
}

#[test]
fn weights_are_quantized_at_load_and_what_was_done_is_said() {
    let load = |more: &[&str]| {
        let fixed = ["logits", "--checkpoint", LLAMA, "--adapter", "host", "--tokens", "1,2,3"];
        ok(&[&fixed, more].concat())
    };
    let (plain, quantized) = (load(&[]), load(&["--quantize", "q4_k"]));
    assert!(!plain.stderr.contains("quantized"), "{}", plain.stderr);
    assert!(quantized.stderr.contains("quantized to q4_k: "), "{}", quantized.stderr);
    assert!(quantized.stderr.contains("rows of 64, no multiple of 256: q5_0 in place of q4_k"), "{}", quantized.stderr);
    assert_ne!(plain.stdout, quantized.stdout, "the logits are other ones");
    assert_eq!(load(&["--quantize", "q4_k", "--quiet"]).stderr, "", "quiet");
    let alias = load(&["--quantize", "bnb.int8"]);
    assert_eq!(alias.stdout, load(&["--quantize", "q8_0"]).stdout, "int8 is q8_0");
    let kept = ok(&["inspect", "--checkpoint", "checkpoints/tiny-llama-q4_0", "--quantize", "q8_0"]).stdout;
    assert!(kept.contains("quantized already and kept (--requantize"), "{kept}");
    let packed = |more: &[&str]| {
        let report = ok(&[&["inspect", "--json", "--checkpoint", "checkpoints/wgpt-stories-4m"], more].concat()).stdout;
        json(&report)["packed_bytes"].as_u64().expect("a size")
    };
    let (f16, nf4) = (packed(&[]), packed(&["--quantize", "nf4", "--quantize-head", "nf4"]));
    assert!(nf4 * 7 / 2 < f16, "4.5 of 16 bits: {nf4} of {f16}");
}

#[test]
fn quantize_writes_a_file_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let output = folder.path().join("small.gguf");
    let path = output.to_str().expect("UTF-8");
    let said = ok(&["quantize", "--checkpoint", LLAMA, "--quantize", "q8_0", "--output", path]).stderr;
    assert!(said.contains("quantized to q8_0") && said.contains("small.gguf"), "{said}");
    let report = json(&ok(&["inspect", "--checkpoint", path, "--json"]).stdout);
    assert!(report["formats"]["q8_0"]["tensors"].as_u64() > Some(5), "{report}");
    assert_eq!(report["tokenizer"]["chat_template"], true, "the template came along");
    // Onto itself, to nowhere, onto another one, in a format that GGUF lacks, of a family without a table.
    fails(&["quantize", "--checkpoint", path, "--quantize", "q4_0", "--output", path], &["small.gguf", "--output"]);
    let nowhere = folder.path().join("no/such.gguf");
    let nowhere = nowhere.to_str().expect("UTF-8");
    let refused = ["quantize", "--checkpoint", LLAMA, "--quantize", "q4_0", "--output", nowhere];
    fails(&refused, &["such.gguf: cannot write"]);
    assert!(!run(&mut wgpt(&refused)).stderr.contains("partial"), "by the name it was given");
    let before = std::fs::read(&output).expect("readable");
    let again = ["quantize", "--checkpoint", LLAMA, "--quantize", "q4_0", "--output", path];
    fails(&again, &["small.gguf: is there already", "--output"]);
    assert_eq!(std::fs::read(&output).expect("readable"), before, "it stays as it was");
    let other = folder.path().join("other.gguf");
    let other = other.to_str().expect("UTF-8");
    fails(&["quantize", "--checkpoint", LLAMA, "--quantize", "fp4", "--output", other], &["fp4", "at load"]);
    let gptj = ["quantize", "--checkpoint", "checkpoints/tiny-gptj", "--quantize", "q4_0", "--output", other];
    fails(&gptj, &["gptj", "gpt_neox"]);
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 1, "one file was written");
}

#[cfg(unix)]
#[test]
fn an_interrupted_quantize_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let output = folder.path().join("small.gguf");
    // Left by a process that was killed, whose number nobody has.
    std::fs::write(folder.path().join("small.gguf.partial-4194999"), "half").expect("written");
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(folder.path()).expect("the folder").map(|entry| entry.expect("an entry"));
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let smollm2 = "checkpoints/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_wgpt"))
        .current_dir(repository(""))
        .args(["quantize", "--checkpoint", smollm2, "--quantize", "q3_k", "--requantize", "--quiet", "--output"])
        .arg(&output)
        .spawn()
        .expect("the program starts");
    let own = format!("small.gguf.partial-{}", child.id());
    while !names().contains(&own) {
        assert!(child.try_wait().expect("it can be asked").is_none(), "it is still at work");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(names(), [own], "what was left before is gone");
    let interrupt = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.is_ok_and(|status| status.success()), "it is told to stop");
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "as shells have it");
    assert!(names().is_empty(), "nothing is left: {:?}", names());
}

#[test]
fn gptq_rounds_at_load_and_into_a_folder_alike_and_says_what_it_needs() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = |name: &str| scratch.path().join(name).display().to_string();
    let text = std::fs::read_to_string(repository("tests/golden/tales_calibration.txt")).expect("it is there");
    let (long, short, binary, folder) = (path("long.txt"), path("short.txt"), path("binary.txt"), path("rounded"));
    std::fs::write(&long, &text[..2000]).expect("written");
    std::fs::write(&short, "Once upon a time").expect("written");
    std::fs::write(&binary, b"Once \xff\xfe upon").expect("written");
    let gptq = ["--quantize", "gptq.int4", "--group-size", "32", "--act-order"];
    let at_load = ok(&greedy("hello", &[&gptq[..], &["--calibration", &long]].concat())).stdout;
    let quantize = ["quantize", "--checkpoint", LLAMA, "--adapter", "host", "--output", &folder];
    let run = ok(&[&quantize[..], &gptq, &["--calibration", &long]].concat());
    assert!(run.stderr.contains("12 linears in 4 bits, groups of 32"), "{}", run.stderr);
    assert!(run.stderr.contains("2 kept as they are: 64 rows of 80"), "{}", run.stderr);
    let generate = ["generate", "--adapter", "host", "--temperature", "0", "--quiet", "--prompt", "hello"];
    let from_folder = ok(&[&generate[..], &["--checkpoint", &folder]].concat()).stdout;
    assert_eq!(from_folder, at_load, "the same weights");
    let refused = |more: &[&str], parts: &[&str]| fails(&greedy("hello", &[&gptq[..2], more].concat()), parts);
    let misused = |more: &[&str], parts: &[&str]| {
        let run = crate::run(&mut wgpt(&greedy("hello", more)));
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{more:?}: {}", run.stderr);
        assert!(parts.iter().all(|part| run.stderr.contains(part)), "{more:?} says {parts:?}: {}", run.stderr);
    };
    misused(&gptq, &["--quantize gptq.int4 needs --calibration FILE"]);
    refused(&["--calibration", &path("nowhere")], &["nowhere: cannot read"]);
    refused(&["--calibration", &short], &["short.txt", "too few to fill one window"]);
    refused(&["--calibration", &binary], &["binary.txt: not a UTF-8 text: byte 5"]);
    let with_head = [&gptq[..], &["--calibration", &long, "--quantize-head", "q8_0"]].concat();
    misused(&with_head, &["leaves the head as it is"]);
    for flag in [&["--act-order"][..], &["--group-size", "-1"], &["--calibration", &long]] {
        let with_format = [&["--quantize", "q4_0"], flag].concat();
        misused(&with_format, &[flag[0], "is about gptq.int4"]);
        misused(flag, &[flag[0], "is about gptq.int4"]);
    }
    let bytes = |args: &[&str]| -> Value {
        serde_json::from_str(&ok(&[args, &["--checkpoint", &folder, "--json"]].concat()).stdout).expect("JSON")
    };
    let foreseen = |args: &[&str]| -> Value {
        let args = [args, &["--checkpoint", LLAMA, "--json"], &gptq].concat();
        serde_json::from_str(&ok(&args).stdout).expect("JSON")
    };
    let (rounded, planned) = (bytes(&["inspect"]), foreseen(&["inspect"]));
    assert!(rounded["packed_bytes"].is_u64() && rounded["packed_bytes"] == planned["packed_bytes"], "{planned}");
    assert!(planned["quantized"].as_str().is_some_and(|text| text.contains("12 linears in 4 bits")), "{planned}");
    let (rounded, planned) = (bytes(&["plan"]), foreseen(&["plan"]));
    assert_eq!(rounded["adapters"][0]["bytes"], planned["adapters"][0]["bytes"], "no text is needed to plan");
    let again = [&quantize[..], &gptq, &["--calibration", &long]].concat();
    fails(&again, &["rounded", "is there already"]);
    let odd = crate::run(&mut wgpt(&greedy("hello", &["--quantize", "gptq.int4", "--group-size", "48"])));
    assert_eq!(odd.code, Some(2), "{}", odd.stderr);
    assert!(odd.stderr.contains("expected 128, 64, 32 or -1"), "{}", odd.stderr);
}
