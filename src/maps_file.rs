//! The map file on disk: read, judged, and kept up to date. The last good one stays.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::maps::{Diagnostic, MAX_BYTES, Maps, Severity, Unreadable};

/// A map file and what is to be said of it.
#[derive(Debug)]
pub struct Loaded {
    /// The rules.
    pub maps: Maps,
    /// What is wrong with it, line by line.
    pub diagnostics: Vec<Diagnostic>,
    /// SHA-256 of the file, in hexadecimal.
    pub hash: String,
}

/// Why a map file can't be used. Says which, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("can't use the map file {}: {why}", path.display())]
pub struct Error {
    path: PathBuf,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("{0}")]
    Io(io::Error),
    #[error("it is a directory; name a file in it")]
    Directory,
    #[error("{0}")]
    Unreadable(Unreadable),
    #[error(
        "{0} of its lines are in error, and --strict-maps is set; `imageswap check` shows them"
    )]
    Strict(usize),
}

/// Reads a map file. With `strict`, lines in error are not skipped but refused.
///
/// # Errors
/// The file can't be read, is no map file, or is refused.
pub fn load(path: &Path, strict: bool) -> Result<Loaded, Error> {
    let error = |why| Error {
        path: path.to_owned(),
        why,
    };
    let bytes = read(path).map_err(error)?;
    let loaded = Loaded::parse(&bytes).map_err(|unreadable| error(Why::Unreadable(unreadable)))?;
    if strict && loaded.maps.skipped() > 0 {
        return Err(error(Why::Strict(loaded.maps.skipped())));
    }
    Ok(loaded)
}

/// Reads a map file only to ask it: nothing is said of it, lines in error are skipped.
///
/// # Errors
/// The file can't be read or is no map file.
pub fn load_quietly(path: &Path) -> Result<Maps, Error> {
    let error = |why| Error {
        path: path.to_owned(),
        why,
    };
    let bytes = read(path).map_err(error)?;
    match Maps::parse(&bytes) {
        Ok((maps, _)) => Ok(maps),
        Err(unreadable) => Err(error(Why::Unreadable(unreadable))),
    }
}

/// At most one byte more than is allowed: a device or a pipe may never end.
fn read(path: &Path) -> Result<Vec<u8>, Why> {
    let file = File::open(path).map_err(Why::Io)?;
    let metadata = file.metadata().map_err(Why::Io)?;
    if metadata.is_dir() {
        return Err(Why::Directory);
    }
    let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if length > MAX_BYTES {
        return Err(Why::Unreadable(Unreadable::TooLarge));
    }
    let mut bytes = Vec::with_capacity(length + 1);
    let most = u64::try_from(MAX_BYTES + 1).unwrap_or(u64::MAX);
    file.take(most).read_to_end(&mut bytes).map_err(Why::Io)?;
    Ok(bytes)
}

fn hash(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String can't fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

impl Loaded {
    /// Reads a map file's bytes and judges them.
    ///
    /// # Errors
    /// They are no map file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        let (maps, mut diagnostics) = Maps::parse(bytes)?;
        diagnostics.extend(maps.lint());
        diagnostics.sort_by_key(|found| found.place.line);
        Ok(Self {
            maps,
            diagnostics,
            hash: hash(bytes),
        })
    }

    /// How many lines are in error.
    pub fn errors(&self) -> usize {
        let is_error = |found: &&Diagnostic| found.severity == Severity::Error;
        self.diagnostics.iter().filter(is_error).count()
    }
}

// === following ===

