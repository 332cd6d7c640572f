//! TOML text to raw tables, table by table, so that one wrong key hides no other.

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::raw::{
    RawAdmin, RawAlert, RawDefaults, RawGuard, RawModel, RawPrices, RawProject, RawProvider, RawQueue,
    RawRetain, RawStore, RawTask, RawWorker,
};
use crate::policy::explain::phrase;
use crate::policy::nearest::did_you_mean;

/// What may stand at the root.
pub(super) const SECTIONS: [&str; 14] = [
    "store",
    "queue",
    "worker",
    "admin",
    "retain",
    "guard",
    "prices",
    "defaults",
    "strict_tasks",
    "provider",
    "model",
    "task",
    "project",
    "alert",
];

/// A table and where it stands.
#[derive(Debug, Default)]
pub(super) struct Item<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// Where a table stands, and what of it could not be read.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// `[store]`, or `[[model]] "small-a"`.
    label: String,
    line: usize,
    key_lines: Vec<(String, usize)>,
    unreadable: Vec<String>,
}

impl Place {
    /// Whether the key was there but wrong, which has been reported.
    pub(super) fn is_unreadable(&self, key: &str) -> bool {
        self.unreadable.iter().any(|known| known == key)
    }

    fn line_of(&self, key: &str) -> usize {
        let top = key.split('.').next().unwrap_or(key);
        self.key_lines.iter().find(|(known, _)| known == top).map_or(self.line, |(_, line)| *line)
    }
}

/// All that is wrong with a file.
#[derive(Debug, Default)]
pub(super) struct Problems {
    file: String,
    found: Vec<(usize, String)>,
}

impl Problems {
    /// Reports a key of a table.
    pub(super) fn add(&mut self, place: &Place, key: &str, what: impl std::fmt::Display) {
        let line = place.line_of(key);
        let key = if key.is_empty() { String::new() } else { format!("{key} ") };
        self.at(line, format!("{}: {key}{what}", place.label));
    }

    fn at(&mut self, line: usize, what: String) {
        self.found.push((line, what));
    }

    /// The lines to show, in the order of the file; a section that is not in the file comes first.
    pub(super) fn into_lines(mut self) -> Vec<String> {
        self.found.sort_by_key(|(line, _)| *line);
        let file = &self.file;
        let shown = |(line, what): &(usize, String)| match line {
            0 => format!("{file}: {what}"),
            line => format!("{file}:{line}: {what}"),
        };
        self.found.iter().map(shown).collect()
    }
}

/// The file as raw tables.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) store: Item<RawStore>,
    pub(super) queue: Item<RawQueue>,
    pub(super) worker: Item<RawWorker>,
    pub(super) admin: Item<RawAdmin>,
    pub(super) retain: Item<RawRetain>,
    pub(super) guard: Item<RawGuard>,
    pub(super) prices: Item<RawPrices>,
    pub(super) defaults: Item<RawDefaults>,
    pub(super) strict_tasks: bool,
    pub(super) providers: Vec<Item<RawProvider>>,
    pub(super) models: Vec<Item<RawModel>>,
    pub(super) tasks: Vec<Item<RawTask>>,
    pub(super) projects: Vec<Item<RawProject>>,
    pub(super) alerts: Vec<Item<RawAlert>>,
}

/// Reads `text`; `file` is its name in messages.
pub(super) fn read(file: &str, text: &str) -> (Document, Problems) {
    let problems = Problems { file: file.to_owned(), found: Vec::new() };
    let mut reader = Reader { text, problems };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = error.span().map_or(0, |span| reader.line(span.start));
        reader.problems.at(line, format!("not valid TOML: {}", error.message().replace('\n', ", ")));
    }
    let mut document = Document::default();
    // What is left of a file with a syntax error would be reported for what it lacks.
    if errors.is_empty() {
        for (key, value) in root.into_inner() {
            reader.section(&mut document, key.get_ref(), key.span().start, value);
        }
    }
    for (place, label) in [
        (&mut document.store.place, "[store]"),
        (&mut document.queue.place, "[queue]"),
        (&mut document.worker.place, "[worker]"),
        (&mut document.admin.place, "[admin]"),
        (&mut document.retain.place, "[retain]"),
        (&mut document.guard.place, "[guard]"),
        (&mut document.prices.place, "[prices]"),
        (&mut document.defaults.place, "[defaults]"),
    ] {
        label.clone_into(&mut place.label);
    }
    (document, reader.problems)
}

