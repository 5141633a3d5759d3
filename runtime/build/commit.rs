// Shared by the planes' build scripts: which commit `/version` names. NEXUS_COMMIT where it is set, else HEAD of the
// checkout that the workspace is, else none.
//
// The commit is not read here. A build script that ran at every commit would have all of its package compiled at every
// commit; the code written here makes HEAD's log an input of the executable's main file alone, which rustc tells cargo.

/// Writes `commit.rs` into `OUT_DIR`: a function `commit() -> Option<&'static str>` for the executable's main file.
fn write_commit() {
    println!("cargo:rerun-if-env-changed=NEXUS_COMMIT");
    let given = std::env::var("NEXUS_COMMIT").ok().filter(|commit| !commit.is_empty());
    let body = match (given, git_directory()) {
        (Some(commit), _) => format!("Some({commit:?})"),
        (None, Some(git)) if git.join("logs/HEAD").is_file() => {
            // Changes with the branch, not with every commit; once it is missing, so is the log.
            println!("cargo:rerun-if-changed={}", git.join("HEAD").display());
            format!(
                "static HEAD: Option<runtime::commit::Commit> = \
                 runtime::commit::Commit::latest(include_bytes!({:?})); HEAD.as_ref().map(|head| head.as_str())",
                git.join("logs/HEAD")
            )
        }
        _ => "None".to_owned(),
    };
    let code = format!("/// The commit that this was built from.\nfn commit() -> Option<&'static str> {{ {body} }}\n");
    let folder = std::env::var_os("OUT_DIR").expect("cargo sets it for build scripts");
    std::fs::write(std::path::Path::new(&folder).join("commit.rs"), code).expect("OUT_DIR can be written");
}

/// Where git keeps this checkout's HEAD: `.git`, or where that file points to in a linked worktree. Looked at directly,
/// because the program git may be missing, and refuses a checkout that another user owns.
fn git_directory() -> Option<std::path::PathBuf> {
    let package = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    let workspace = package.parent()?;
    let git = workspace.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    let pointer = std::fs::read_to_string(git).ok()?;
    Some(workspace.join(pointer.strip_prefix("gitdir:")?.trim()))
}
