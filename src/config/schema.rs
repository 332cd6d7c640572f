//! The JSON Schema of the configuration, for editors: the keys as they are written, before anything is
//! checked.

use schemars::{JsonSchema, schema_for};

use super::raw::{
    RawAdmin, RawAlert, RawDefaults, RawGuard, RawModel, RawPrices, RawProject, RawProvider, RawQueue,
    RawRetain, RawStore, RawTask, RawWorker,
};

/// The configuration of outlay.
#[derive(JsonSchema)]
#[schemars(rename = "outlay", deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is asked for; the file is read table by table")]
struct File {
    /// Where jobs and spend are kept.
    store: Option<RawStore>,
    /// Where jobs come from, for workers.
    queue: Option<RawQueue>,
    /// What one process does at a time.
    worker: Option<RawWorker>,
    /// What a worker answers over HTTP.
    admin: Option<RawAdmin>,
    /// How long things are kept.
    retain: Option<RawRetain>,
    /// What counts as a loop.
    guard: Option<RawGuard>,
    /// A price table to compare the catalogue with.
    prices: Option<RawPrices>,
    /// What a project or a task that is not listed gets.
    defaults: Option<RawDefaults>,
    /// Refuse jobs of tasks that are not listed.
    strict_tasks: Option<bool>,
    /// Who sells models.
    provider: Option<Vec<RawProvider>>,
    /// What is sold: one model at one provider at one price.
    model: Option<Vec<RawModel>>,
    /// Kinds of jobs.
    task: Option<Vec<RawTask>>,
    /// Whose jobs they are, and what they may cost.
    project: Option<Vec<RawProject>>,
    /// Who is told when something needs a person.
    alert: Option<Vec<RawAlert>>,
}

/// The schema as JSON.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    schema_for!(File).to_value()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::read::SECTIONS;
    use super::*;

    fn wrong(toml: &str) -> Vec<String> {
        let schema = jsonschema::validator_for(&json_schema()).expect("a schema");
        let value: serde_json::Value = toml::from_str(toml).expect("TOML");
        schema.iter_errors(&value).map(|error| error.to_string()).collect()
    }

    #[test]
    fn every_section_has_its_keys() {
        let schema = json_schema();
        let mut listed: Vec<_> = schema["properties"].as_object().expect("keys").keys().cloned().collect();
        listed.sort();
        let mut sections = SECTIONS.map(str::to_owned).to_vec();
        sections.sort();
        assert_eq!(listed, sections);
    }

    #[test]
    fn what_is_shipped_is_valid() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let examples = std::fs::read_dir(root.join("examples")).expect("examples");
        let mut files: Vec<_> = examples.map(|entry| entry.expect("an entry").path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        assert!(files.len() >= 4, "{files:?}");
        files.push(root.join("src/config/default.toml"));
        for path in files {
            let text = std::fs::read_to_string(&path).expect("a file");
            assert_eq!(wrong(&text), Vec::<String>::new(), "{}", path.display());
        }
    }

    #[test]
    fn what_the_file_could_not_hold_is_not() {
        for toml in [
            "stroe = 1",
            "[store]\nurl = 1",
            "[store]\nulr = \"x\"",
            "[[model]]\ntier = \"tiny\"",
            "[[model]]\ninput_usd_per_mtok = 0.25",
            "[[project]]\nbudget = { week = \"5.00\" }",
            "[[task]]\nvalidate = { json_shema = \"a.json\" }",
            "[worker]\nlanes = [\"fast\"]",
        ] {
            assert_ne!(wrong(toml), Vec::<String>::new(), "{toml}");
        }
    }
}
