//! Which account of the operating system a server runs under. Postgres refuses to run as root, and Redis had better
//! not; so where the launcher is root they run as `postgres` and `redis`, and else as whoever started it.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{IoContext, LaunchError, Result};

/// An account to run a server under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// The one that runs this process.
    Own,
    /// Another one, which only root can take on.
    Other {
        /// Its name.
        name: String,
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
    },
}

impl Account {
    /// The account of this name when we are root, else our own.
    ///
    /// # Errors
    /// We are root and there is no such account.
    pub fn for_server(name: &str) -> Result<Account> {
        if !is_root() {
            return Ok(Account::Own);
        }
        let id = |flag: &str| -> Option<u32> {
            let output = Command::new("id").args([flag, name]).stderr(Stdio::null()).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        match (id("-u"), id("-g")) {
            (Some(uid), Some(gid)) => Ok(Account::Other { name: name.to_owned(), uid, gid }),
            _ => Err(LaunchError::Missing {
                what: format!("the account `{name}`, under which root runs that server,"),
                hint: "run `make setup`, which installs Debian's package and with it the account".to_owned(),
            }),
        }
    }

    /// The words to put before a program so that it runs under this account, with the same pid.
    pub(crate) fn prefix(&self) -> Vec<OsString> {
        match self {
            Account::Own => Vec::new(),
            Account::Other { name, .. } => vec![
                "setpriv".into(),
                format!("--reuid={name}").into(),
                format!("--regid={name}").into(),
                "--init-groups".into(),
                "--".into(),
            ],
        }
    }

    /// Gives a file or directory to this account.
    pub(crate) fn own(&self, path: &Path) -> Result<()> {
        match self {
            Account::Own => Ok(()),
            Account::Other { name, uid, gid } => std::os::unix::fs::chown(path, Some(*uid), Some(*gid))
                .context(|| format!("can't give {} to {name}", path.display())),
        }
    }

    /// Makes a directory of this account that nobody else can read, parents as needed.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<()> {
        std::fs::create_dir_all(path).context(|| format!("can't make {}", path.display()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .context(|| format!("can't protect {}", path.display()))?;
        self.own(path)
    }

    /// Whether this account can get into the directory.
    pub(crate) fn reaches(&self, path: &Path) -> bool {
        let prefix = self.prefix();
        let Some((program, rest)) = prefix.split_first() else { return true };
        Command::new(program)
            .args(rest)
            .args(["test", "-x"])
            .arg(path)
            .current_dir("/")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

/// Whether this process has root's rights.
pub fn is_root() -> bool {
    // Without unsafe code the kernel tells it by the owner of our own entry.
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
