//! Chat messages to the text a model was trained on, by the checkpoint's own Jinja template.
//!
//! The engine is set up as transformers sets up Jinja, because templates rely on it: blocks leave no blank lines,
//! Python's string and dictionary methods, `raise_exception`, `strftime_now`, `tojson` without HTML escapes.
//! Does not choose a template ([`super::ChatTemplates`]) and never falls back to another format: a template that
//! fails is an error with the template's own message and line. Invariant: rendering depends on nothing but its
//! arguments, and for templates that ask for it, the date.

use std::fmt;
use std::thread;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, context};

use super::TokenizerError;
use super::python::{self, JsonStyle};
use super::python_methods;

const NAME: &str = "chat template";

/// Work one rendering may take: a step, or 64 bytes of text. A thousand messages take some hundred thousand.
const FUEL: u64 = 3_000_000;

/// The stack a template gets. Its lists may be as deep as it has fuel to nest them, and the engine needs up to 500 bytes
/// a level to write one and to let go of it.
const STACK: usize = 1 << 30;

/// `tojson` indents a level by so many spaces at most.
const MAX_INDENT: usize = 64;

/// The stack where the system gives out none so large.
const SMALL_STACK: usize = 1 << 26;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or whatever else the template knows.
    pub role: String,
    /// The message's text.
    pub content: String,
}

impl Message {
    /// A message of that role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A template, parsed.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl ChatTemplate {
    /// Parses a template. `bos_token` and `eos_token` are the tokens' texts, which templates write into the text.
    pub fn new(source: &str, bos_token: Option<&str>, eos_token: Option<&str>) -> Result<Self, TokenizerError> {
        let mut environment = Environment::new();
        let syntax =
            SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|error| explain(&error))?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(python_methods::call);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: &str| python::strftime(python::now(), format));
        environment.add_filter("tojson", tojson);
        // For people who write templates, not for prompts; their stack grows faster than with the depth of what they show.
        environment.remove_filter("pprint");
        environment.remove_global("debug");
        environment.set_fuel(Some(FUEL));
        environment.add_template_owned(NAME, without_generation_marks(source)).map_err(|error| explain(&error))?;
        Ok(Self { environment, bos_token: bos_token.map(str::to_owned), eos_token: eos_token.map(str::to_owned) })
    }

    /// The text of a conversation; with `add_generation_prompt` it ends where the assistant's reply begins. The
    /// text may begin with BOS: [`super::Tokenizer::encode`] does not add another one.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, TokenizerError> {
        let message =
            |message: &Message| context! { role => message.role.as_str(), content => message.content.as_str() };
        let variables = context! {
            messages => messages.iter().map(message).collect::<Vec<Value>>(),
            add_generation_prompt,
            tools => (),
            documents => (),
        };
        // A token that the checkpoint lacks is undefined, not empty: templates test for it.
        let token =
            |name: &'static str, text: &Option<String>| text.as_ref().map(|text| (name, Value::from(text.as_str())));
        let tokens = [token("bos_token", &self.bos_token), token("eos_token", &self.eos_token)];
        let tokens = Value::from_pairs(tokens.into_iter().flatten());
        self.render_apart(&context! { ..variables, ..tokens })
    }

    /// Renders on a thread of its own, for the sake of its stack.
    fn render_apart(&self, variables: &Value) -> Result<String, TokenizerError> {
        let render = || {
            let template = self.environment.get_template(NAME).map_err(|error| explain(&error))?;
            template.render(variables.clone()).map_err(|error| explain(&error))
        };
        let failed = |message: String| TokenizerError::Template { line: None, message };
        thread::scope(|scope| {
            let start =
                |stack| thread::Builder::new().name(NAME.to_owned()).stack_size(stack).spawn_scoped(scope, render);
            let rendering = start(STACK)
                .or_else(|_| start(SMALL_STACK))
                .map_err(|error| failed(format!("no thread to render it on: {error}")))?;
            rendering.join().unwrap_or_else(|_| Err(failed("the template engine panicked".to_owned())))
        })
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { environment: _, bos_token, eos_token } = self;
        f.debug_struct("ChatTemplate")
            .field("bos_token", bos_token)
            .field("eos_token", eos_token)
            .finish_non_exhaustive()
    }
}

