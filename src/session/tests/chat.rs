//! Conversations: what is prefilled, what is remembered, and that a turn that fails changes nothing.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::*;
use crate::tokenizer::ChatTemplate;

/// A conversation whose template writes `<s>system`, `<u>question`, `<a>reply<eos>`.
fn chat(script: &str, context_length: u32, template: &str) -> (Chat, Arc<Mutex<Log>>) {
    let (session, log) = scripted(script, context_length);
    (chat_in(session, template), log)
}

pub(super) fn chat_in(session: Session, template: &str) -> Chat {
    let template = ChatTemplate::new(template, None, None).expect("a template");
    Chat::new(session, ChatFormat::template(template, "a test's template"), None)
}

pub(super) const TEMPLATE: &str = "{% for m in messages %}{{ {'system': '<s>', 'user': '<u>', 'assistant': '<a>'}[m.role] }}\
    {{ m.content }}{% if m.role == 'assistant' %}<eos>{% endif %}{% endfor %}\
    {% if add_generation_prompt %}<a>{% endif %}";

pub(super) fn say(chat: &mut Chat, text: &str, params: &GenerateParams) -> (String, Outcome) {
    let mut shown = String::new();
    let outcome = chat.reply(text, params, |piece| {
        shown.push_str(piece);
        ControlFlow::Continue(())
    });
    (shown, outcome.expect("a reply"))
}

#[test]
fn a_second_turn_prefills_only_what_is_new() {
    let (mut conversation, log) = chat("?é", 64, TEMPLATE);
    let (text, first) = say(&mut conversation, "one?", &greedy());
    assert_eq!((text.as_str(), first.stats.reused_tokens), ("é", 0), "the script after the mark");
    let (_, second) = say(&mut conversation, "two?", &greedy());
    assert_eq!(second.stats.reused_tokens, first.stats.prompt_tokens + 2, "everything up to the reply's end");
    let expected = [&[257], &*ids("one?"), &[258], &ids("é"), &[256, 257], &ids("two?"), &[258], &ids("é")].concat();
    assert_eq!(log.lock().expect("a lock").held, expected, "ids as the template and the model made them");
    let roles: Vec<&str> = conversation.messages().iter().map(|message| message.role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"], "both turns are kept");
}

#[test]
fn a_cancelled_reply_stays_as_far_as_it_went() {
    let (mut conversation, log) = chat("?abcdef", 64, TEMPLATE);
    let params = greedy();
    log.lock().expect("a lock").cancel_at = Some((2, Arc::clone(&params.cancel)));
    let (text, outcome) = say(&mut conversation, "one?", &params);
    assert_eq!((text.as_str(), outcome.finish), ("ab", FinishReason::Cancelled), "two forwards");
    assert_eq!(conversation.messages()[1].content, "ab", "the reply so far");
    params.cancel.store(false, Ordering::Relaxed);
    let (text, outcome) = say(&mut conversation, "two?", &params);
    assert_eq!(text, "abcdef", "the next turn is whole");
    assert_eq!(outcome.stats.reused_tokens, 7, "the mark, four of the question, the mark, and the reply's first");
}

#[test]
fn a_question_cancelled_before_its_reply_was_never_asked() {
    let (mut conversation, _) = chat("?abc", 64, TEMPLATE);
    let params = greedy();
    params.cancel.store(true, Ordering::Relaxed);
    assert_eq!(say(&mut conversation, "one?", &params).0, "", "nothing came");
    assert!(conversation.messages().is_empty(), "nothing is kept");
}

#[test]
fn a_reply_that_the_reader_breaks_off_leaves_a_usable_conversation() {
    let (mut conversation, _) = chat("?abcdef", 64, TEMPLATE);
    let outcome = conversation.reply("one?", &greedy(), |_| ControlFlow::Break(())).expect("a reply");
    assert_eq!(outcome.finish, FinishReason::Cancelled, "broken off");
    assert_eq!(say(&mut conversation, "two?", &greedy()).0, "abcdef", "the next turn is whole");
}

#[test]
fn a_conversation_that_outgrows_the_context_says_so_and_stays() {
    let (mut conversation, log) = chat("?abc", 24, TEMPLATE);
    say(&mut conversation, "one?", &greedy());
    let batches = log.lock().expect("a lock").batches.len();
    let error = conversation.reply("a much longer question?", &greedy(), |_| ControlFlow::Continue(()));
    let error = error.expect_err("no room").to_string();
    assert!(error.contains("24") && error.contains("/reset"), "says the limit and the way out: {error}");
    assert_eq!(conversation.messages().len(), 2, "the message was not taken");
    assert_eq!(log.lock().expect("a lock").batches.len(), batches, "nothing was computed");
    assert_eq!(say(&mut conversation, "two?", &greedy()).0, "abc", "a shorter one fits");
    conversation.reset(None);
    assert_eq!(say(&mut conversation, "three?", &greedy()).0, "abc", "so does a new conversation");
}

#[test]
fn a_failing_executor_or_template_leaves_the_conversation_as_it_was() {
    let refuses = TEMPLATE.to_owned() + "{% if messages[-1].content == 'bad?' %}{{ raise_exception('no') }}{% endif %}";
    let (mut conversation, log) = chat("?abc", 64, &refuses);
    say(&mut conversation, "one?", &greedy());
    let refused = conversation.reply("bad?", &greedy(), |_| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(SessionError::Tokenizer(_))), "the template's refusal is an error");
    let batches = log.lock().expect("a lock").batches.len();
    log.lock().expect("a lock").fail_at = Some(batches + 1);
    let failed = conversation.reply("two?", &greedy(), |_| ControlFlow::Continue(()));
    assert!(matches!(failed, Err(SessionError::Exec(_))), "the executor's failure is an error");
    assert_eq!(conversation.messages().len(), 2, "neither message was taken");
    log.lock().expect("a lock").fail_at = None;
    assert_eq!(say(&mut conversation, "two?", &greedy()).0, "abc", "and the conversation goes on");
}

