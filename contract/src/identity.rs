//! Identities, their roles, and the API keys they own.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::json::write_string;
use crate::signal::{words, write_id_or_null};
use crate::time::Timestamp;

words! {
    /// Who an identity is.
    Kind {
        /// A person; the default.
        Human = "human",
        /// A program.
        Service = "service",
    }
}

words! {
    /// What an identity may do, least first.
    Role {
        /// Reads signals; the default.
        Reader = "reader",
        /// Commands and reads signals.
        Operator = "operator",
        /// Everything.
        Admin = "admin",
    }
}

/// An identity's full state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// UUIDv7, made by the server.
    pub id: Uuid,
    /// Unique, `[a-z0-9][a-z0-9._-]{0,63}`.
    pub name: String,
    /// What people call it.
    pub display_name: Option<String>,
    /// Where to write to it.
    pub email: Option<String>,
    /// Who it is.
    pub kind: Kind,
    /// What it may do.
    pub role: Role,
    /// An inactive identity's keys are refused with 403.
    pub active: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts its changes from 1.
    pub version: u64,
}

impl Identity {
    /// The identity as JSON: the very bytes that event, view and both planes carry.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        use std::fmt::Write as _;
        let mut out = String::with_capacity(400);
        out.push_str("{\"id\":");
        write_id_or_null(&mut out, Some(self.id));
        out.push_str(",\"name\":");
        write_string(&mut out, &self.name);
        for (member, value) in [("display_name", &self.display_name), ("email", &self.email)] {
            let _ = write!(out, ",\"{member}\":");
            match value {
                Some(text) => write_string(&mut out, text),
                None => out.push_str("null"),
            }
        }
        let Identity { kind, role, active, created_at, updated_at, version, .. } = self;
        // Writing to a String can't fail.
        let _ = write!(out, ",\"kind\":\"{kind}\",\"role\":\"{role}\",\"active\":{active}");
        let _ = write!(out, ",\"created_at\":\"{created_at}\",\"updated_at\":\"{updated_at}\",\"version\":{version}}}");
        out.into_bytes()
    }
}

/// Checks an identity's name against `[a-z0-9][a-z0-9._-]{0,63}`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 64
        && name.as_bytes().first().is_some_and(plain)
        && name.as_bytes().iter().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
}

/// The record of an API key on `nexus.keys`, by which the data plane authorises. Never served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The key's id, which also stands in its secret.
    pub id: Uuid,
    /// Whose key it is.
    pub identity: Uuid,
    /// The identity's role.
    pub role: Role,
    /// Whether the identity is active.
    pub active: bool,
    /// SHA-256 of the whole secret (`nxs_…`), 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// From when on the key is refused, in microseconds since 1970; none: never.
    pub expires_at: Option<i64>,
    /// Counts the record's changes from 1.
    pub version: u64,
}

impl KeyRecord {
    /// The record as JSON.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain members always serialise")
    }

    /// [`KeyRecord::sha256`] as bytes; `None` where it is none, and so matches no secret.
    #[must_use]
    pub fn digest(&self) -> Option<[u8; 32]> {
        let digit = |text: u8| match text {
            b'0'..=b'9' => Some(text - b'0'),
            b'a'..=b'f' => Some(text - b'a' + 10),
            _ => None,
        };
        let (mut digest, text) = ([0; 32], self.sha256.as_bytes());
        if text.len() != 2 * digest.len() {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(digest)
    }
}

const SECRET_PREFIX: &str = "nxs_";

/// An API key's secret: `nxs_` and base64url of the key's id (16 bytes) and 32 random bytes, 68
/// characters in all. The id in front lets a server find the record without an index of hashes.
#[must_use]
pub fn format_secret(id: Uuid, random: &[u8; 32]) -> String {
    let mut bytes = [0; 48];
    bytes[..16].copy_from_slice(id.as_bytes());
    bytes[16..].copy_from_slice(random);
    format!("{SECRET_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// The key's id in a secret of the right form; the secret itself still has to be compared by hash.
#[must_use]
pub fn secret_key_id(secret: &str) -> Option<Uuid> {
    let encoded = secret.strip_prefix(SECRET_PREFIX)?;
    let mut bytes = [0; 48];
    let length = URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes).ok()?;
    if length == 48 && encoded.len() == 64 { Uuid::from_slice(&bytes[..16]).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_renders_to_the_golden_bytes() {
        let identity = Identity {
            id: Uuid::from_u64_pair(1, 2),
            name: "ops.bot-1".into(),
            display_name: Some("Ops \\ bot".into()),
            email: None,
            kind: Kind::Service,
            role: Role::Operator,
            active: true,
            created_at: Timestamp(0),
            updated_at: Timestamp(1),
            version: 1,
        };
        assert_eq!(
            String::from_utf8(identity.render()).expect("UTF-8"),
            concat!(
                r#"{"id":"00000000-0000-0001-0000-000000000002","name":"ops.bot-1","display_name":"Ops \\ bot","email":null,"#,
                r#""kind":"service","role":"operator","active":true,"#,
                r#""created_at":"1970-01-01T00:00:00.000000Z","updated_at":"1970-01-01T00:00:00.000001Z","version":1}"#
            )
        );
    }

    #[test]
    fn a_key_record_renders_to_the_golden_bytes() {
        let record = KeyRecord {
            id: Uuid::from_u64_pair(1, 2),
            identity: Uuid::from_u64_pair(3, 4),
            role: Role::Admin,
            active: true,
            sha256: "00ff".into(),
            expires_at: None,
            version: 2,
        };
        let text = concat!(
            r#"{"id":"00000000-0000-0001-0000-000000000002","identity":"00000000-0000-0003-0000-000000000004","#,
            r#""role":"admin","active":true,"sha256":"00ff","expires_at":null,"version":2}"#
        );
        assert_eq!(String::from_utf8(record.render()).expect("UTF-8"), text);
        assert_eq!(serde_json::from_str::<KeyRecord>(text).expect("reads back"), record);
    }

    #[test]
    fn a_secret_names_its_key() {
        let id = Uuid::from_u64_pair(7, 8);
        let secret = format_secret(id, &[9; 32]);
        assert_eq!(secret.len(), 68);
        assert_eq!(secret_key_id(&secret), Some(id));
        for bad in ["", "nxs_", &secret[..67], &secret[4..], &format!("{secret}A"), &secret.replace('A', "!")] {
            assert_eq!(secret_key_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_follow_the_pattern() {
        for good in ["a", "0", "ops.bot_1-x", &"a".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "a b", "é", &"a".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_digest_is_64_lower_case_hexadecimal_digits_and_nothing_else() {
        let record = |sha256: String| KeyRecord {
            id: Uuid::nil(),
            identity: Uuid::nil(),
            role: Role::Reader,
            active: true,
            sha256,
            expires_at: None,
            version: 1,
        };
        let expected: Vec<u8> = (0..32).map(|i| i * 8 + 7).collect();
        let text: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(record(text.clone()).digest().map(Vec::from), Some(expected));
        for bad in
            [String::new(), text.to_uppercase(), format!("{text}00"), text[1..].to_owned(), text.replace('7', "g")]
        {
            assert_eq!(record(bad.clone()).digest(), None, "{bad}");
        }
    }
}
