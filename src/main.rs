//! The program `wgpt`: parses the command line, runs the command, says what went wrong.
//!
//! Decides nothing else. Exit code 0 when the command did its work, 1 when it failed, 2 when it was called wrongly
//! (clap's own exit). stdout carries generated text or requested data only; everything else is on stderr.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::hush_drivers();
    cli::start_log();
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::report(&error),
    }
}
