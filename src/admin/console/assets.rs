//! The stylesheet, the script and the icon: part of the binary, named by their content, kept for a year.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::chart;
use crate::policy::access::hex;

/// A file that pages link to.
struct Asset {
    name: String,
    media_type: &'static str,
    text: String,
}

impl Asset {
    fn new(stem: &str, extension: &str, media_type: &'static str, text: String) -> Self {
        let hash = hex(&Sha256::digest(text.as_bytes())[..6]);
        Self { name: format!("{stem}-{hash}.{extension}"), media_type, text }
    }
}

static ASSETS: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    let style = format!("{}\n{}", chart::STYLE, include_str!("assets/console.css"));
    let script = include_str!("assets/console.js").to_owned();
    let icon = include_str!("assets/icon.svg").to_owned();
    [
        Asset::new("console", "css", "text/css; charset=utf-8", style),
        Asset::new("console", "js", "text/javascript; charset=utf-8", script),
        Asset::new("icon", "svg", "image/svg+xml", icon),
    ]
});

/// Names of the stylesheet, the script and the icon below `/assets/`.
pub(super) fn names() -> [&'static str; 3] {
    ASSETS.each_ref().map(|asset| asset.name.as_str())
}

/// A file by its name. A name with another hash is another version's and is not found.
pub(super) async fn serve(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|asset| asset.name == name) {
        Some(asset) => {
            let headers = [
                (header::CONTENT_TYPE, asset.media_type),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            ];
            (headers, asset.text.as_str()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
