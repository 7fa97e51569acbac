//! Guesses: what they save, and that a text, its end and what follows it are those without them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::chat::{TEMPLATE, chat_in, say};
use super::*;

/// A session whose model answers `script`, with a draft model that answers `guessed`, so many tokens at once.
fn drafted(script: &str, guessed: &str, context_length: u32, tokens: usize) -> (Session, [Arc<Mutex<Log>>; 2]) {
    let (session, log) = scripted(script, context_length);
    let (draft, draft_log) = executor(guessed, context_length);
    (session.with_draft(Box::new(DraftModel::new(draft)), tokens), [log, draft_log])
}

/// Position and length of every forward.
fn batches(log: &Arc<Mutex<Log>>) -> Vec<(u32, usize)> {
    log.lock().expect("a lock").batches.clone()
}

/// An outcome without what guesses and clocks add to it.
fn bare((text, mut outcome): (String, Outcome)) -> (String, Outcome) {
    outcome.stats = Stats { prefill: Default::default(), decode: Default::default(), guesses: None, ..outcome.stats };
    (text, outcome)
}

#[test]
fn a_draft_that_is_right_saves_forwards() {
    let (mut session, [log, draft]) = drafted("abcdefghij", "abcdefghij", 64, 4);
    let (text, outcome) = run(&mut session, "say?", &greedy());
    assert_eq!((text.as_str(), outcome.finish), ("abcdefghij", FinishReason::EndOfText), "the same text");
    // After the prompt `a`; then `b` to `f` from one forward, `g` to `j` and the end from another.
    assert_eq!(batches(&log), [(0, 4), (4, 5), (9, 5)], "the last token and four guesses each");
    let guesses = Guesses { made: 8, accepted: 8, forwards: 3 };
    assert_eq!(outcome.stats.guesses, Some(guesses), "all counted");
    assert_eq!(outcome.stats.generated_tokens, 11, "EOS too");
    // The draft computes the prompt with the first token, then what it had not computed of the accepted tokens.
    assert_eq!(batches(&draft), [(0, 5), (5, 1), (6, 1), (7, 1), (8, 2), (10, 1), (11, 1), (12, 1)], "kept in step");
}

#[test]
fn a_draft_that_is_wrong_is_asked_less_and_less() {
    let script = "abcdefghijklmnopqrstuvwxyz".repeat(4);
    let (mut session, [log, draft]) = drafted(&script, &"#".repeat(104), 256, 4);
    let (text, outcome) = run(&mut session, "?", &greedy());
    assert_eq!(text, script, "the same text");
    let guesses = outcome.stats.guesses.expect("it speculates");
    assert_eq!((guesses.accepted, guesses.forwards), (0, 105), "a forward for each token and the end");
    assert!((6..24).contains(&guesses.made), "few guesses: {guesses:?}");
    let verifying = batches(&log).iter().filter(|(_, tokens)| *tokens > 1).count();
    assert!((4..12).contains(&verifying), "mostly plain: {log:?}");
    let computed: usize = batches(&draft).iter().map(|(_, tokens)| tokens).sum();
    assert!(computed < 110, "the draft reads along and guesses little: {computed}");
}

#[test]
fn a_draft_of_fewer_positions_guesses_as_far_as_it_has_them() {
    let (session, log) = scripted("abcdefghij", 64);
    let (draft, draft_log) = executor("abcdefghij", 7);
    let mut session = session.with_draft(Box::new(DraftModel::new(draft)), 4);
    let (text, outcome) = run(&mut session, "say?", &greedy());
    assert_eq!(text, "abcdefghij", "the same text");
    assert_eq!(outcome.stats.guesses.map(|guesses| guesses.made), Some(3), "positions 5 to 7");
    assert_eq!(draft_log.lock().expect("a lock").held.len(), 7, "full");
    assert_eq!(batches(&log)[..3], [(0, 4), (4, 4), (8, 1)], "then without it");
}

#[test]
fn lookup_guesses_what_stood_before() {
    let script = "one two three, one two three, one two three.";
    let (session, log) = scripted(script, 64);
    let mut session = session.with_draft(Box::new(PromptLookup::default()), 5);
    let (text, outcome) = run(&mut session, "?", &greedy());
    assert_eq!(text, script, "the same text");
    let guesses = outcome.stats.guesses.expect("it speculates");
    assert!(guesses.accepted > 20 && guesses.made > guesses.accepted, "most were right: {guesses:?}");
    assert_eq!(guesses.forwards, batches(&log).len(), "all forwards are counted");
    assert_eq!(guesses.forwards + guesses.accepted, outcome.stats.generated_tokens, "a token from each, and guesses");
}

#[test]
fn texts_end_inside_guesses_as_they_do_without() {
    let script = "ab ab ab ab, stop ab ab";
    let base = greedy();
    let endings = [
        (64, base.clone(), FinishReason::EndOfText),
        (64, GenerateParams { stop: vec!["b, st".into()], ..base.clone() }, FinishReason::StopString),
        (64, GenerateParams { stop: vec!["b a".into()], ..base.clone() }, FinishReason::StopString),
        (64, GenerateParams { stop_tokens: vec![ids(" st")], ..base.clone() }, FinishReason::StopTokens),
        (64, GenerateParams { max_new_tokens: Some(9), ..base.clone() }, FinishReason::MaxTokens),
        (64, GenerateParams { max_new_tokens: Some(1), ..base.clone() }, FinishReason::MaxTokens),
        (11, base.clone(), FinishReason::ContextFull),
        (1, base, FinishReason::ContextFull),
    ];
    for (context, params, finish) in &endings {
        let (mut plain, _) = scripted(script, *context);
        let expected = bare(run(&mut plain, "?", params));
        assert_eq!(expected.1.finish, *finish, "{params:?}");
        let next = |session: &mut Session| bare(run(session, "?", &GenerateParams { stream: 1, ..greedy() }));
        let after = next(&mut plain);
        let (session, log) = scripted(script, *context);
        let mut lookup = session.with_draft(Box::new(PromptLookup::default()), 7);
        let (mut model, _) = drafted(script, script, *context, 7);
        for session in [&mut lookup, &mut model] {
            assert_eq!(bare(run(session, "?", params)), expected, "{params:?}");
            assert_eq!(next(session), after, "what follows {params:?}");
        }
        let longest = batches(&log).iter().map(|(_, tokens)| *tokens).max();
        assert!(*context < 3 || longest > Some(2), "several tokens were verified: {log:?}");
    }
}