struct Reader<'a> {
    text: &'a str,
    problems: Problems,
}

impl Reader<'_> {
    /// The line of a byte, from 1.
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
    }

    fn section(&mut self, document: &mut Document, key: &str, at: usize, value: Spanned<DeValue<'_>>) {
        match key {
            "store" => document.store = self.table(key, value),
            "queue" => document.queue = self.table(key, value),
            "worker" => document.worker = self.table(key, value),
            "admin" => document.admin = self.table(key, value),
            "retain" => document.retain = self.table(key, value),
            "guard" => document.guard = self.table(key, value),
            "prices" => document.prices = self.table(key, value),
            "defaults" => document.defaults = self.table(key, value),
            "provider" => document.providers = self.tables(key, value),
            "model" => document.models = self.tables(key, value),
            "task" => document.tasks = self.tables(key, value),
            "project" => document.projects = self.tables(key, value),
            "alert" => document.alerts = self.tables(key, value),
            "strict_tasks" => match value.get_ref() {
                DeValue::Boolean(strict) => document.strict_tasks = *strict,
                _ => self.problems.at(self.line(at), "strict_tasks must be true or false".to_owned()),
            },
            other => {
                let hint = did_you_mean(other, SECTIONS);
                self.problems.at(self.line(at), format!("`{other}` is not a key that outlay knows{hint}"));
            }
        }
    }

    fn tables<T: DeserializeOwned + Default>(
        &mut self,
        name: &str,
        value: Spanned<DeValue<'_>>,
    ) -> Vec<Item<T>> {
        let at = value.span().start;
        match value.into_inner() {
            DeValue::Array(items) => {
                items.into_iter().map(|item| self.table(&format!("[{name}]"), item)).collect()
            }
            _ => {
                self.problems.at(self.line(at), format!("`{name}` is a list of tables: write [[{name}]]"));
                Vec::new()
            }
        }
    }

    /// Reads one table. A key that cannot be read is reported and taken out, and the rest read again.
    fn table<T: DeserializeOwned + Default>(&mut self, name: &str, value: Spanned<DeValue<'_>>) -> Item<T> {
        let span = value.span();
        let mut place = Place { label: format!("[{name}]"), line: self.line(span.start), ..Place::default() };
        let DeValue::Table(mut table) = value.into_inner() else {
            self.problems.at(place.line, format!("`{name}` must be a table: write [{name}]"));
            return Item { value: T::default(), place };
        };
        if let Some(id) = table.get("id").and_then(|id| id.get_ref().as_str()) {
            place.label = format!("[{name}] \"{id}\"");
        }
        place.key_lines =
            table.iter().map(|(key, _)| (key.get_ref().to_string(), self.line(key.span().start))).collect();
        loop {
            let whole = Spanned::new(span.clone(), DeValue::Table(table.clone()));
            let error = match T::deserialize(ValueDeserializer::from(whole)) {
                Ok(value) => return Item { value, place },
                Err(error) => error,
            };
            let at = error.span().map_or(span.start, |span| span.start);
            let path = key_path(&table, at);
            let what = sentence(&path.join("."), error.message());
            self.problems.at(self.line(at), format!("{}: {what}", place.label));
            let Some(top) = path.first() else {
                return Item { value: T::default(), place };
            };
            table.remove(top.as_str());
            place.unreadable.push(top.clone());
        }
    }
}

/// The keys that lead to the byte `at`; empty when none does.
fn key_path(table: &DeTable<'_>, at: usize) -> Vec<String> {
    for (key, value) in table {
        let name = || key.get_ref().to_string();
        if let DeValue::Table(inner) = value.get_ref() {
            let below = key_path(inner, at);
            if !below.is_empty() {
                return std::iter::once(name()).chain(below).collect();
            }
        }
        if key.span().contains(&at) || value.span().contains(&at) {
            return vec![name()];
        }
    }
    Vec::new()
}

/// What is wrong with the key at `path`, in our words.
fn sentence(path: &str, message: &str) -> String {
    // The usual reason for such a key is a secret in the wrong place.
    if message.starts_with("unknown field") && path.ends_with("key") {
        return format!("{path}: a key never stands in this file; name its variable with api_key_env");
    }
    phrase(path, message)
        .unwrap_or_else(|| format!("{path}: {message}"))
        .replace("is not a field that outlay knows", "is not a key that outlay knows")
}
