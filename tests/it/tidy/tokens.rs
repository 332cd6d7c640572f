//! Rust sources as tokens: just enough of the grammar that comments, literals and test items don't offend.

/// A word, a number, `::`, one other character, or `""` for any string or character literal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub(super) line: usize,
    pub(super) text: &'a str,
}

pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

pub(super) fn lex(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let (length, token) = if let Some(length) = comment_length(rest) {
            (length, "")
        } else if let Some(length) = literal_length(rest) {
            (length, "\"\"")
        } else if first.is_ascii_digit() {
            // A type suffix is a word of its own (`1_f64`), except that a hexadecimal number has letters.
            let is_radix = ["0x", "0b", "0o"].iter().any(|radix| rest.starts_with(radix));
            let is_digit = |c: char| {
                if is_radix { is_word(c) } else { c.is_ascii_digit() || c == '_' }
            };
            let length = rest.find(|c| !is_digit(c)).unwrap_or(rest.len());
            (length, &rest[..length])
        } else if is_word(first) {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            (length, &rest[..length])
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            (length, rest[..length].trim())
        };
        if !token.is_empty() {
            tokens.push(Token { line, text: token });
        }
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// Length of the comment that `rest` begins with; block comments nest.
fn comment_length(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    let (mut at, mut depth) = (0, 0);
    while let Some(pair) = rest.as_bytes().get(at..at + 2) {
        match pair {
            b"/*" => (at, depth) = (at + 2, depth + 1),
            b"*/" if depth > 0 => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return (at > 1).then_some(at);
        }
    }
    (depth > 0).then_some(rest.len())
}

/// Length of the string or character literal that `rest` begins with. A lifetime is none.
fn literal_length(rest: &str) -> Option<usize> {
    let body = rest.trim_start_matches(['b', 'c', 'r']);
    let prefix = rest.len() - body.len();
    let hashes = body.len() - body.trim_start_matches('#').len();
    let is_raw = rest[..prefix].ends_with('r');
    if !["", "b", "c", "r", "br", "cr"].contains(&&rest[..prefix]) || (hashes > 0 && !is_raw) {
        return None;
    }
    if is_raw {
        let inner = body[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = inner.find(&end).map_or(inner.len(), |at| at + end.len());
        return Some(rest.len() - inner.len() + length);
    }
    let quote = body.chars().next().filter(|c| ['"', '\''].contains(c))?;
    let mut chars = body.char_indices().skip(1);
    if quote == '\'' && !body.starts_with("'\\") && body.chars().nth(2) != Some('\'') {
        return None;
    }
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            c if c == quote => return Some(prefix + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

pub(super) fn starts_with(tokens: &[Token<'_>], pattern: &[Token<'_>]) -> bool {
    tokens.len() >= pattern.len()
        && tokens.iter().zip(pattern).all(|(token, wanted)| token.text == wanted.text)
}

/// Leaves out each item under `#[cfg(test)]` or `#[cfg(outlay_mutants)]`, whatever kind of item it is.
pub(super) fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let markers = [lex("#[cfg(test)]"), lex("#[cfg(outlay_mutants)]")];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if let Some(marker) = markers.iter().find(|marker| starts_with(&tokens[at..], marker)) {
            at = item_end(tokens, at + marker.len());
        } else {
            kept.push(tokens[at]);
            at += 1;
        }
    }
    kept
}

/// Where the item that begins at `at` ends: after its `;` or its block. Attributes before it belong to it.
fn item_end(tokens: &[Token<'_>], mut at: usize) -> usize {
    while let Some(token) = tokens.get(at) {
        match token.text {
            ";" => return at + 1,
            "{" => return group_end(tokens, at),
            "(" | "[" => at = group_end(tokens, at),
            ")" | "]" | "}" => return at,
            _ => at += 1,
        }
    }
    at
}

fn group_end(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}
