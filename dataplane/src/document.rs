//! A document as the view stores it.

use bytes::Bytes;

use crate::view::keys::{CODE_NONE, parse_document};

/// What the view holds of one entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The entity's version.
    pub version: u64,
    /// Its index code.
    pub code: u8,
    /// The JSON that control rendered; empty for a tombstone.
    pub json: Bytes,
}

impl Document {
    /// The document in a stored string; `None` for what no projector wrote. Copied: a slow client must hold no more
    /// than its document, and what Redis sent holds many.
    #[must_use]
    pub fn of(stored: &[u8]) -> Option<Self> {
        let (version, code, json) = parse_document(stored)?;
        Some(Self { version, code, json: Bytes::copy_from_slice(json) })
    }

    /// Whether the entity was deleted, by the change that made [`Document::version`].
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.code == CODE_NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_string_is_a_document_a_tombstone_or_nothing() {
        let document = Document::of(b"0000000000000010e{\"id\":1}").expect("a document");
        assert_eq!((document.version, document.code, document.is_tombstone()), (16, b'e', false));
        assert_eq!(document.json, "{\"id\":1}");
        let tombstone = Document::of(b"0000000000000002-").expect("a tombstone");
        assert!(tombstone.is_tombstone() && tombstone.json.is_empty());
        assert_eq!(Document::of(b"0000"), None);
    }
}
