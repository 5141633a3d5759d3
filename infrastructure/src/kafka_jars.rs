//! Kafka's jars: resolved once by Maven from `infrastructure/pom.xml`, which alone names the versions, into a cache that
//! all stacks of this user share, together with the archive of loaded classes that makes the JVM start faster.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;

use crate::account::Account;
use crate::error::{IoContext, LaunchError, Result};
use crate::process::run;

const ARCHIVE: &str = "classes.jsa";
const POM: &str = include_str!("../pom.xml");

/// The directory of one resolved set of jars.
#[derive(Clone, Debug)]
pub(crate) struct Jars {
    directory: PathBuf,
}

impl Jars {
    /// The jars, fetched now unless they are there.
    ///
    /// # Errors
    /// Maven is missing or can't reach its repository.
    pub async fn resolve() -> Result<Jars> {
        Jars::named("broker", POM).await
    }

    /// The jars that a POM names, below a folder of this name.
    async fn named(name: &str, pom: &str) -> Result<Jars> {
        let directory = cache()?.join(format!("{name}-{:016x}", hash(pom.as_bytes())));
        let jars = Jars { directory: directory.clone() };
        if directory.join("jars").is_dir() {
            return Ok(jars);
        }
        std::fs::create_dir_all(&directory).context(|| format!("can't make {}", directory.display()))?;
        let lock = File::create(directory.join("lock")).context(|| "can't make a lock file".to_owned())?;
        let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
            .await
            .expect("taking a lock does not panic")
            .context(|| "can't lock the cache of jars".to_owned())?;
        if !directory.join("jars").is_dir() {
            jars.fetch(pom).await?;
        }
        drop(lock);
        Ok(jars)
    }

    async fn fetch(&self, text: &str) -> Result<()> {
        let pom = self.directory.join("pom.xml");
        std::fs::write(&pom, text).context(|| format!("can't write {}", pom.display()))?;
        let fetching = self.directory.join("fetching");
        let mut output = OsString::from("-DoutputDirectory=");
        output.push(&fetching);
        let args: [OsString; 7] = [
            "-q".into(),
            "-B".into(),
            "-f".into(),
            pom.into(),
            "dependency:copy-dependencies".into(),
            "-DincludeScope=runtime".into(),
            output,
        ];
        run(&Account::Own, "mvn", args, &[]).await?;
        std::fs::rename(&fetching, self.directory.join("jars")).context(|| format!("can't move {}", fetching.display()))
    }

    /// The jars in a fixed order: the archive of classes is good for one class path only.
    pub fn class_path(&self) -> OsString {
        let entries = std::fs::read_dir(self.directory.join("jars")).into_iter().flatten().flatten();
        let mut jars: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        jars.sort();
        jars.iter().map(|jar| jar.as_os_str()).collect::<Vec<_>>().join(OsString::from(":").as_os_str())
    }

    /// Options that use the archive of classes, or make one when this JVM ends in order. A JVM that finds the archive
    /// unfit (another version, another collector) ignores it. `tag` tells JVMs apart that run at the same time.
    pub fn class_data_args(&self, tag: u16) -> Vec<OsString> {
        let archive = self.directory.join(ARCHIVE);
        let (option, file) = if archive.exists() {
            ("-XX:SharedArchiveFile=", archive)
        } else {
            ("-XX:ArchiveClassesAtExit=", self.unfinished_archive(tag))
        };
        let mut argument = OsString::from(option);
        argument.push(file);
        vec![argument, "-Xshare:auto".into(), "-Xlog:cds=off".into(), "-Xlog:cds+dynamic=off".into()]
    }

    /// Puts the archive that a JVM wrote at its end, if it did, where the next one looks for it. Only whoever has seen
    /// that JVM end may call this: until then the file is not whole.
    pub fn keep_class_data(&self, tag: u16) {
        // Where there is none, there is nothing to keep.
        let _ = std::fs::rename(self.unfinished_archive(tag), self.directory.join(ARCHIVE));
    }

    fn unfinished_archive(&self, tag: u16) -> PathBuf {
        self.directory.join(format!("{ARCHIVE}.{tag}"))
    }
}

/// `$XDG_CACHE_HOME/nexus`, or `~/.cache/nexus`.
///
/// # Errors
/// Neither `HOME` nor `XDG_CACHE_HOME` is set.
pub fn cache() -> Result<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    named.or_else(home).map(|cache| cache.join("nexus")).ok_or_else(|| LaunchError::Missing {
        what: "a place for the broker's jars".to_owned(),
        hint: "set HOME or XDG_CACHE_HOME".to_owned(),
    })
}

/// The class path of the jars that a POM names with all that they need, fetched by Maven unless they are in the cache,
/// below a folder of this name. For benches that run other programs of the same world.
///
/// # Errors
/// Maven is missing or can't reach its repository.
pub async fn fetch_jars(name: &str, pom: &str) -> Result<OsString> {
    Ok(Jars::named(name, pom).await?.class_path())
}

/// FNV-1a: the same on every machine and for ever, which the standard library's hashers don't promise.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
