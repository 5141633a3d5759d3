//! A document as the view stores it, kept in the bytes that Redis sent.

use bytes::Bytes;

use crate::view::keys::{CODE_NONE, DOCUMENT_HEAD, parse_document};

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
    /// The document in a stored string, without copying its JSON; `None` for what no projector wrote.
    #[must_use]
    pub fn of(stored: Vec<u8>) -> Option<Self> {
        let (version, code, _) = parse_document(&stored)?;
        let mut json = Bytes::from(stored);
        let _ = json.split_to(DOCUMENT_HEAD);
        Some(Self { version, code, json })
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
        let document = Document::of(b"0000000000000010e{\"id\":1}".to_vec()).expect("a document");
        assert_eq!((document.version, document.code, document.is_tombstone()), (16, b'e', false));
        assert_eq!(document.json, "{\"id\":1}");
        let tombstone = Document::of(b"0000000000000002-".to_vec()).expect("a tombstone");
        assert!(tombstone.is_tombstone() && tombstone.json.is_empty());
        assert_eq!(Document::of(b"0000".to_vec()), None);
    }
}
