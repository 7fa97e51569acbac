//! `wgpt chat`: a conversation, in a terminal or over pipes.
//!
//! Reads lines, obeys the slash commands, prints replies; the conversation itself is the session's. Invariant:
//! stdout is the replies, a line break after each; prompts, answers to commands and figures are elsewhere.

use std::fmt::Display;
use std::io::{BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use rustyline::error::ReadlineError;
use wgpt::session::{Chat, FinishReason, GenerateParams, SessionError};

use super::args::ChatArgs;
use super::output::{INTERRUPTED, Notes, Text, write_file};
use super::resolve;

const HELP: &str = "\
/help          this list
/reset         forget the conversation, keep the system message
/system TEXT   begin a new conversation with this system message; without TEXT, with none
/save FILE     write the conversation: JSON if FILE ends with .json, else text
/exit          leave, as Ctrl-D and an empty line do
//TEXT         the message /TEXT
Ctrl-C stops a reply.";

pub(super) fn run(args: &ChatArgs) -> Result<()> {
    let notes = Notes::new(args.model.quiet);
    let interrupt = Interrupt::install()?;
    let (chat, recommended) = resolve::chat(args, notes)?;
    let params = GenerateParams {
        max_new_tokens: args.max_new_tokens.or(recommended.max_new_tokens),
        sampling: resolve::chat_sampling(&args.sampling, &recommended, notes),
        stop: args.stop.clone(),
        cancel: Arc::clone(&interrupt.cancel),
        ..GenerateParams::default()
    };
    let mut talk = Talk { chat, params, interrupt, notes, stdout: Text::new(), failed: 0 };
    let mut input = Input::new()?;
    let watched = matches!(input, Input::Terminal(_));
    if watched {
        notes.line("/help lists the commands; Ctrl-D or an empty line leaves");
    }
    while let Some(line) = input.line()? {
        match line.strip_prefix('/') {
            Some(message) if message.starts_with('/') => talk.say(message)?,
            Some(command) => {
                if talk.obey(command).is_break() {
                    break;
                }
            }
            None => talk.say(&line)?,
        }
    }
    notes.memory(&talk.chat.session().memory());
    // Whoever sat before it has seen it.
    ensure!(watched || talk.failed == 0, "of the lines read {} failed, as said above", talk.failed);
    Ok(())
}

/// A conversation and how it is shown.
struct Talk {
    chat: Chat,
    params: GenerateParams,
    interrupt: Interrupt,
    notes: Notes,
    stdout: Text,
    /// Messages that got no reply, and commands that were not obeyed.
    failed: usize,
}

impl Talk {
    /// Streams the reply to a message. A conversation that is too long, or a template that refuses the message, is
    /// said aloud and the conversation goes on; what fails beyond that ends the program.
    fn say(&mut self, message: &str) -> Result<()> {
        let mut written = Ok(());
        let replying = self.interrupt.replying();
        let outcome = self.chat.reply(message, &self.params, |piece| {
            written = self.stdout.show(piece);
            if written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        drop(replying);
        written?;
        let outcome = match outcome {
            Err(error @ (SessionError::ConversationTooLong { .. } | SessionError::Tokenizer(_))) => {
                self.refuse(error);
                return Ok(());
            }
            outcome => outcome?,
        };
        self.stdout.show("\n")?;
        match outcome.finish {
            FinishReason::Cancelled => self.notes.line("(stopped)"),
            FinishReason::ContextFull => {
                let length = self.chat.session().context_length();
                eprintln!("the context of {length} tokens is full: /reset starts a new conversation");
            }
            _ => {}
        }
        self.notes.speed(&outcome.stats);
        Ok(())
    }

    /// Obeys a slash command, given without its slash; `Break` leaves.
    fn obey(&mut self, command: &str) -> ControlFlow<()> {
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (name, rest.trim()) {
            ("exit" | "quit", _) => return ControlFlow::Break(()),
            ("help", _) => eprintln!("{HELP}"),
            ("reset", _) => {
                let system = self.chat.system().map(str::to_owned);
                self.chat.reset(system.as_deref());
                self.notes.line("a new conversation");
            }
            ("system", "") => {
                self.chat.reset(None);
                self.notes.line("a new conversation, without a system message of yours");
            }
            ("system", text) => match self.chat.format().check_system(text) {
                Ok(()) => {
                    self.chat.reset(Some(text));
                    self.notes.line("a new conversation, with that system message");
                }
                Err(error) => self.refuse(error),
            },
            ("save", "") => self.refuse("/save needs a file name"),
            ("save", file) => match self.save(Path::new(file)) {
                Ok(()) => self.notes.line(format_args!("saved to {file}")),
                Err(error) => self.refuse(format_args!("{error:#}")),
            },
            _ => self.refuse(format_args!("no command /{name}; /help lists them, and //{name} is a message")),
        }
        ControlFlow::Continue(())
    }

    /// Says what is wrong with a line; the conversation goes on with the next.
    fn refuse(&mut self, why: impl Display) {
        eprintln!("error: {why}");
        self.failed += 1;
    }

    fn save(&self, file: &Path) -> Result<()> {
        let messages = self.chat.messages();
        let contents = if file.extension().is_some_and(|extension| extension == "json") {
            let messages: Vec<_> = messages
                .iter()
                .map(|message| serde_json::json!({ "role": message.role, "content": message.content }))
                .collect();
            serde_json::to_string_pretty(&messages)? + "\n"
        } else {
            messages.iter().map(|message| format!("{}: {}\n\n", message.role, message.content)).collect()
        };
        write_file(file, contents.as_bytes())
    }
}

/// Where messages come from.
enum Input {
    Terminal(Box<rustyline::DefaultEditor>),
    Lines(std::io::Lines<std::io::StdinLock<'static>>),
}

impl Input {
    fn new() -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Lines(std::io::stdin().lock().lines()));
        }
        // the terminal itself shows the prompt, so that it stays out of a stdout that goes elsewhere
        let config = rustyline::Config::builder().auto_add_history(true).behavior(rustyline::Behavior::PreferTerm);
        Ok(Self::Terminal(Box::new(rustyline::DefaultEditor::with_config(config.build())?)))
    }

    /// The next message or command; `None` at the end of input, or where an empty line was typed.
    fn line(&mut self) -> Result<Option<String>> {
        let line = match self {
            // In a file an empty line is layout.
            Self::Lines(lines) => loop {
                match lines.next().transpose().context("stdin: cannot read a message")? {
                    Some(line) if line.trim().is_empty() => {}
                    line => return Ok(line),
                }
            },
            Self::Terminal(editor) => loop {
                match editor.readline("> ") {
                    Ok(line) => break line,
                    Err(ReadlineError::Eof) => return Ok(None),
                    Err(ReadlineError::Interrupted) => eprintln!("Ctrl-D or an empty line leaves"),
                    Err(error) => return Err(error).context("the terminal could not be read"),
                }
            },
        };
        Ok(Some(line).filter(|line| !line.trim().is_empty()))
    }
}

/// Ctrl-C: stops a reply while there is one, the program otherwise.
struct Interrupt {
    cancel: Arc<AtomicBool>,
    replying: Arc<AtomicBool>,
}

/// A reply is being made while this lives.
struct Replying(Arc<AtomicBool>);

impl Drop for Replying {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Interrupt {
    fn install() -> Result<Self> {
        let interrupt = Self { cancel: Arc::default(), replying: Arc::default() };
        let (cancel, replying) = (Arc::clone(&interrupt.cancel), Arc::clone(&interrupt.replying));
        ctrlc::set_handler(move || {
            cancel.store(true, Ordering::SeqCst);
            if !replying.load(Ordering::SeqCst) {
                std::process::exit(INTERRUPTED);
            }
        })
        .context("Ctrl-C could not be caught")?;
        Ok(interrupt)
    }

    fn replying(&self) -> Replying {
        self.cancel.store(false, Ordering::SeqCst);
        self.replying.store(true, Ordering::SeqCst);
        Replying(Arc::clone(&self.replying))
    }
}
