//! Prompt styles: which checkpoint gets which, letter by letter, and what ends a reply in them.

use std::path::Path;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::session::chat::encode_behind_text;
use crate::session::style::Style;
use crate::tokenizer::{Message, Special};

/// What the user says: braces and names of placeholders are text like any other.
const QUESTION: &str = "Why {prompt}?";

/// A checkpoint's path, its style, and the first turn.
const FIRST_TURNS: &[(&str, &str, &str)] = &[
    (
        "checkpoints/stabilityai/stablelm-tuned-alpha-3b",
        "stablelm-tuned-alpha",
        "<|SYSTEM|># StableLM Tuned (Alpha version)\n- StableLM is a helpful and harmless open-source \
         AI language model developed by StabilityAI.\n- StableLM is excited to be able to help the \
         user, but will refuse to do anything that could be considered harmful to the user.\n- StableLM \
         is more than just an information source, StableLM is also able to write poetry, short stories, \
         and make jokes.\n- StableLM will refuse to participate in anything that could harm a \
         human.<|USER|>Why {prompt}?<|ASSISTANT|>",
    ),
    (
        "checkpoints/togethercomputer/RedPajama-INCITE-Chat-3B-v1",
        "redpajama-incite-chat",
        "<human>: Why {prompt}?\n<bot>:",
    ),
    (
        "checkpoints/togethercomputer/RedPajama-INCITE-Instruct-3B-v1",
        "redpajama-incite-instruct",
        "Q: Why {prompt}?\nA:",
    ),
    (
        "checkpoints/tiiuae/falcon-7b-instruct",
        "falcon-instruct",
        "Do not prefix your replies with 'Bot: '\nUser: Why {prompt}?\n",
    ),
    (
        "checkpoints/lmsys/vicuna-7b-v1.3",
        "vicuna",
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives \
         helpful, detailed, and polite answers to the user's questions. USER: Why {prompt}? ASSISTANT:",
    ),
    (
        "checkpoints/meta-llama/Llama-2-7b-chat-hf",
        "llama-2-chat",
        "[INST] <<SYS>>\nYou are a helpful, respectful and honest assistant. Always answer as helpfully \
         as possible, while being safe.  Your answers should not include any harmful, unethical, \
         racist, sexist, toxic, dangerous, or illegal content. Please ensure that your responses are \
         socially unbiased and positive in nature.\n\nIf a question does not make any sense, or is not \
         factually coherent, explain why instead of answering something not correct. If you don't know \
         the answer to a question, please don't share false information.\n<</SYS>>\n\n Why {prompt}? \
         [/INST] ",
    ),
    (
        "checkpoints/stabilityai/FreeWilly2",
        "freewilly2",
        "### System:\nThis is a system prompt, please behave and help the user.\n\n### User:\nWhy \
         {prompt}?\n\n### Assistant:\n",
    ),
    ("checkpoints/garage-bAInd/Platypus-30B", "platypus", "### Instruction:\n\nWhy {prompt}?\n\n### Response:\n"),
    ("checkpoints/NousResearch/Nous-Hermes-13b", "nous-research", "### Instruction:\nWhy {prompt}?\n\n### Response:\n"),
    (
        "checkpoints/stabilityai/stablecode-instruct-alpha-3b",
        "stablecode-instruct",
        "###Instruction\nWhy {prompt}?###Response\n",
    ),
    ("checkpoints/codellama/CodeLlama-7b-Instruct-hf", "codellama-instruct", "<s>[INST] Why {prompt}? [/INST]"),
    ("checkpoints/mistralai/Mistral-7B-Instruct-v0.1", "mistral-instruct", "<s>[INST] Why {prompt}? [/INST]"),
    ("checkpoints/microsoft/phi-1_5", "phi-1.5", "Why {prompt}?\n\nAnswer:"),
    (
        "checkpoints/TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "tinyllama-chat",
        "<|system|>\nYou are a friendly chatbot who always gives helpful, detailed, and polite \
         answers.</s>\n<|user|>\nWhy {prompt}?</s>\n<|assistant|>\n",
    ),
    (
        "checkpoints/stabilityai/stablelm-zephyr-3b",
        "stablelm-zephyr",
        "<|user|>\nWhy {prompt}?<|endoftext|>\n<|assistant|>\n",
    ),
    ("checkpoints/microsoft/phi-2", "phi-2", "Instruct:Why {prompt}?\nOutput:"),
];

fn style(name: &str) -> &'static Style {
    Style::named(name).unwrap_or_else(|| panic!("there is a style {name}"))
}

/// A conversation of these texts, the user's first.
fn turns(texts: &[&str]) -> Vec<Message> {
    let roles = ["user", "assistant"].into_iter().cycle();
    roles.zip(texts).map(|(role, text)| Message::new(role, *text)).collect()
}

