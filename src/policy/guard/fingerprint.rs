//! What two jobs must share to be the same content, or the same conversation at two lengths.

use sha2::{Digest, Sha256};

use crate::types::ProjectId;
use crate::types::job::{Content, Message, Part, Request, Role};

/// Half a SHA-256 over a project's name and a text: enough to tell contents apart, and the same for
/// every process that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Print(pub [u8; 16]);

impl std::fmt::Display for Print {
    /// As hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What is compared of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of the whole conversation with the tools it may call.
    pub content: Print,
    /// Of its beginning; `None` for one that is no longer than that.
    pub prefix: Option<Print>,
    /// How long it is, in bytes of text, instructions not counted.
    pub length: u64,
}

/// Compares by the messages and the tools: the id, the terms and the sampling parameters of a job that
/// comes again may differ. The beginning is every instruction that stands before `prefix` bytes of
/// other text have passed, and those bytes: documents under one instruction are no conversation.
#[must_use]
pub fn fingerprint(project: &ProjectId, request: &Request, prefix: usize) -> Fingerprint {
    let mut reader = Reader { hash: Sha256::new(), left: prefix, prefix: None, length: 0 };
    reader.frame(project.as_str().as_bytes());
    for message in &request.messages {
        reader.message(message);
    }
    for tool in &request.tools {
        reader.frame(tool.to_string().as_bytes());
    }
    Fingerprint { content: print(reader.hash), prefix: reader.prefix, length: reader.length }
}

struct Reader {
    hash: Sha256,
    /// What is still to come of the beginning.
    left: usize,
    prefix: Option<Print>,
    length: u64,
}

impl Reader {
    fn message(&mut self, message: &Message) {
        let instructs = matches!(message.role, Role::System | Role::Developer);
        self.hash.update([match message.role {
            Role::System => 1,
            Role::Developer => 2,
            Role::User => 3,
            Role::Assistant => 4,
            Role::Tool => 5,
        }]);
        match &message.content {
            Content::Text(text) => self.text(text, instructs),
            Content::Parts(parts) => {
                for part in parts {
                    match part {
                        Part::Text { text } => self.text(text, instructs),
                        Part::ImageUrl { image_url } => self.text(&image_url.url, instructs),
                    }
                }
            }
        }
        for text in [&message.name, &message.tool_call_id].into_iter().flatten() {
            self.frame(text.as_bytes());
        }
        for call in &message.tool_calls {
            self.text(&call.to_string(), instructs);
        }
    }

    /// Text that counts as length, unless it is an instruction.
    fn text(&mut self, text: &str, instructs: bool) {
        let bytes = text.as_bytes();
        if instructs {
            return self.frame(bytes);
        }
        self.length = self.length.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        // Where a text ends is part of the whole, and no part of a beginning that may be longer later.
        let head = bytes.len().min(self.left);
        self.hash.update(&bytes[..head]);
        self.left -= head;
        if self.left == 0 && self.prefix.is_none() && head < bytes.len() {
            self.prefix = Some(print(self.hash.clone()));
        }
        self.hash.update(&bytes[head..]);
        self.hash.update(bytes.len().to_le_bytes());
    }

    fn frame(&mut self, bytes: &[u8]) {
        self.hash.update(bytes.len().to_le_bytes());
        self.hash.update(bytes);
    }
}

fn print(hash: Sha256) -> Print {
    let whole: [u8; 32] = hash.finalize().into();
    let mut half = [0; 16];
    half.copy_from_slice(&whole[..16]);
    Print(half)
}
