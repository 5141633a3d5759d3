//! What a command does to an identity. Pure; the rules that look at other identities get what they
//! need as [`Others`].

use contract::command::{CreateIdentity, PatchIdentity, Precondition};
use contract::identity::{Identity, Role};
use contract::problem::{LAST_ADMIN, NAME_TAKEN, NOT_FOUND, Problem};
use contract::time::Timestamp;

use super::check_version;

/// What the other identities are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Others {
    /// One of them has the name that the command wants.
    pub have_name: bool,
    /// One of them is an active admin.
    pub have_active_admin: bool,
}

/// The identity that comes to be.
///
/// # Errors
/// 409 when its name is taken.
pub fn create(command: &CreateIdentity, others: Others, now: Timestamp, random: u64) -> Result<Identity, Problem> {
    check_name(&command.name, others)?;
    let CreateIdentity { name, display_name, email, kind, role, active } = command.clone();
    Ok(Identity {
        id: contract::id::v7(now, random),
        name,
        display_name,
        email,
        kind,
        role,
        active,
        created_at: now,
        updated_at: now,
        version: 1,
    })
}

/// The identity's next state; `None` when nothing changes.
///
/// # Errors
/// 404, 412, or 409 when the name is taken or the last active admin would be gone.
pub fn patch(
    state: Option<&Identity>,
    command: &PatchIdentity,
    precondition: &Precondition,
    others: Others,
    now: Timestamp,
) -> Result<Option<Identity>, Problem> {
    let old = existing(state)?;
    check_version(precondition, old.version)?;
    let PatchIdentity { name, display_name, email, kind, role, active } = command.clone();
    let mut new = Identity {
        name: name.unwrap_or_else(|| old.name.clone()),
        display_name: display_name.unwrap_or_else(|| old.display_name.clone()),
        email: email.unwrap_or_else(|| old.email.clone()),
        kind: kind.unwrap_or(old.kind),
        role: role.unwrap_or(old.role),
        active: active.unwrap_or(old.active),
        ..old.clone()
    };
    if new == *old {
        return Ok(None);
    }
    if new.name != old.name {
        check_name(&new.name, others)?;
    }
    if !is_active_admin(&new) {
        check_last_admin(old, others)?;
    }
    new.updated_at = now.max(old.updated_at);
    new.version = old.version + 1;
    Ok(Some(new))
}

/// The version that deletes the identity.
///
/// # Errors
/// 404, 412, or 409 for the last active admin.
pub fn delete(state: Option<&Identity>, precondition: &Precondition, others: Others) -> Result<u64, Problem> {
    let old = existing(state)?;
    check_version(precondition, old.version)?;
    check_last_admin(old, others)?;
    Ok(old.version + 1)
}

/// The identity, which must be there.
///
/// # Errors
/// 404.
pub fn existing(state: Option<&Identity>) -> Result<&Identity, Problem> {
    state.ok_or_else(|| Problem::new(&NOT_FOUND, "there is no identity with this id"))
}

fn check_name(name: &str, others: Others) -> Result<(), Problem> {
    if others.have_name {
        return Err(Problem::new(&NAME_TAKEN, format!("another identity is named {name}")));
    }
    Ok(())
}

fn check_last_admin(old: &Identity, others: Others) -> Result<(), Problem> {
    if is_active_admin(old) && !others.have_active_admin {
        return Err(Problem::new(&LAST_ADMIN, format!("{} is the last active admin", old.name)));
    }
    Ok(())
}

fn is_active_admin(identity: &Identity) -> bool {
    identity.active && identity.role == Role::Admin
}
