//! Lists of models, which have the same form at OpenAI and at Anthropic.

use serde::Deserialize;

/// One page of a list of models.
#[derive(Debug, Deserialize)]
pub(crate) struct ModelList {
    data: Vec<Model>,
    /// Whether another page follows.
    #[serde(default)]
    pub(crate) has_more: bool,
}

#[derive(Debug, Deserialize)]
struct Model {
    id: String,
}

impl ModelList {
    /// Reads a page.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body).map_err(|_| "the list of models cannot be read".to_owned())
    }

    /// The names in it.
    pub(crate) fn into_names(self) -> Vec<String> {
        self.data.into_iter().map(|model| model.id).collect()
    }
}
