//! `outlay config`: whether the configuration can be used, and what it amounts to.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Global, output};
use crate::app::{self, Failed};
use crate::config;

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read the configuration and tell what is wrong with it
    Check,
    /// Print the configuration in effect, defaults included and without keys
    Show,
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
}

pub(super) fn run(global: &Global, command: &ConfigCommand) -> Result<(), Failed> {
    if matches!(command, ConfigCommand::Schema) {
        // A file with mistakes is what it is asked for.
        return output::print_json(&config::json_schema());
    }
    let config = app::load_config(&global.options())?;
    let warnings = &config.warnings;
    match (command, global.json) {
        (ConfigCommand::Check, true) => output::print_json(&json!({ "ok": true, "warnings": warnings })),
        (ConfigCommand::Check, false) => {
            warn(warnings);
            let but =
                if warnings.is_empty() { String::new() } else { ", with what is told above".to_owned() };
            output::print(&format!("the configuration is in order{but}"))
        }
        (ConfigCommand::Show, true) => output::print_json(&as_json(&config.to_toml())?),
        (ConfigCommand::Show, false) => {
            warn(warnings);
            output::print(config.to_toml().trim_end())
        }
        (ConfigCommand::Schema, _) => Ok(()),
    }
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        output::say(&format!("warning: {warning}"));
    }
}

fn as_json(toml: &str) -> Result<Value, Failed> {
    toml::from_str(toml)
        .map_err(|error| Failed::usage(format!("the configuration cannot be shown as JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_becomes_json_with_money_as_text() {
        let value = as_json("[[project]]\nid = \"inbox\"\nbudget = { day = \"5.00\" }").unwrap();
        assert_eq!(value["project"][0]["budget"]["day"], "5.00");
        assert_eq!(as_json("not toml").unwrap_err().code, 2);
    }
}