#[test]
fn a_template_that_rewrites_replies_is_encoded_anew() {
    let trims = TEMPLATE.replace("m.content", "m.content | trim");
    let (mut conversation, log) = chat("? abc", 64, &trims);
    say(&mut conversation, "one?", &greedy());
    let (_, outcome) = say(&mut conversation, "two?", &greedy());
    assert_eq!(outcome.stats.reused_tokens, 6, "up to the reply, which now begins without its space");
    let expected =
        [&[257], &*ids("one?"), &[258], &ids("abc"), &[256, 257], &ids("two?"), &[258], &ids(" abc")].concat();
    assert_eq!(log.lock().expect("a lock").held, expected, "as the template has it");
}

#[test]
fn a_stop_string_is_not_part_of_the_conversation() {
    let (mut conversation, log) = chat("?abSTOP", 64, TEMPLATE);
    let params = GenerateParams { stop: vec!["STOP".into()], ..greedy() };
    let (text, outcome) = say(&mut conversation, "one?", &params);
    assert_eq!((text.as_str(), outcome.finish), ("ab", FinishReason::StopString), "stopped");
    say(&mut conversation, "two?", &params);
    let held = log.lock().expect("a lock").held.clone();
    let expected = [&[257], &*ids("one?"), &[258], &ids("ab"), &[256, 257], &ids("two?"), &[258]].concat();
    assert_eq!(held[..expected.len()], expected, "the stop string is gone from the ids too");
}

#[test]
fn stop_tokens_are_not_part_of_the_conversation_and_the_reply_is_kept() {
    let (mut conversation, log) = chat("?é<a>", 64, TEMPLATE);
    let params = GenerateParams { stop_tokens: vec![ids("<a>")], ..greedy() };
    let (text, first) = say(&mut conversation, "one?", &params);
    assert_eq!((text.as_str(), first.finish), ("é", FinishReason::StopTokens), "stopped");
    let (_, second) = say(&mut conversation, "two?", &params);
    assert_eq!(second.stats.reused_tokens, first.stats.prompt_tokens + 2, "everything up to the reply's end");
    let held = log.lock().expect("a lock").held.clone();
    let expected = [&[257], &*ids("one?"), &[258], &ids("é"), &[256, 257], &ids("two?"), &[258]].concat();
    assert_eq!(held[..expected.len()], expected, "the reply's own ids, without the stop");
}

#[test]
fn an_empty_reply_is_a_reply() {
    let (mut conversation, _) = chat("?<a>", 64, TEMPLATE);
    let params = GenerateParams { stop_tokens: vec![ids("<a>")], ..greedy() };
    assert_eq!(say(&mut conversation, "one?", &params).0, "", "the model had nothing to say");
    assert_eq!(conversation.messages().len(), 2, "and said so");
}

#[test]
fn a_turn_s_end_that_the_template_writes_ends_a_reply() {
    let edit = |vocabulary: &mut Vocabulary| {
        vocabulary.tokens.extend(["<|im_end|>", "<|end|>", "<|return|>"].map(str::to_owned));
        vocabulary.scores.resize(263, 0.0);
        vocabulary.token_types.resize(263, 3);
    };
    let stops = |source: &str| {
        let template = ChatTemplate::new(source, None, None).expect("a template");
        let format = ChatFormat::template(template, "a test's template");
        format.with_turn_ends_of(source, &byte_tokenizer_with(edit)).stops().tokens.clone()
    };
    assert_eq!(stops("{{ '<|im_end|>' }}"), [[260]], "written by the template");
    assert!(stops("{{ '<eos>' }}").is_empty(), "not written");
    assert!(stops("{{ '<|eot_id|>' }}").is_empty(), "written, but no token");
    assert!(stops("{{ '<|end|>' }}").is_empty(), "where replies end with <|return|>, <|end|> ends only a thought");
}

#[test]
fn a_template_that_refuses_or_ignores_a_system_message_is_found_out() {
    let format = |source: &str| {
        ChatFormat::template(ChatTemplate::new(source, None, None).expect("a template"), "a test's template")
    };
    let refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('No system here') }}{% endif %}x";
    let error = format(refuses).check_system("S").expect_err("refused").to_string();
    assert!(error.contains("No system here") && error.contains("--template"), "in its own words: {error}");
    let ignores = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}";
    let error = format(ignores).check_system("S").expect_err("ignored").to_string();
    assert!(error.contains("leaves the message out"), "says so: {error}");
    format(TEMPLATE).check_system(" S ").expect("this one takes it");
    ChatFormat::plain().check_system("S").expect("so does plain text");
}

#[test]
fn without_a_template_text_is_continued_as_it_is() {
    let (session, log) = scripted(" yes", 64);
    let mut conversation = Chat::new(session, ChatFormat::plain(), Some("Rules."));
    say(&mut conversation, "Is?", &greedy());
    say(&mut conversation, "Sure?", &greedy());
    assert_eq!(log.lock().expect("a lock").held, ids("Rules.\nIs? yes\nSure? yes"), "lines of text");
    conversation.reset(None);
    assert!(conversation.messages().is_empty() && conversation.system().is_none(), "nothing is left");
}