/// What `raise_exception` raises; the type tells it from the engine's own errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message.to_owned())))
}

/// `tojson` with the arguments transformers gives it.
fn tojson(state: &State<'_, '_>, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    if let Some(indent) = indent.filter(|&indent| indent > MAX_INDENT) {
        let message = format!("tojson: indent is {indent}, expected {MAX_INDENT} at most");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let mut style = JsonStyle::new(indent);
    match separators.as_deref() {
        None => {}
        Some([item, key]) => (style.item, style.key) = (item.clone(), key.clone()),
        Some(_) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two texts"));
        }
    }
    style.ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    style.sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    python::to_json(value, &style, &|bytes| state.consume_fuel(bytes / 64 + 1)).map(Value::from)
}

/// The template's own words, or the engine's with what went wrong.
fn explain(error: &Error) -> TokenizerError {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return TokenizerError::Template { line: error.line(), message: message.clone() };
        }
        source = cause.source();
    }
    let message = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    TokenizerError::Template { line: error.line(), message }
}

/// Training marks `{% generation %}` … `{% endgeneration %}` say which text to learn from; for us they are
/// blocks that are always there. Written so that lines and whitespace marks stay as they are.
fn without_generation_marks(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        output.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let name = tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim();
        match name {
            "generation" => output.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => output.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => {
                // Only past the mark: a text in the tag may hold another `{%`.
                output.push_str(&tag[..2]);
                rest = &rest[start + 2..];
                continue;
            }
        }
        rest = after;
    }
    output.push_str(rest);
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
        {{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}\
        {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn render(source: &str) -> Result<String, TokenizerError> {
        let messages = [Message::new("user", "a < b & \"c\""), Message::new("assistant", " é ")];
        ChatTemplate::new(source, Some("<s>"), None)?.render(&messages, true)
    }

    #[track_caller]
    fn check(source: &str, expected: &str) {
        match render(source) {
            Ok(text) => assert_eq!(text, expected, "{source}"),
            Err(error) => panic!("{source}: {error}"),
        }
    }

    #[test]
    fn chatml() {
        let template = ChatTemplate::new(CHATML, None, Some("<|im_end|>")).expect("ChatML parses");
        let text = template.render(&[Message::new("user", "Hi")], true).expect("and renders");
        let expected =
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(text, expected, "system prompt, message, start of the reply");
    }

    #[test]
    fn blocks_leave_no_blank_lines() {
        check("{% if true %}\n    a\n    {% endif %}\nb\n", "    a\nb");
    }

    #[test]
    fn python_habits() {
        check("{{ messages[1].content.strip() }}|{{ messages[0]['role'].upper() }}", "é|USER");
        check("{{ messages[1:] | length }}{{ messages[-1].role.startswith('ass') }}{{ none }}", "1TrueNone");
        check(
            "{{ 'a,b'.split(',')[-1] }}{{ {'k': 1}.get('x', 2) }}{% for k, v in {'k': 1}.items() %}{{k}}{{v}}{% endfor %}",
            "b2k1",
        );
        check(
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "2",
        );
        check("{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user");
        check(
            "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
            "assistant",
        );
        check("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m('a') }}{{ 'a' ~ 1 }}", "[a]a1");
    }

    #[test]
    fn what_is_not_given_is_undefined_or_none() {
        check("{{ nothing }}{{ nothing is defined }}{{ eos_token is defined }}{{ bos_token }}", "FalseFalse<s>");
        check("{{ tools is none }}{% if tools %}x{% endif %}{{ documents }}{{ messages[0].name }}", "TrueNone");
        assert!(render("{{ nothing.at.all }}").is_err(), "as in Jinja, an attribute of undefined is an error");
    }

    #[test]
    fn tojson_is_pythons() {
        check("{{ messages[0].content | tojson }}", "\"a < b & \\\"c\\\"\"");
        check("{{ {'a': [1, 2.0, none, true], 'é': {}} | tojson }}", "{\"a\": [1, 2.0, null, true], \"é\": {}}");
        check("{{ {'a': [1]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1\n  ]\n}");
        check("{{ 'é' | tojson(ensure_ascii=true) }}", "\"\\u00e9\"");
        check("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]");
    }

    #[track_caller]
    fn refused(source: &str, problem: &str) {
        let message = render(source).expect_err("refused").to_string();
        assert!(message.contains(problem), "{source}: {message}");
    }

    #[test]
    fn tojson_writes_nothing_endless() {
        let nest = |times, tail| {
            format!(
                "{{% set ns = namespace(x=[]) %}}{{% for i in range({times}) %}}{{% set ns.x = [ns.x] %}}{{% endfor %}}\
                 {{{{ {tail} }}}}"
            )
        };
        check(&nest(127, "ns.x | tojson | length"), "256");
        refused(&nest(128, "ns.x | tojson | length"), "128 levels");
        refused(&nest(20_000, "ns.x | tojson | length"), "128 levels");
        refused("{{ {[1]: 2} | tojson }}", "a key");
        check("{{ {1: 2, none: 3} | tojson }}", "{\"1\": 2, \"null\": 3}");
        refused("{{ [1] | tojson(indent=9223372036854775807) }}", "indent is 9223372036854775807");
        check("{{ [] | tojson(indent=64) }}", "[]");
        let doubled = nest(60, "ns.x | tojson | length").replace("[ns.x]", "[ns.x, ns.x]");
        refused(&doubled, "ran out of fuel");
    }

    #[test]
    fn endless_work_and_bottomless_values_are_errors_or_harmless() {
        let loops = "{% for i in range(100000) %}".repeat(3) + &"{% endfor %}".repeat(3);
        refused(&loops, "ran out of fuel");
        // As deep as there is fuel for, then written, compared and let go.
        for tail in ["{{ ns.x | string | length }}", "{{ ns.x == ns.x | list }}", "{{ {ns.x: 1} | length }}"] {
            for item in ["[ns.x]", "{'a': ns.x}", "(ns.x,)"] {
                let source = "{% set ns = namespace(x=[]) %}{% for i in range(10) %}{% for j in range(10000) %}\
                    {% set ns.x = ITEM %}{% endfor %}{% endfor %}TAIL";
                let rendered = render(&source.replace("ITEM", item).replace("TAIL", tail));
                assert!(rendered.is_ok(), "{item} {tail}: {rendered:?}");
            }
        }
        let deeper = "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = ITEM %}{% endfor %}";
        refused(&deeper.replace("ITEM", &("[".repeat(40) + "ns.x" + &"]".repeat(40))), "ran out of fuel");
        refused("{{ [1] | pprint }}", "pprint");
    }

    #[test]
    fn generation_marks_are_tolerated() {
        check(
            "{% for m in messages %}\n{%- generation -%}\n  {{ m.role }} {% endgeneration %}{% endfor %}\n!",
            "user assistant !",
        );
        check("{{ 'a generation {% b' }}", "a generation {% b");
    }

    #[test]
    fn a_template_that_refuses_is_an_error_in_its_own_words() {
        let error = render("a\n{% if true %}\n{{ raise_exception('Roles must alternate') }}{% endif %}")
            .expect_err("it raises");
        assert_eq!(error.to_string(), "chat template, line 3: Roles must alternate", "message and line");
        let nested = "{% macro m() %}{{ raise_exception('inside') }}{% endmacro %}{{ m() }}";
        assert!(render(nested).expect_err("it raises").to_string().ends_with(": inside"), "through a macro");
    }

    #[test]
    fn a_broken_template_names_the_line() {
        let error = render("a\n{% if %}").expect_err("no condition").to_string();
        assert!(error.starts_with("chat template, line 2: "), "{error}");
        let error = render("{{ frobnicate(1) }}").expect_err("no such function").to_string();
        assert!(error.contains("frobnicate"), "{error}");
    }

    #[test]
    fn the_date_is_written_as_asked() {
        let text = render("{{ strftime_now('%Y-%m-%d') }}").expect("a date");
        assert_eq!((text.len(), &text[..2]), (10, "20"), "{text}");
    }
}
