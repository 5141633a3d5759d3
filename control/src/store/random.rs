//! Random bits from the system, fetched by the page.

use uuid::Uuid;

/// Random numbers; one system call for 64 of them.
#[derive(Debug)]
pub(super) struct Random {
    page: [u8; 512],
    used: usize,
}

impl Default for Random {
    fn default() -> Self {
        Self { page: [0; 512], used: 512 }
    }
}

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        if self.used == self.page.len() {
            fill(&mut self.page);
            self.used = 0;
        }
        let bytes = self.page[self.used..].first_chunk::<8>().copied().unwrap_or_default();
        self.used += 8;
        u64::from_le_bytes(bytes)
    }
}

/// Fills `bytes` with bits fit for secrets.
pub(super) fn fill(bytes: &mut [u8]) {
    // Linux fails here only before the pool is seeded at boot, and then blocks instead.
    getrandom::fill(bytes).expect("the system gives random bits");
}

/// A random id that tells nothing.
pub(super) fn id() -> Uuid {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    Uuid::from_bytes(bytes)
}
