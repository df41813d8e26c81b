//! The certificate on a machine without a cluster: three files in a directory.
//!
//! `tls.crt` and `tls.key` (mode 0600) are served, `ca.crt` is what clients trust: the parts of the
//! Secret that a cluster has. At a start, a pair that is missing or can't be served, also if this machine's clock is
//! wrong, is minted anew, unless a rotation has left a better one ready; all others are served and then rotated
//! (`store`), so that clients know the next CA before its leaf. Two processes in one directory take
//! turns at writing; but each looks only every ten seconds what the other wrote, so at the end of a
//! rotation `ca.crt` may lack the CA of a leaf that the other still serves. Each should have one of its own.

pub mod store;

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use time::{Duration, OffsetDateTime};

use crate::pki::{self, Bundle, Flaw, MintError, Pair, Pem};
use crate::rotation::clock::doubt;
use crate::rotation::plan::KEPT;

/// A directory that keeps a pair.
#[derive(Debug, Clone)]
pub struct StateDir {
    /// Where it is; made if missing.
    pub path: PathBuf,
}

/// How the pair came to be.
#[derive(Debug)]
pub enum Origin {
    /// It was there.
    Found,
    /// It was there, and can't be served by this machine's clock, which may be wrong.
    Doubtful(Flaw),
    /// There was none.
    Minted,
    /// What was there could not be served.
    Replaced(Flaw),
    /// What was there ends soon.
    Renewed,
    /// What was there could not be served, or not for long, but what a rotation had staged: a stop came in
    /// the middle of it.
    Promoted,
}

/// The pair at a start.
#[derive(Debug)]
pub struct Loaded {
    /// To be served.
    pub pair: Pair,
    /// The same, to be written back if it is lost.
    pub pem: Pem,
    /// How it came to be.
    pub origin: Origin,
}

/// The right to read and write a directory's pair: one process has it.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

/// A pair is made anew at a start when no more of its life is left, or no more than a third of it, though the clock
/// may be fast: there may be no time to rotate it.
const RENEWED_BEFORE: Duration = Duration::hours(1);

/// How long to wait for another process that is making a pair.
const TURN: std::time::Duration = std::time::Duration::from_secs(10);

/// The directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or the directory itself.
    #[error(
        "can't {action} {}: {why}; name another directory with --state-dir",
        path.display()
    )]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        why: io::Error,
    },
    /// No pair could be made.
    #[error(transparent)]
    Mint(#[from] MintError),
    /// What is there is somebody's own.
    #[error(
        "the certificate in {} is none that ImageSwap made, and a new one would take its place and its key's; name \
         both with --tls-cert and --tls-key, or another directory with --state-dir",
        .0.display()
    )]
    Foreign(PathBuf),
    /// What was just made can't be served.
    #[error("the certificate just made can't be served: {0}")]
    Flaw(#[from] Flaw),
}

