//! `outlay completions`: a script with which a shell completes commands and options.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::{Cli, output};
use crate::app::Failed;

/// Arguments of `outlay completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> Result<(), Failed> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "outlay", &mut script);
    let script = String::from_utf8(script)
        .map_err(|error| Failed::usage(format!("the script is no text: {error}")))?;
    output::print(script.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_has_a_script_that_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let mut script = Vec::new();
            generate(shell, &mut Cli::command(), "outlay", &mut script);
            let script = String::from_utf8(script).expect("text");
            for word in ["reconcile", "completions", "quarantine", "fail-on-change"] {
                assert!(script.contains(word), "{shell}: no {word}");
            }
        }
    }
}
