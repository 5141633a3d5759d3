//! `epoll` with timeouts in nanoseconds.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;

use crate::clock::SECOND;

/// What one wait reports at most.
const EVENTS: usize = 256;

/// One file that became ready.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// The number it was added under.
    pub token: u64,
    /// There is something to read, or the peer is gone.
    pub readable: bool,
    /// There is room to write, or a connection attempt ended.
    pub writable: bool,
}

/// A set of sockets to wait on. Timeouts are exact to the kernel's timer slack (50 µs), not to the
/// millisecond of `epoll_wait`.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Watches `fd` for input, and for room to write if `writable`.
    ///
    /// # Errors
    /// The kernel's limit of watches is reached.
    pub fn add(&self, fd: impl AsFd, token: u64, writable: bool) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), flags(writable))?)
    }

    /// Changes what `fd` is watched for.
    ///
    /// # Errors
    /// It is not in the set.
    pub fn modify(&self, fd: impl AsFd, token: u64, writable: bool) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(token), flags(writable))?)
    }

    /// Waits until something is ready or `timeout` nanoseconds are over, and puts what is ready
    /// into `ready`.
    ///
    /// # Errors
    /// Only on a broken set; an interruption counts as a timeout.
    pub fn wait(&self, timeout: u64, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        let timeout =
            Timespec { tv_sec: i64::try_from(timeout / SECOND).unwrap_or(i64::MAX), tv_nsec: (timeout % SECOND) as _ };
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        let events = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let gone = EventFlags::ERR | EventFlags::HUP | EventFlags::RDHUP;
        ready.extend(events.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            Ready {
                token: data.u64(),
                readable: flags.intersects(EventFlags::IN | gone),
                writable: flags.intersects(EventFlags::OUT | gone),
            }
        }));
        Ok(())
    }
}

fn flags(writable: bool) -> EventFlags {
    if writable { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN }
}
