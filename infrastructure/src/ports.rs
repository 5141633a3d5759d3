//! Ports on 127.0.0.1: free ones, and who holds one that is not.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::error::{LaunchError, Result};

/// Below the range from which Linux takes the ports of outgoing connections (32768 and up), so that a server that was
/// stopped finds its port free when it comes back.
const PICKED_FROM: std::ops::Range<u16> = 15_000..32_000;

/// Whether a listener could be opened on this port of 127.0.0.1.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A free port, picked at random: processes that pick at the same time rarely meet.
///
/// # Errors
/// None of a thousand tries was free.
pub fn pick() -> Result<u16> {
    for _ in 0..1_000 {
        let span = u64::from(PICKED_FROM.end - PICKED_FROM.start);
        // RandomState is seeded by the system, and anew each time.
        let offset = RandomState::new().build_hasher().finish() % span;
        let port = PICKED_FROM.start + u16::try_from(offset).expect("below the span of the range");
        if is_free(port) {
            return Ok(port);
        }
    }
    Err(LaunchError::Setting { name: "NEXUS_PORTS", reason: "found no free port on 127.0.0.1".to_owned() })
}

/// Checks that a process can have its port.
///
/// # Errors
/// [`LaunchError::PortBusy`] with the holder, as far as it can be known.
pub fn check(name: &str, port: u16) -> Result<()> {
    if is_free(port) {
        return Ok(());
    }
    Err(LaunchError::PortBusy { name: name.to_owned(), port, holder: holder(port) })
}

/// Who listens on a port, in words: `redis-server (pid 812)`, or `another program` when `/proc` does not tell.
fn holder(port: u16) -> String {
    let unknown = || "another program".to_owned();
    let Some(inode) = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| listening_inode(table, port)) else {
        return unknown();
    };
    let wanted = format!("socket:[{inode}]");
    let Ok(processes) = std::fs::read_dir("/proc") else { return unknown() };
    for process in processes.flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if pid.parse::<u32>().is_err() {
            continue; // `self` and `thread-self` are there as well
        }
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let holds = |file: std::fs::DirEntry| {
            std::fs::read_link(file.path()).is_ok_and(|target| target.to_string_lossy() == wanted)
        };
        if files.flatten().any(holds) {
            let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return format!("{} (pid {pid})", command.trim());
        }
    }
    unknown()
}

/// The inode of the socket that listens on the port, from a table as in proc(5).
fn listening_inode(table: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let text = std::fs::read_to_string(table).ok()?;
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let found = u16::from_str_radix(local_port, 16).ok()? == port && *fields.get(3)? == LISTEN;
        found.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
    })
}

/// An address on 127.0.0.1.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_names_its_holder_and_the_way_out() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("some port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let error = check("redis", port).expect_err("it is held by this test").to_string();
        assert!(error.contains(&format!("port {port}")), "{error}");
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        assert!(error.contains("NEXUS_PORTS=auto"), "{error}");
    }
}
