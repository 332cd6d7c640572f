//! The paths of this crate that a file names, however they are written: from `crate`, from `super`, in groups.

use super::tokens::Token;

/// Every path in `tokens` that begins at `crate`, `outlay` or `super`, from the root of the crate, groups expanded.
pub(super) fn crate_paths<'a>(path: &'a str, tokens: &[Token<'a>]) -> Vec<(usize, Vec<&'a str>)> {
    let mut found = Vec::new();
    for at in 0..tokens.len().saturating_sub(2) {
        let is_head = tokens[at + 1].text == "::" && (at == 0 || tokens[at - 1].text != "::");
        match tokens[at].text {
            "crate" | "outlay" if is_head => expand(tokens, at + 2, &[], &mut found),
            "super" if is_head => expand(tokens, at, &module_path(path), &mut found),
            _ => at,
        };
    }
    found
}

/// Reads one path or group from `at` on, adds what it names and returns where it ends.
fn expand<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    base: &[&'a str],
    found: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    let mut named = base.to_vec();
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.text {
            "{" => {
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = expand(tokens, at, &named, found);
                    at += usize::from(tokens.get(at).is_some_and(|token| token.text == ","));
                }
                return at + 1;
            }
            "super" => drop(named.pop()),
            "self" => {}
            name => named.push(name),
        }
        match tokens.get(at).map_or("", |token| token.text) {
            "::" => at += 1,
            after => {
                found.push((token.line, named));
                return if after == "as" { at + 2 } else { at };
            }
        }
    }
    at
}

/// `src/policy/route.rs` is `[policy, route]`, `src/policy/mod.rs` is `[policy]`, the two roots are empty.
pub(super) fn module_path(path: &str) -> Vec<&str> {
    let inner = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    inner.split('/').filter(|name| !["mod", "lib", "main"].contains(name)).collect()
}
