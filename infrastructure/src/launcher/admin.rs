//! The first admin, and a key of its that works.

use std::net::SocketAddr;
use std::time::Duration;

use super::plan::PlanePlan;
use crate::account::Account;
use crate::error::Result;
use crate::probe;
use crate::process::run;
use crate::wait;

/// An event takes milliseconds; a busy machine gets its time.
const KEY_DEADLINE: Duration = Duration::from_secs(30);

/// Tables, rights and slot; again: nothing.
pub(crate) async fn migrate(control: &PlanePlan) -> Result<()> {
    run(&Account::Own, &control.launch.program, ["migrate"], &control.launch.env).await.map(drop)
}

/// Makes the first admin. Returns its key, or `None` when there is an admin already.
pub(crate) async fn create(control: &PlanePlan, new_key: bool) -> Result<Option<String>> {
    let mut args = vec!["create-admin", "--name", "admin"];
    if new_key {
        args.push("--new-key");
    }
    let printed = run(&Account::Own, &control.launch.program, args, &control.launch.env).await?;
    Ok(Some(printed).filter(|key| !key.is_empty()))
}

/// Whether the control plane takes the key.
pub(crate) async fn key_works(control: SocketAddr, key: &str) -> bool {
    probe::http_get(control, "/v1/me", Some(key)).await.is_some_and(|answer| answer.status == 200)
}

/// Waits until the view server knows the key: it comes to it as an event, a moment after it was made.
///
/// # Errors
/// It does not know it after half a minute.
pub(crate) async fn key_arrives(dataplane: SocketAddr, key: &str) -> Result<()> {
    wait::until("the admin's key to reach the data plane", KEY_DEADLINE, || async {
        let answer = probe::http_get(dataplane, "/v1/me", Some(key)).await?;
        (!matches!(answer.status, 401 | 503)).then_some(())
    })
    .await
}