impl StateDir {
    /// The pair in the directory, made now if there is none that can be served.
    ///
    /// # Errors
    /// The directory can't be read or written.
    pub fn load_or_mint(
        &self,
        _: &Turn,
        names: &[String],
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<Loaded, Error> {
        // Past, however fast the clock is. The leader judges by it, too (`rotation::plan`).
        let surely = |life| now - doubt(false, life);
        let has_time = |pair: &Pair| pair.not_after - surely(life.min(pair.life())) > margin(life);
        let promote = || self.promote(names, now);
        // Where there is one to serve: the leader tries again.
        let promote_if_possible = || {
            promote().unwrap_or_else(|error| {
                tracing::warn!(%error, "can't take the next certificate into service; serving the last one");
                None
            })
        };
        let origin = match self.read()? {
            None => Origin::Minted,
            Some(pem) => match pki::judge(&pem, names, now) {
                Ok(pair) if has_time(&pair) => {
                    if pair.not_after - now <= margin(life)
                        && let Some(loaded) = promote_if_possible()
                    {
                        return Ok(loaded);
                    }
                    let origin = Origin::Found;
                    return Ok(Loaded { pair, pem, origin });
                }
                Ok(_) => Origin::Renewed,
                Err(flaw) => {
                    // One that begins later is waited for, and nothing else can be served meanwhile.
                    let begins = match flaw {
                        Flaw::NotYet(begins) => Some(begins),
                        _ => None,
                    };
                    let then = begins.unwrap_or_else(|| surely(life));
                    let pair = pki::judge(&pem, names, then).ok().filter(has_time);
                    if let Some(pair) = pair {
                        if begins.is_none()
                            && let Some(loaded) = promote_if_possible()
                        {
                            return Ok(loaded);
                        }
                        let origin = Origin::Doubtful(flaw);
                        return Ok(Loaded { pair, pem, origin });
                    }
                    Origin::Replaced(flaw)
                }
            },
        };
        if !matches!(origin, Origin::Minted)
            && let Some(loaded) = promote()?
        {
            return Ok(loaded);
        }
        self.refuse_foreign()?;
        // Clients that have a copy of a CA, or another process that serves its leaf: the leader takes it away.
        let known = self.read_text("ca.crt")?.unwrap_or_default();
        let known = Bundle::read(known.as_bytes()).first(KEPT);
        let mut pem = pki::mint(names, life, now)?;
        let pair = pki::judge(&pem, names, now)?;
        pem.ca = Bundle::read(pem.ca.as_bytes()).and(&known).pem();
        self.write(&pem)?;
        Ok(Loaded { pair, pem, origin })
    }

    /// A leaf by another issuer was put there by a person, with a key that may be nowhere else.
    fn refuse_foreign(&self) -> Result<(), Error> {
        let name = "tls.crt";
        match pki::is_foreign(&self.read_text(name)?.unwrap_or_default()) {
            true => Err(Error::Foreign(self.path.join(name))),
            false => Ok(()),
        }
    }

    /// Makes the staged pair the one to be served, if it can be.
    fn promote(&self, names: &[String], now: OffsetDateTime) -> Result<Option<Loaded>, Error> {
        let Some(pem) = self.read_as(["next.crt", "next.key", "ca.crt"])? else {
            return Ok(None);
        };
        let Ok(pair) = pki::judge(&pem, names, now) else {
            return Ok(None);
        };
        self.refuse_foreign()?;
        self.write_pair(&pem.chain, &pem.key)?;
        let origin = Origin::Promoted;
        Ok(Some(Loaded { pair, pem, origin }))
    }

    /// The file that clients trust.
    pub fn ca(&self) -> PathBuf {
        self.path.join("ca.crt")
    }

    fn make(&self) -> Result<(), Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(|source| io_error("make the directory", &self.path, source))
    }

