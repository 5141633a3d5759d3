//! Random bytes from the system.

use std::io::Read;

use crate::error::{IoContext, Result};

/// Fresh random bytes.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context(|| "can't read /dev/urandom".to_owned())?;
    Ok(bytes)
}

/// A password of 192 random bits, in hexadecimal: it needs quoting neither in a URL nor in a shell.
pub(crate) fn password() -> Result<String> {
    Ok(random_bytes::<24>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}
