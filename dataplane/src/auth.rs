//! Who calls: an API key's secret against its record in the view.

use contract::identity::{KeyRecord, Role, secret_key_id};
use contract::problem::{FORBIDDEN, Problem, UNAUTHORIZED};
use contract::time::Timestamp;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::reader::KeyState;

/// Who was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its identity.
    pub identity: Uuid,
    /// What it may do.
    pub role: Role,
}

/// A secret as a request presented it, well-formed but not proven.
#[derive(Clone)]
pub struct Presented {
    /// The key that it names.
    pub key: Uuid,
    sha256: [u8; 32],
}

impl std::fmt::Debug for Presented {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presented").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Presented {
    /// The secret in a bearer's credentials.
    ///
    /// # Errors
    /// 401 when it has not the form of a secret.
    pub fn of(bearer: &str) -> Result<Self, Problem> {
        let key = secret_key_id(bearer).ok_or_else(refuse)?;
        let sha256 = Sha256::digest(bearer.as_bytes()).into();
        Ok(Self { key, sha256 })
    }

    /// The caller, if the view's record says that this is its secret.
    ///
    /// # Errors
    /// 401 for a key that is unknown, revoked, expired or another's; 403 for an inactive identity.
    pub fn check(&self, state: &KeyState, now: Timestamp) -> Result<Caller, Problem> {
        let KeyState::Known { record, sha256 } = state else { return Err(refuse()) };
        let KeyRecord { identity, role, active, expires_at, .. } = &**record;
        if !bool::from(self.sha256.ct_eq(sha256)) || expires_at.is_some_and(|expiry| expiry <= now.0) {
            return Err(refuse());
        }
        if !active {
            return Err(Problem::new(&FORBIDDEN, "the key's identity is inactive"));
        }
        Ok(Caller { identity: *identity, role: *role })
    }
}

/// The same words whatever is wrong: they tell a stranger nothing.
fn refuse() -> Problem {
    Problem::new(&UNAUTHORIZED, "the API key is unknown, revoked or expired")
}

impl Caller {
    /// Whether it may see the identity `id`.
    ///
    /// # Errors
    /// 403 unless it is an admin or the identity itself.
    pub fn may_see_identity(&self, id: Uuid) -> Result<(), Problem> {
        if self.role == Role::Admin || self.identity == id {
            Ok(())
        } else {
            Err(Problem::new(&FORBIDDEN, "only an admin sees other identities"))
        }
    }
}

#[cfg(test)]
mod tests {

    use contract::identity::format_secret;

    use super::*;

    fn record(secret: &str) -> KeyRecord {
        let sha256 = Sha256::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        KeyRecord {
            id: secret_key_id(secret).expect("a secret"),
            identity: Uuid::from_u128(7),
            role: Role::Reader,
            active: true,
            sha256,
            expires_at: None,
            version: 1,
        }
    }

    #[test]
    fn only_the_right_secret_of_a_living_key_of_an_active_identity_is_let_in() {
        let secret = format_secret(Uuid::from_u128(1), &[3; 32]);
        let presented = Presented::of(&secret).expect("a secret");
        let now = Timestamp(1000);
        let check =
            |record: KeyRecord| presented.check(&KeyState::of(record), now).map_err(|problem| problem.kind.status);
        let good = record(&secret);
        assert_eq!(check(good.clone()), Ok(Caller { identity: Uuid::from_u128(7), role: Role::Reader }));
        assert_eq!(check(KeyRecord { expires_at: Some(1001), ..good.clone() }).map(|c| c.role), Ok(Role::Reader));
        assert_eq!(check(KeyRecord { expires_at: Some(1000), ..good.clone() }), Err(401));
        assert_eq!(check(KeyRecord { active: false, ..good.clone() }), Err(403));
        assert_eq!(check(KeyRecord { sha256: String::new(), ..good }), Err(401));
        let other = record(&format_secret(Uuid::from_u128(1), &[4; 32]));
        assert_eq!(check(KeyRecord { active: false, ..other }), Err(401));
        assert_eq!(presented.check(&KeyState::Absent, now).map_err(|p| p.kind.status), Err(401));
        assert_eq!(Presented::of("nxs_x").map_err(|p| p.kind.status).err(), Some(401));
    }
}
