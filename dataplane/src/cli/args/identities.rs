//! The command line of `identities`.

use clap::{Args, Subcommand};
use contract::identity::{Kind, Role};

use super::{Consistency, DeleteArgs, GetArgs, Paging, WaitArgs, WatchHow, Writing, words};

/// What to do with identities.
#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// List identities from the view
    List(IdentityListArgs),
    /// Show one identity
    Get(GetArgs),
    /// Follow one identity, or all
    Watch(IdentityWatchArgs),
    /// Create an identity
    Create(CreateIdentityArgs),
    /// Change an identity
    Update(UpdateIdentityArgs),
    /// Delete identities and revoke their keys
    Delete(DeleteArgs),
    /// Wait until the view shows a version of an identity; exit 5 when it does not in time
    Wait(WaitArgs),
    /// Write every identity, one JSON document a line
    Export(IdentityExportArgs),
    /// API keys of an identity
    Keys {
        /// What to do.
        #[command(subcommand)]
        command: KeyCommand,
    },
}

/// What to do with API keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key; its secret is shown this once
    Create {
        /// The identity's id
        identity: String,
        /// What to call the key
        #[arg(long)]
        name: String,
        /// From when on it is refused, such as 2030-01-31T12:00:00Z
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
        /// Write the secret alone, for `NEXUS_API_KEY=$(…)`
        #[arg(long)]
        secret_only: bool,
    },
    /// List an identity's keys, without their secrets
    List {
        /// The identity's id
        identity: String,
    },
    /// Revoke a key
    Revoke {
        /// The identity's id
        identity: String,
        /// The key's id
        key: String,
    },
}

/// `identities list`
#[derive(Debug, Args)]
pub struct IdentityListArgs {
    /// In which order
    #[arg(long, allow_hyphen_values = true, value_parser = ["created", "-created"])]
    pub order: Option<String>,
    /// How many.
    #[command(flatten)]
    pub paging: Paging,
    /// How fresh.
    #[command(flatten)]
    pub consistency: Consistency,
}

/// `identities watch`
#[derive(Debug, Args)]
pub struct IdentityWatchArgs {
    /// Only this one
    pub id: Option<String>,
    /// How.
    #[command(flatten)]
    pub how: WatchHow,
}

/// `identities export`
#[derive(Debug, Args)]
pub struct IdentityExportArgs {
    /// How fresh.
    #[command(flatten)]
    pub consistency: Consistency,
}

/// `identities create`
#[derive(Debug, Args)]
pub struct CreateIdentityArgs {
    /// Unique: lower-case letters, digits, dots, hyphens and underscores
    #[arg(long)]
    pub name: String,
    /// The rest.
    #[command(flatten)]
    pub members: IdentityMembers,
    /// How it is sent and shown.
    #[command(flatten)]
    pub writing: Writing,
}

/// `identities update`
#[derive(Debug, Args)]
pub struct UpdateIdentityArgs {
    /// Its id
    pub id: String,
    /// A new name
    #[arg(long)]
    pub name: Option<String>,
    /// The rest.
    #[command(flatten)]
    pub members: IdentityMembers,
    /// Only when this is its version
    #[arg(long, value_name = "VERSION")]
    pub if_match: Option<u64>,
    /// How it is sent and shown.
    #[command(flatten)]
    pub writing: Writing,
}

/// An identity's members but its name.
#[derive(Debug, Clone, Default, Args)]
pub struct IdentityMembers {
    /// What people call it; empty for none
    #[arg(long)]
    pub display_name: Option<String>,
    /// Where to write to it; empty for none
    #[arg(long)]
    pub email: Option<String>,
    /// Who it is
    #[arg(long, value_parser = words(Kind::ALL.iter().map(|k| k.as_str())))]
    pub kind: Option<String>,
    /// What it may do
    #[arg(long, value_parser = words(Role::ALL.iter().map(|r| r.as_str())))]
    pub role: Option<String>,
    /// Whether its keys work
    #[arg(long, value_name = "BOOL")]
    pub active: Option<bool>,
}
