//! Debian's Redis in a directory of its own: an append-only file, no snapshots, no eviction, loopback only.

use std::path::PathBuf;

use crate::account::Account;
use crate::error::{IoContext, LaunchError, Result};
use crate::ports::local;
use crate::postgres::on_path;
use crate::probe::redis_answers;
use crate::process::Launch;

/// How to run one Redis.
#[derive(Clone, Debug)]
pub(crate) struct Redis {
    pub port: u16,
    pub home: PathBuf,
    pub log: PathBuf,
    pub account: Account,
}

impl Redis {
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Makes the directory and writes the settings.
    pub async fn prepare(&self) -> Result<()> {
        self.account.make_dir(&self.home)?;
        let file = self.home.join("redis.conf");
        let text = format!(
            "# Written by the launcher at every start.\n\
             bind 127.0.0.1\n\
             protected-mode yes\n\
             port {port}\n\
             dir \"{dir}\"\n\
             daemonize no\n\
             supervised no\n\
             set-proc-title no\n\
             appendonly yes\n\
             appendfsync everysec\n\
             # A rewrite takes a core for a second: every five minutes at 1,000 events/s, not twice a minute.\n\
             auto-aof-rewrite-min-size 512mb\n\
             save \"\"\n\
             maxmemory-policy noeviction\n",
            port = self.port,
            dir = self.home.display().to_string().replace('\\', "\\\\").replace('"', "\\\""),
        );
        std::fs::write(&file, text).context(|| format!("can't write {}", file.display()))?;
        self.account.own(&file)
    }

    pub fn launch(&self) -> Result<Launch> {
        let program = on_path("redis-server").ok_or_else(|| LaunchError::Missing {
            what: "redis-server".to_owned(),
            hint: "run `make setup`".to_owned(),
        })?;
        Ok(Launch {
            name: "redis".to_owned(),
            program,
            args: vec![self.home.join("redis.conf").into()],
            env: Vec::new(),
            directory: PathBuf::from("/"),
            log: self.log.clone(),
            account: self.account.clone(),
        })
    }

    pub async fn is_ready(&self) -> bool {
        redis_answers(local(self.port)).await
    }
}