#[test]
fn a_verifying_forward_that_is_cancelled_or_fails_leaves_a_usable_session() {
    let (mut session, [log, _]) = drafted("abcdefghij", "abcdefghij", 64, 4);
    let params = greedy();
    log.lock().expect("a lock").cancel_at = Some((2, Arc::clone(&params.cancel)));
    let (text, outcome) = run(&mut session, "say?", &params);
    assert_eq!((text.as_str(), outcome.finish), ("a", FinishReason::Cancelled), "in the first forward with guesses");
    params.cancel.store(false, Ordering::Relaxed);
    let failing = batches(&log).len() + 1;
    log.lock().expect("a lock").fail_at = Some(failing);
    let mut stream = session.generate(&ids("say?"), &params).expect("a valid prompt");
    assert!(stream.next().expect("a piece").is_ok(), "the first token");
    assert!(stream.by_ref().any(|piece| piece.is_err()), "a forward with guesses");
    assert!(stream.next().is_none(), "nothing after an error");
    log.lock().expect("a lock").fail_at = None;
    assert_eq!(run(&mut session, "say?", &params).0, "abcdefghij", "as if nothing had happened");
}

#[test]
fn the_cancel_flag_ends_a_text_between_verified_tokens() {
    let (mut session, _) = drafted("abcdefghij", "abcdefghij", 64, 7);
    let params = greedy();
    let mut stream = session.generate(&ids("?"), &params).expect("a valid prompt");
    let pieces: String = stream.by_ref().take(3).map(|piece| piece.expect("a forward").text).collect();
    params.cancel.store(true, Ordering::Relaxed);
    let rest: String = stream.by_ref().map(|piece| piece.expect("no error").text).collect();
    assert_eq!((pieces.as_str(), rest.as_str()), ("abc", ""), "although more were verified");
    assert_eq!(stream.into_outcome().finish, FinishReason::Cancelled, "the reason");
    params.cancel.store(false, Ordering::Relaxed);
    assert_eq!(run(&mut session, "?", &params).0, "abcdefghij", "the session goes on");
}

#[test]
fn a_failing_draft_ends_the_text_with_its_error_and_not_the_session() {
    let (mut session, [_, draft]) = drafted("abcdefghij", "abcdefghij", 64, 4);
    draft.lock().expect("a lock").fail_at = Some(2);
    let stream = session.generate(&ids("?"), &greedy()).expect("a valid prompt");
    assert!(stream.last().expect("pieces").is_err(), "the draft's error");
    draft.lock().expect("a lock").fail_at = None;
    assert_eq!(run(&mut session, "?", &greedy()).0, "abcdefghij", "as if nothing had happened");
}

#[test]
fn conversations_go_on_with_guesses() {
    let script = "?la la la la";
    let drafts = || -> [Option<Box<dyn Draft>>; 3] {
        [None, Some(Box::new(PromptLookup::default())), Some(Box::new(DraftModel::new(executor(script, 128).0)))]
    };
    let mut talks = Vec::new();
    for draft in drafts() {
        let (mut session, log) = scripted(script, 128);
        if let Some(draft) = draft {
            session = session.with_draft(draft, 5);
        }
        let mut conversation = chat_in(session, TEMPLATE);
        let turns = ["one?", "two?", "three?"].map(|text| say(&mut conversation, text, &greedy()));
        let reused = turns.each_ref().map(|(_, outcome)| outcome.stats.reused_tokens);
        talks.push((turns.map(|(text, outcome)| (text, outcome.finish, outcome.ids)), reused, batches(&log).len()));
    }
    let [plain, lookup, model] = talks.try_into().expect("three conversations");
    for other in [lookup, model] {
        assert_eq!(other.0, plain.0, "the same replies");
        // An EOS that was guessed is in the cache already.
        let kept = other.1.iter().zip(plain.1).all(|(reused, plain)| *reused == plain || *reused == plain + 1);
        assert!(kept, "as much is kept from turn to turn: {:?}, {:?}", other.1, plain.1);
        assert!(other.2 * 2 < plain.2, "{} forwards in place of {}", other.2, plain.2);
    }
}

#[test]
fn a_draft_needs_the_vocabulary_of_the_model() {
    let (ours, other) = (byte_tokenizer(), byte_tokenizer_with(|vocabulary| vocabulary.tokens[258] = "<x>".into()));
    DraftModel::check_vocabulary(&ours, &byte_tokenizer(), VOCAB).expect("the same");
    let error = DraftModel::check_vocabulary(&ours, &other, VOCAB).expect_err("another token").to_string();
    assert!(error.contains("258") && error.contains("<a>") && error.contains("<x>"), "{error}");
    let error = DraftModel::check_vocabulary(&ours, &byte_tokenizer(), 200).expect_err("too few").to_string();
    assert!(error.contains("260") && error.contains("200"), "{error}");
}
