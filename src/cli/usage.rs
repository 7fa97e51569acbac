//! What was typed, and which environment variables go with it.
//!
//! clap takes a variable for a flag: one in a user's profile could conflict with what is typed, or lack what it depends on.
//! Here variables are defaults, so each is first tried beside the typed flags by clap's own rules, and left out where only
//! a wrong call would come of it; an empty one counts as none. Invariant: a call is only refused for what was typed, for a
//! variable's value, or for two variables that conflict.

use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{Arg, CommandFactory, Error, FromArgMatches};

use super::args::{BenchFormat, Cli, Command};

/// What is wrong with flags that are right one by one: as clap would call it, and in words.
pub(super) type Wrong = (ErrorKind, String);

const MISSING: ErrorKind = ErrorKind::MissingRequiredArgument;

/// Reads the command line; ends the program where that is wrong or asks for help.
pub(super) fn parse() -> Cli {
    let typed: Vec<OsString> = std::env::args_os().collect();
    // Help tells of every variable.
    if let Err(error) = read(&typed, &|_| true)
        && !error.use_stderr()
    {
        error.exit()
    }
    let variables = taken(&typed);
    let error = match read(&typed, &|name| variables.iter().any(|taken| taken == name)) {
        Ok(cli) => return cli,
        Err(error) => error,
    };
    // Where something is missing no variable fits; what those give is not missing.
    let given = set();
    match read(&typed, &|name| given.iter().any(|given| given == name)) {
        Err(less) if (error.kind(), less.kind()) == (MISSING, MISSING) => less.exit(),
        _ => error.exit(),
    }
}

/// The variables that go with what was typed.
fn taken(typed: &[OsString]) -> Vec<OsString> {
    let (mut taken, mut open) = (Vec::<OsString>::new(), set());
    loop {
        let fits = |name: &OsString| {
            let tried = read(typed, &|other| other == name || taken.iter().any(|taken| taken == other));
            !tried.is_err_and(|error| is_about_others(error.kind()))
        };
        let (fitting, others): (Vec<_>, Vec<_>) = open.into_iter().partition(fits);
        if fitting.is_empty() {
            return taken;
        }
        // Those that depend on one of these are tried again.
        taken.extend(fitting);
        open = others;
    }
}

/// Variables of any command that are not empty.
fn set() -> Vec<OsString> {
    let command = Cli::command();
    let arguments = command.get_subcommands().flat_map(clap::Command::get_arguments);
    let mut names: Vec<OsString> = arguments.filter_map(|arg| arg.get_env().map(OsStr::to_owned)).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    names
}

/// Whether an error is of one argument beside another, or without it.
const fn is_about_others(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ArgumentConflict | MISSING)
}

/// What was typed, with these variables.
fn read(typed: &[OsString], variables: &dyn Fn(&OsStr) -> bool) -> Result<Cli, Error> {
    let known = |arg: Arg| match arg.get_env() {
        Some(name) if !variables(name) => arg.env(Resettable::<clap::builder::OsStr>::Reset),
        _ => arg,
    };
    let mut command = Cli::command().mut_subcommands(|command| command.mut_args(known));
    let mut matches = command.try_get_matches_from_mut(typed)?;
    let name = matches.subcommand_name().unwrap_or_default().to_owned();
    let cli = Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
    check(&cli.command).map_err(|(kind, why)| match command.find_subcommand_mut(&name) {
        Some(command) => command.error(kind, why),
        None => command.error(kind, why),
    })?;
    Ok(cli)
}

/// Rules that go by values, of which clap has none.
fn check(command: &Command) -> Result<(), Wrong> {
    match command {
        Command::Generate(args) => args.model.check(true),
        Command::Chat(args) => args.model.check(true),
        Command::Logits(args) => args.model.check(true),
        Command::Perplexity(args) => args.model.check(true),
        Command::Compare(args) => args.models().iter().try_for_each(|model| model.check(true)),
        Command::Inspect(args) => args.quantize.check(false),
        Command::Plan(args) => args.model.check(false),
        Command::Quantize(args) => args.check(),
        Command::Bench(args) if args.profile && args.format == BenchFormat::Csv => {
            let why = "--profile has no form in CSV: give --format json or md with it, or leave it out";
            Err((ErrorKind::ArgumentConflict, why.into()))
        }
        Command::Bench(args) => args.model.check(true),
        Command::Tokenize(_) | Command::Adapters(_) | Command::Tune(_) | Command::Cache(_) => Ok(()),
    }
}
