//! Chat templates against what transformers makes of them.
//!
//! `tests/golden/chat_templates.json` holds templates, conversations and texts; the script beside it says how they
//! were made.

mod common;

use common::repository;
use serde_json::Value;
use wgpt::tokenizer::{ChatTemplate, Message, TokenizerError};

fn render(case: &Value) -> Result<String, TokenizerError> {
    let text = |key: &str| case[key].as_str();
    let template = ChatTemplate::new(text("template").expect("a template"), text("bos_token"), text("eos_token"))?;
    let messages: Vec<Message> = case["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .map(|message| {
            let text = |key: &str| message[key].as_str().expect("a text");
            Message::new(text("role"), text("content"))
        })
        .collect();
    template.render(&messages, case["add_generation_prompt"].as_bool().expect("a flag"))
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let golden = std::fs::read_to_string(repository("tests/golden/chat_templates.json")).expect("the golden file");
    let golden: Value = serde_json::from_str(&golden).expect("JSON");
    let cases = golden["cases"].as_array().expect("cases");
    let mut wrong = Vec::new();
    for case in cases {
        let name = &case["name"];
        match (render(case), case["text"].as_str(), case["error"].as_str()) {
            (Ok(found), Some(text), _) if found == text => {}
            // the template's own words, with the line before them
            (Err(error), _, Some(words)) if error.to_string().ends_with(&format!(": {words}")) => {}
            (found, text, words) => wrong.push(format!("{name}: expected {text:?}{words:?}, found {found:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() > 70, "every layout and idiom, found {}", cases.len());
}
