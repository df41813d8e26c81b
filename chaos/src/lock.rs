//! Locks of this machine's: files of which each is held by one process at a time, and by those that inherit it.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;

use crate::progress::say;

/// Holds a file of this path until what is given is dropped; says this while another holds it.
///
/// # Errors
/// There is no such file and none can be made, or it may not be read.
pub(crate) fn hold(path: &Path, waiting: &str) -> anyhow::Result<File> {
    let made = || {
        let file = File::options().create(true).append(true).open(path)?;
        // Root's is held by others, too, whatever the umask.
        file.set_permissions(Permissions::from_mode(0o644))?;
        Ok(file)
    };
    // To hold it one need not write to it: another user may have made it.
    let file = File::open(path).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => made(),
        _ => Err(error),
    });
    let file = file.with_context(|| format!("can't open {}", path.display()))?;
    if file.try_lock().is_err() {
        say(waiting);
        file.lock()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = hold(&path, "").unwrap();
        assert!(File::open(&path).unwrap().try_lock().is_err());
        drop(first);
        drop(hold(&path, "").unwrap());
        // By another user, who may only read it.
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert!(hold(&folder.path().join("none/lock"), "").is_err());
    }
}