fn render(name: &str, system: Option<&str>, texts: &[&str]) -> Result<String, SessionError> {
    let system = system.map(|text| Message::new("system", text));
    let messages: Vec<Message> = system.into_iter().chain(turns(texts)).collect();
    style(name).render(&messages)
}

#[track_caller]
fn check(name: &str, system: Option<&str>, texts: &[&str], expected: &str) {
    assert_eq!(render(name, system, texts).expect("a text"), expected, "{name}");
}

#[test]
fn every_path_has_its_style_and_every_style_its_text() {
    for (path, name, text) in FIRST_TURNS {
        assert_eq!(Style::of_path(path).map(|style| style.name), Some(*name), "{path}");
        check(name, None, &[QUESTION], text);
    }
    let rest: Vec<&str> = Style::names().filter(|name| FIRST_TURNS.iter().all(|(_, known, _)| known != name)).collect();
    assert_eq!(rest, ["chatml"], "the only one that no path asks for");
}

#[test]
fn paths_are_matched_as_their_case_has_it_and_the_first_style_counts() {
    let cases = [
        ("checkpoints/EleutherAI/pythia-70m", None),
        ("checkpoints/stabilityai/stablelm-base-alpha-3b", None),
        ("checkpoints/togethercomputer/RedPajama-INCITE-Base-3B-v1", None),
        ("checkpoints/lmsys/longchat-7b-16k", Some("vicuna")),
        ("checkpoints/togethercomputer/LLaMA-2-7B-32K-Instruct", Some("redpajama-incite-instruct")),
        ("models/Mistral-7B-Instruct-v0.2.Q4_0.gguf", Some("mistral-instruct")),
        ("models/llama-2-7b-chat.Q4_0.gguf", Some("llama-2-chat")),
        ("RedPajama-INCITE-Chat-3B-v1", Some("redpajama-incite-chat")),
        ("models/VICUNA.gguf", None),
        ("models/Instruct-Mistral.gguf", None),
    ];
    for (path, expected) in cases {
        assert_eq!(Style::of_path(path).map(|style| style.name), expected, "{path}");
    }
}

#[test]
fn later_turns_stand_behind_the_replies() {
    check("redpajama-incite-chat", None, &["a", " b", "c"], "<human>: a\n<bot>: b\n<human>: c\n<bot>:");
    check("redpajama-incite-chat", None, &["a", " b\n", "c"], "<human>: a\n<bot>: b\n<human>: c\n<bot>:");
    check("redpajama-incite-instruct", None, &["a", " b\n", "c"], "Q: a\nA: b\n\nQ: c\nA:");
    check("codellama-instruct", None, &["a", " b", "c"], "<s>[INST] a [/INST] b </s><s>[INST] c [/INST]");
    check("mistral-instruct", None, &["a", " b", "c"], "<s>[INST] a [/INST] b</s>[INST] c [/INST]");
    check(
        "chatml",
        None,
        &["a", "b", "c"],
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n\
         <|im_start|>assistant\n",
    );
}

#[test]
fn a_system_message_replaces_the_style_s_own_and_is_said_once() {
    check(
        "stablelm-tuned-alpha",
        Some("S"),
        &["a", "b", "c"],
        "<|SYSTEM|>S<|USER|>a<|ASSISTANT|>b<|USER|>c<|ASSISTANT|>",
    );
    check("vicuna", Some("S"), &["a", " b", "c"], "S USER: a ASSISTANT: b</s>USER: c ASSISTANT:");
    check(
        "llama-2-chat",
        Some("S"),
        &["a", "b", "c"],
        "[INST] <<SYS>>\nS\n<</SYS>>\n\n a [/INST] b </s><s>[INST] c [/INST] ",
    );
    check("freewilly2", Some("S"), &["a"], "### System:\nS\n\n### User:\na\n\n### Assistant:\n");
    check("tinyllama-chat", Some("S"), &["a"], "<|system|>\nS</s>\n<|user|>\na</s>\n<|assistant|>\n");
    check("falcon-instruct", Some("S"), &["a", "b", "c"], "S\nUser: a\nb\nUser: c\n");
    check("mistral-instruct", Some("S"), &["a"], "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\na [/INST]");
    for own in ["stablelm-tuned-alpha", "vicuna", "llama-2-chat", "freewilly2", "tinyllama-chat", "falcon-instruct"] {
        let system = style(own).system.as_ref().and_then(|system| system.own).expect("a text of its own");
        let text = render(own, None, &["a", "b", "c"]).expect("a text");
        assert_eq!(text.matches(system).count(), 1, "{own}: {text}");
    }
}

#[test]
fn a_style_without_a_place_for_a_system_message_says_so() {
    let tokenizer = byte_tokenizer();
    for name in ["redpajama-incite-chat", "platypus", "phi-2"] {
        let format = ChatFormat::style(style(name), &tokenizer).expect("a format");
        let error = format.check_system("Be brief.").expect_err("no place").to_string();
        assert!(error.contains(name) && error.contains("--template"), "names the style and a way out: {error}");
    }
    let format = ChatFormat::style(style("vicuna"), &tokenizer).expect("a format");
    format.check_system("Be brief.").expect("it has a place");
}