    /// The right to read and write the pair, until it is dropped. Somebody may have removed the directory.
    ///
    /// # Errors
    /// The directory can't be made, or another process does not end its turn.
    pub fn turn(&self) -> Result<Turn, Error> {
        self.make()?;
        let path = self.path.join(".lock");
        let failed = |source| io_error("lock", &path, source);
        // Nothing of it is written or read, whatever it is a link to; and nobody else shall hold it.
        let file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let until = Instant::now() + TURN;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Turn { _lock: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// `None` if a part is missing.
    fn read(&self) -> Result<Option<Pem>, Error> {
        self.guard_key()?;
        self.read_as(["tls.crt", "tls.key", "ca.crt"])
    }

    /// As [`StateDir::read`], from the files of these names.
    fn read_as(&self, [chain, key, ca]: [&str; 3]) -> Result<Option<Pem>, Error> {
        let read = |name: &str| self.read_text(name);
        let parts = (read(chain)?, read(key)?, read(ca)?);
        Ok(match parts {
            (Some(chain), Some(key), Some(ca)) => Some(Pem { chain, key, ca }),
            _ => None,
        })
    }

    /// What is no text is no PEM, which the judge will say.
    fn read_text(&self, name: &str) -> Result<Option<String>, Error> {
        let found = self.read_file(name)?;
        Ok(found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path.join(name);
        // To open a pipe may take for ever.
        let read = fs::metadata(&path).and_then(|metadata| match metadata.is_file() {
            true => fs::read(&path),
            false => Err(io::Error::other("it is no regular file")),
        });
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("read", &path, source)),
        }
    }

    fn remove_file(&self, name: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    /// A key that others may read is none. What a link leads to is somebody else's, and so is the key beside a leaf
    /// that ImageSwap did not make.
    fn guard_key(&self) -> Result<(), Error> {
        let is_theirs = pki::is_foreign(&self.read_text("tls.crt")?.unwrap_or_default());
        for name in ["tls.key", "next.key"] {
            let path = self.path.join(name);
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            if !metadata.is_file() || is_theirs && name == "tls.key" {
                continue;
            }
            if metadata.permissions().mode() & 0o077 == 0 {
                continue;
            }
            tracing::warn!(path = %path.display(), "others could read the key; its mode is now 0600");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
                .map_err(|source| io_error("protect", &path, source))?;
        }
        Ok(())
    }

    /// A stop between two files leaves a pair that doesn't match, which the next start replaces.
    fn write(&self, pem: &Pem) -> Result<(), Error> {
        self.write_file("ca.crt", &pem.ca, 0o644)?;
        self.write_pair(&pem.chain, &pem.key)
    }

    /// What is to be served. The key first: if that is broken off, the key that is there is known again by
    /// [`keep_theirs`](Self::keep_theirs).
    fn write_pair(&self, chain: &str, key: &str) -> Result<(), Error> {
        self.keep_theirs(key)?;
        self.write_file("tls.key", key, 0o600)?;
        self.write_file("tls.crt", chain, 0o644)
    }

    /// Moves what somebody else put there, while we run, to where nobody takes it away: a leaf by another issuer, or
    /// a key that is neither the leaf's nor the one that is to be written. Either may be nowhere else.
    fn keep_theirs(&self, ours: &str) -> Result<(), Error> {
        let chain = self.read_text("tls.crt")?.unwrap_or_default();
        let key = self.read_text("tls.key")?;
        let is_foreign = pki::is_foreign(&chain);
        let is_odd = |key: String| key != ours && (is_foreign || !pki::is_key_of(&key, &chain));
        let is_odd = key.is_some_and(is_odd);
        for (name, extension, is_theirs) in
            [("tls.crt", "crt", is_foreign), ("tls.key", "key", is_odd)]
        {
            if is_theirs {
                let from = self.path.join(name);
                let to = self.place_for(&from, extension)?;
                fs::rename(&from, &to).map_err(|source| io_error("move aside", &from, source))?;
                tracing::warn!(
                    from = %from.display(), to = %to.display(),
                    "moved aside what ImageSwap may not have made; --tls-cert and --tls-key serve it"
                );
            }
        }
        Ok(())
    }

    /// `theirs.EXTENSION`, or with a number if that is taken: what was moved there before may be nowhere else. What is
    /// there already needs no other place, as when a tool writes the same again and again.
    fn place_for(&self, from: &Path, extension: &str) -> Result<PathBuf, Error> {
        let text = fs::read(from).map_err(|source| io_error("read", from, source))?;
        let mut place = self.path.join(format!("theirs.{extension}"));
        for number in 2.. {
            let is_free = fs::symlink_metadata(&place).is_err();
            if is_free || fs::read(&place).is_ok_and(|there| there == text) {
                break;
            }
            place = self.path.join(format!("theirs-{number}.{extension}"));
        }
        Ok(place)
    }

    /// Written beside and renamed, so that nobody reads half a file.
    fn write_file(&self, name: &str, text: &str, mode: u32) -> Result<(), Error> {
        let path = self.path.join(name);
        let beside = self.path.join(format!(".{name}.{}", std::process::id()));
        let written = (|| {
            // In a container every process has the same number: one that was killed left it.
            if let Err(error) = fs::remove_file(&beside)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &path)
        })();
        written.map_err(|source| {
            // Best effort: the error that matters is the first.
            let _ = fs::remove_file(&beside);
            io_error("write", &path, source)
        })
    }
}

/// How much of its life must be left of a pair that is found.
fn margin(life: Duration) -> Duration {
    RENEWED_BEFORE.min(life / 3)
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        action,
        path: path.to_owned(),
        why: source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));

    fn open(dir: &StateDir, now: OffsetDateTime) -> Result<(Pair, Origin), Error> {
        open_for(dir, Duration::days(2), now)
    }

    fn open_for(
        dir: &StateDir,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<(Pair, Origin), Error> {
        let loaded = dir.load_or_mint(&dir.turn()?, &["localhost".to_owned()], life, now)?;
        Ok((loaded.pair, loaded.origin))
    }

    #[test]
    fn a_pair_is_made_once_and_anew_when_it_has_ended() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir {
            path: temp.path().join("a/b"),
        };
        assert!(matches!(open(&dir, NOW).unwrap().1, Origin::Minted));
        let first = fs::read(dir.ca()).unwrap();
        let key = fs::metadata(dir.path.join("tls.key")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
        assert!(matches!(open(&dir, NOW).unwrap().1, Origin::Found));
        assert_eq!(fs::read(dir.ca()).unwrap(), first);

        let later = NOW + Duration::days(3);
        assert!(matches!(open(&dir, later).unwrap().1, Origin::Replaced(_)));
        assert_ne!(fs::read(dir.ca()).unwrap(), first);
        // Time enough to rotate it.
        let late = later + Duration::hours(46);
        assert!(matches!(open(&dir, late).unwrap().1, Origin::Found));
        // The pair and the lock.
        assert_eq!(fs::read_dir(&dir.path).unwrap().count(), 4);
    }

    #[test]
    fn one_that_is_short_lived_is_renewed_before_its_end() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir {
            path: temp.path().to_owned(),
        };
        let open = |after| open_for(&dir, Duration::hours(3), NOW + after).unwrap().1;
        assert!(matches!(open(Duration::ZERO), Origin::Minted));
        assert!(matches!(open(Duration::hours(2)), Origin::Found));
        let nearly = Duration::minutes(150);
        assert!(matches!(open(nearly), Origin::Renewed));
    }

    /// A machine may come up in 1970, or some hours too late.
    #[test]
    fn a_clock_that_may_be_wrong_replaces_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir {
            path: temp.path().to_owned(),
        };
        let first = open(&dir, NOW).unwrap().0;
        let files = || ["tls.crt", "tls.key", "ca.crt"].map(|name| dir.read_text(name).unwrap());
        let there = files();
        let end = NOW + Duration::days(2);
        for (now, is_found) in [
            (OffsetDateTime::UNIX_EPOCH, false),
            (NOW - Duration::hours(50), false),
            (end - Duration::minutes(30), true),
            (end + Duration::hours(3), false),
        ] {
            let (pair, origin) = open(&dir, now).unwrap();
            let is_doubtful = matches!(origin, Origin::Doubtful(_));
            let is_right = matches!(origin, Origin::Found) == is_found && is_doubtful != is_found;
            assert!(is_right, "{now}: {origin:?}");
            assert!(pair.is_same(&first), "{now}");
            assert_eq!(files(), there, "{now}");
        }
        // What is replaced all the same is believed on.
        let ended = open(&dir, end + Duration::hours(5)).unwrap().1;
        assert!(matches!(ended, Origin::Replaced(_)), "{ended:?}");
        fs::remove_file(dir.path.join("tls.key")).unwrap();
        assert!(matches!(open(&dir, NOW).unwrap().1, Origin::Minted));
        let ca = fs::read(dir.ca()).unwrap();
        assert_eq!(Bundle::read(&ca).len(), 3);
        assert!(first.is_trusted(&Bundle::read(&ca), NOW));
    }

    #[test]
    fn a_part_that_is_missing_or_rubbish_is_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir {
            path: temp.path().to_owned(),
        };
        open(&dir, NOW).unwrap();
        fs::remove_file(dir.path.join("tls.key")).unwrap();
        assert!(matches!(open(&dir, NOW).unwrap().1, Origin::Minted));
        fs::write(dir.path.join("tls.crt"), [0xff, 0]).unwrap();
        assert!(matches!(open(&dir, NOW).unwrap().1, Origin::Replaced(_)));
        assert!(matches!(open(&dir, NOW).unwrap().1, Origin::Found));
    }

    #[test]
    fn what_somebody_else_made_is_left_where_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir {
            path: temp.path().to_owned(),
        };
        let theirs = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let (chain, key) = (theirs.cert.pem(), theirs.signing_key.serialize_pem());
        dir.write_file("tls.crt", &chain, 0o600).unwrap();
        dir.write_file("tls.key", &key, 0o600).unwrap();
        let refused = open(&dir, NOW).unwrap_err();
        assert!(matches!(refused, Error::Foreign(_)), "{refused}");
        let kept = fs::read_to_string(dir.path.join("tls.key")).unwrap();
        assert_eq!(kept, key);
    }

    /// A pair of that time beside one that is served, as a rotation leaves them.
    fn stage(dir: &StateDir, at: OffsetDateTime) -> Pem {
        open(dir, NOW).unwrap();
        let old = dir.read().unwrap().unwrap();
        let next = pki::mint(&["localhost".to_owned()], Duration::days(2), at).unwrap();
        let file = |name: &str, text: &str| dir.write_file(name, text, 0o600).unwrap();
        file("ca.crt", &(old.ca + &next.ca));
        file("next.crt", &next.chain);
        file("next.key", &next.key);
        next
    }

    #[test]
    fn a_start_goes_on_with_a_promotion_that_was_broken_off() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir {
            path: temp.path().to_owned(),
        };
        let next = stage(&dir, NOW);
        let file = |name: &str, text: &str| dir.write_file(name, text, 0o600).unwrap();
        // The leaf was still to come.
        file("tls.key", &next.key);
        let (pair, origin) = open(&dir, NOW).unwrap();
        assert!(matches!(origin, Origin::Promoted), "{origin:?}");
        assert_eq!(pair.leaf(), next.leaf().unwrap());
        assert!(matches!(open(&dir, NOW).unwrap().1, Origin::Found));
        // Nothing was taken for somebody else's.
        assert!(!dir.path.join("theirs.key").exists());
        // What is staged may be of no use, either.
        file("tls.key", "rubbish");
        file("next.key", "rubbish");
        assert!(matches!(open(&dir, NOW).unwrap().1, Origin::Replaced(_)));
    }

    #[test]
    fn a_pair_that_is_staged_goes_before_a_new_one() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir {
            path: temp.path().to_owned(),
        };
        // Before the end, when the clock may be fast, and after that.
        for minutes in [47 * 60 + 30, 51 * 60, 54 * 60] {
            let late = NOW + Duration::minutes(minutes);
            for name in ["tls.crt", "tls.key"] {
                dir.remove_file(name).unwrap();
            }
            let next = stage(&dir, late);
            let (pair, origin) = open(&dir, late).unwrap();
            assert!(matches!(origin, Origin::Promoted), "{minutes}: {origin:?}");
            assert_eq!(pair.leaf(), next.leaf().unwrap(), "{minutes}");
        }
        // What begins later is waited for all the same.
        stage(&dir, NOW);
        let (_, origin) = open(&dir, NOW).unwrap();
        assert!(
            matches!(origin, Origin::Doubtful(Flaw::NotYet(_))),
            "{origin:?}"
        );
    }

    #[test]
    fn a_pair_that_can_be_served_is_where_the_next_cant_be_written() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir {
            path: temp.path().to_owned(),
        };
        let late = NOW + Duration::minutes(47 * 60 + 30);
        stage(&dir, late);
        let beside = format!(".tls.key.{}", std::process::id());
        fs::create_dir(dir.path.join(beside)).unwrap();
        let (_, origin) = open(&dir, late).unwrap();
        assert!(matches!(origin, Origin::Found), "{origin:?}");
        // Behind its last hour nothing else is left.
        open(&dir, NOW + Duration::hours(75)).unwrap_err();
    }

    #[test]
    fn a_pair_of_an_hour_is_not_doubtful_for_a_day() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir {
            path: temp.path().to_owned(),
        };
        open_for(&dir, Duration::hours(1), NOW).unwrap();
        let later = NOW + Duration::hours(3);
        let origin = open_for(&dir, Duration::days(365), later).unwrap().1;
        assert!(matches!(origin, Origin::Replaced(_)), "{origin:?}");
    }

    #[test]
    fn those_who_start_at_once_serve_the_same() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir {
            path: temp.path().to_owned(),
        };
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let dir = dir.clone();
                std::thread::spawn(move || open(&dir, NOW).unwrap().0.certified.cert.clone())
            })
            .collect();
        let leaves: Vec<_> = starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect();
        assert!(leaves.iter().all(|leaf| *leaf == leaves[0]));
    }

    #[test]
    fn a_key_that_others_may_read_is_protected() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir {
            path: temp.path().to_owned(),
        };
        open(&dir, NOW).unwrap();
        // One is staged, as in a rotation.
        dir.write_file("next.key", "rubbish", 0o600).unwrap();
        let keys = ["tls.key", "next.key"].map(|name| dir.path.join(name));
        for key in &keys {
            fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
        }
        assert!(matches!(open(&dir, NOW).unwrap().1, Origin::Found));
        for key in keys {
            let mode = fs::metadata(key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn the_mode_of_a_key_that_is_somebody_elses_stays() {
        let mode = |key: &Path| fs::metadata(key).unwrap().permissions().mode() & 0o777;
        let open_to_all = |key: &Path| fs::set_permissions(key, fs::Permissions::from_mode(0o644));
        let [temp, elsewhere] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let dir = StateDir {
            path: temp.path().to_owned(),
        };
        open(&dir, NOW).unwrap();
        // A link to it.
        let (key, theirs) = (dir.path.join("tls.key"), elsewhere.path().join("key"));
        fs::rename(&key, &theirs).unwrap();
        std::os::unix::fs::symlink(&theirs, &key).unwrap();
        open_to_all(&theirs).unwrap();
        open(&dir, NOW).unwrap();
        assert_eq!(mode(&theirs), 0o644);
        // Beside their leaf; the start is refused.
        fs::remove_file(&key).unwrap();
        let own = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["other".to_owned()]).unwrap();
        let leaf = params.self_signed(&own).unwrap().pem();
        fs::write(dir.path.join("tls.crt"), leaf).unwrap();
        fs::write(&key, own.serialize_pem()).unwrap();
        open_to_all(&key).unwrap();
        let refused = open(&dir, NOW).unwrap_err();
        assert!(matches!(refused, Error::Foreign(_)), "{refused}");
        assert_eq!(mode(&key), 0o644);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir {
            path: temp.path().to_owned(),
        };
        open(&dir, NOW).unwrap();
        let path = dir.path.join("tls.crt");
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        let text = open(&dir, NOW).unwrap_err().to_string();
        assert!(
            text.contains("tls.crt: it is no regular file") && text.contains("--state-dir"),
            "{text}"
        );
    }

    #[test]
    fn a_directory_that_can_not_be_used_is_named_with_what_to_do() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let dir = StateDir {
            path: temp.path().join("below"),
        };
        let text = open(&dir, NOW).unwrap_err().to_string();
        assert!(
            text.contains("below") && text.contains("--state-dir"),
            "{text}"
        );
    }
}