/// A map file that may change: in place, by a rename, or by the swap of a `..data` symlink as a
/// mounted ConfigMap does it. It is looked at, not watched: a watch on a file is lost with the
/// file.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    strict: bool,
    /// What was loaded, or tried, last.
    known: Option<Fingerprint>,
    /// What was there at the last look, if that is another.
    pending: Option<Option<Fingerprint>>,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Follower {
    /// Follows a file from its present state on.
    ///
    /// # Errors
    /// As for [`load`].
    pub fn start(path: PathBuf, strict: bool) -> Result<(Self, Loaded), Error> {
        let known = Fingerprint::of(&path);
        let loaded = load(&path, strict)?;
        let follower = Self {
            path,
            strict,
            known,
            pending: None,
        };
        Ok((follower, loaded))
    }

    /// Follows a file of which nothing is known: whatever is there is read.
    pub fn anew(path: PathBuf, strict: bool) -> Self {
        Self {
            path,
            strict,
            known: None,
            pending: None,
        }
    }

    /// Whether lines in error are refused.
    pub fn is_strict(&self) -> bool {
        self.strict
    }

    /// The file that is followed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at the file, and reads it if it is another than before and was so at the last look
    /// already: a file in the middle of being written is not read.
    pub fn look(&mut self) -> Option<Result<Loaded, Error>> {
        let now = Fingerprint::of(&self.path);
        if now == self.known {
            self.pending = None;
            return None;
        }
        if self.pending.replace(now) != Some(now) {
            return None;
        }
        let loaded = load(&self.path, self.strict);
        if Fingerprint::of(&self.path) != now {
            // It changed under our hands.
            return None;
        }
        self.known = now;
        self.pending = None;
        Some(loaded)
    }
}

impl Fingerprint {
    /// `None` if there is no file.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn rules(loaded: Option<Result<Loaded, Error>>) -> Option<usize> {
        loaded.map(|loaded| loaded.unwrap().maps.len())
    }

    #[test]
    fn a_change_is_read_once_it_has_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maps");
        fs::write(&path, "default::a.io").unwrap();
        let (mut follower, loaded) = Follower::start(path.clone(), false).unwrap();
        assert_eq!(loaded.maps.len(), 1);
        assert!(follower.look().is_none());

        fs::write(&path, "").unwrap();
        assert!(follower.look().is_none());
        fs::write(&path, "default::a.io\nb.io::").unwrap();
        assert!(follower.look().is_none());
        assert_eq!(rules(follower.look()), Some(2));
        assert!(follower.look().is_none());
    }

    #[test]
    fn a_file_that_goes_or_is_broken_is_reported_once_and_read_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maps");
        fs::write(&path, "default::a.io").unwrap();
        let (mut follower, _) = Follower::start(path.clone(), false).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(follower.look().is_none());
        assert!(follower.look().unwrap().is_err());
        assert!(follower.look().is_none());
        fs::write(&path, b"\0").unwrap();
        assert!(follower.look().is_none());
        let error = follower.look().unwrap().unwrap_err().to_string();
        assert!(error.contains("binary"), "{error}");
        assert!(follower.look().is_none());
        fs::write(&path, "default::b.io").unwrap();
        assert!(follower.look().is_none());
        assert_eq!(rules(follower.look()), Some(1));
    }

    /// As the kubelet does: `maps` → `..data/maps`, `..data` → `..1`, then `..2` by a rename.
    #[test]
    fn the_swap_of_a_mounted_config_map_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, text) in [("..1", "default::a.io"), ("..2", "default::a.io\nb.io::")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("maps"), text).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/maps", at("maps")).unwrap();
        let (mut follower, _) = Follower::start(at("maps"), false).unwrap();
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        fs::remove_dir_all(at("..1")).unwrap();
        assert!(follower.look().is_none());
        assert_eq!(rules(follower.look()), Some(2));
    }

    #[test]
    fn what_is_no_map_file_is_refused_with_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maps");
        let refused = |strict| load(&path, strict).unwrap_err().to_string();
        assert!(
            refused(false).contains("No such file"),
            "{}",
            refused(false)
        );
        fs::write(&path, "rubbish\n# fine\n\nmore rubbish").unwrap();
        assert!(
            refused(false).contains("not one of its 2 lines"),
            "{}",
            refused(false)
        );
        fs::write(&path, "default::a.io\nrubbish").unwrap();
        assert_eq!(load(&path, false).unwrap().errors(), 1);
        assert!(refused(true).contains("--strict-maps"), "{}", refused(true));
        File::create(&path).unwrap().set_len(100 << 20).unwrap();
        assert!(
            refused(false).contains("larger than 16 MiB"),
            "{}",
            refused(false)
        );
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(refused(false).contains("directory"), "{}", refused(false));
    }
}