#[test]
fn what_is_rendered_for_a_turn_begins_the_next() {
    for name in Style::names() {
        let first = render(name, None, &["a"]).expect("a text") + "b";
        let second = render(name, None, &["a", "b", "c"]).expect("a text");
        assert!(second.starts_with(&first), "{name}: {second:?} behind {first:?}");
    }
}

fn vocabulary(name: &str) -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/vocab").join(name);
    let checkpoint = Checkpoint::open(&path).expect("a vocabulary");
    Language::of(&checkpoint).expect("a tokenizer").tokenizer
}

#[test]
fn stops_are_the_tokens_of_the_model_s_own_vocabulary() {
    let cases = [
        ("ggml-vocab-gpt-neox.gguf", "redpajama-incite-chat"),
        ("ggml-vocab-gpt-neox.gguf", "redpajama-incite-instruct"),
        ("ggml-vocab-falcon.gguf", "falcon-instruct"),
    ];
    for (file, name) in cases {
        let tokenizer = vocabulary(file);
        let stops = style(name).stops(&tokenizer).expect("stops");
        assert!(stops.texts.is_empty(), "{name}: every text is a token, {stops:?}");
        for (ids, texts) in stops.tokens.iter().zip(style(name).stop) {
            assert_eq!(tokenizer.decode(ids, false), texts.concat(), "{name}");
            assert_eq!(ids.len(), texts.len(), "{name}: a token a text");
        }
    }
    let stops = style("redpajama-incite-instruct").stops(&vocabulary("ggml-vocab-gpt-neox.gguf")).expect("stops");
    assert_eq!(stops.tokens[4..], [vec![187, 187], vec![535], vec![2756]], "line breaks by their published ids");
    let stops = style("falcon-instruct").stops(&vocabulary("ggml-vocab-falcon.gguf")).expect("stops");
    assert_eq!(stops.tokens[1][0], 193, "and Falcon's");
}

#[test]
fn a_stop_whose_texts_are_no_tokens_is_looked_for_as_text() {
    let stops = style("redpajama-incite-chat").stops(&byte_tokenizer()).expect("stops");
    assert!(stops.tokens.is_empty(), "no token is `human`: {stops:?}");
    assert_eq!(stops.texts, ["<human>:", "<bot>:"], "the joined texts");
    let (session, log) = scripted("\n<bot>: fine\n<human>: more", 96);
    let format = ChatFormat::style(style("redpajama-incite-chat"), session.tokenizer()).expect("a format");
    let mut conversation = Chat::new(session, format, None);
    let (text, outcome) = chat::say(&mut conversation, "how?", &greedy());
    assert_eq!(
        (text.as_str(), outcome.finish),
        (" fine\n", FinishReason::StopString),
        "the model's next question is cut"
    );
    chat::say(&mut conversation, "so?", &greedy());
    let held = log.lock().expect("a lock").held.clone();
    let expected = ids(&"<human>: how?\n<bot>: fine\n<human>: so?\n<bot>:".replace(' ', "▁"));
    assert_eq!(held[..expected.len()], expected, "one line break between reply and question");
}

#[test]
fn a_written_bos_is_not_doubled() {
    let tokenizer = byte_tokenizer_with(|vocabulary| {
        vocabulary.bos = Some(259);
        vocabulary.add_bos = Some(true);
    });
    let format = ChatFormat::style(style("mistral-instruct"), &tokenizer).expect("a format");
    let text = format.render(&turns(&["a"])).expect("a text");
    let expected = [&[259], &*ids("[INST]▁a▁[/INST]")].concat();
    assert_eq!(tokenizer.encode(&text, format.special()).expect("ids"), expected, "written and added are one");
    let format = ChatFormat::style(style("phi-2"), &tokenizer).expect("a format");
    let text = format.render(&turns(&["a"])).expect("a text");
    assert_eq!(tokenizer.encode(&text, format.special()).expect("ids")[0], 259, "added where it is not written");
}

#[test]
fn the_middle_of_a_conversation_gets_no_space_of_a_beginning() {
    let tokenizer = byte_tokenizer_with(|vocabulary| vocabulary.add_space_prefix = Some(true));
    let alone = tokenizer.encode("\nb", Special::None).expect("ids");
    assert_ne!(alone, ids("\nb"), "a text by itself begins with one");
    for text in ["\nb", "b", " b"] {
        let expected = text.replace(' ', "▁");
        assert_eq!(encode_behind_text(&tokenizer, text).expect("ids"), ids(&expected), "{text:?}");
    }
    let marked = encode_behind_text(&tokenizer, "<eos>\nb").expect("ids");
    assert_eq!(marked[0], EOS, "marks are marks");
}
