//! The map file on disk: read, judged, and kept up to date. The last good one stays.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::files::{CHANGES, Fingerprint, PATIENCE, Stillness};
use crate::maps::{Findings, MAX_BYTES, Maps, Unreadable};
use crate::text::sha256;

/// A map file and what is to be said of it.
#[derive(Debug)]
pub struct Loaded {
    /// The rules.
    pub maps: Maps,
    /// What is wrong with it, line by line.
    pub findings: Findings,
    /// SHA-256 of the file, in hexadecimal.
    pub hash: String,
    /// Whether the last line is ended: if not, more of it may be to come.
    ends_well: bool,
}

/// Why a map file can't be used. Says which, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("can't use the map file {}: {why}", path.display())]
pub struct Error {
    path: PathBuf,
    why: Why,
}

impl Error {
    fn of(path: &Path, why: Why) -> Self {
        let path = path.to_owned();
        Self { path, why }
    }
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("{0}")]
    Io(io::Error),
    #[error("it is a directory; name a file in it")]
    Directory,
    #[error("it is no regular file")]
    Special,
    #[error("{0}")]
    Unreadable(Unreadable),
    #[error("not one of its lines with text ({0}) is a rule that could ever apply")]
    NoRule(usize),
    #[error("there is no rule in it, and there were some; to swap nothing, write \"default::\"")]
    Emptied,
    #[error("it has lines in error ({0}), and --strict-maps is set; `imageswap check` shows them")]
    Strict(usize),
    #[error("{CHANGES}")]
    Changes,
}

/// Reads a map file, whatever it says; `-` is standard input.
///
/// # Errors
/// The file can't be read or is no map file.
pub fn load(path: &Path) -> Result<Loaded, Error> {
    if path.as_os_str() == "-" {
        let parsed = read_from(io::stdin().lock(), 0)
            .and_then(|bytes| Loaded::parse(&bytes).map_err(Why::Unreadable));
        return parsed.map_err(|why| Error::of(Path::new("standard input"), why));
    }
    read_as(path, Loaded::parse)
}

/// Reads a map file only to ask it: lines in error are skipped and counted.
///
/// # Errors
/// As for [`load`], or it is some other text: no line is a rule that could ever apply.
pub fn load_quietly(path: &Path) -> Result<Maps, Error> {
    let maps = read_as(path, |bytes| Maps::parse(bytes).map(|(maps, _)| maps))?;
    match other_text(&maps, false) {
        Some(why) => Err(Error::of(path, why)),
        None => Ok(maps),
    }
}

/// Why it is some other text and no map file, if it is: of rules that could ever apply there are none, but lines in
/// error, or there were such rules.
fn other_text(maps: &Maps, had_rules: bool) -> Option<Why> {
    let errors = maps.skipped();
    let lines = errors + maps.len();
    let is_other = lines > 0 && (errors > 0 || had_rules);
    (is_other && !maps.has_live_rule()).then_some(Why::NoRule(lines))
}

fn read_as<T>(path: &Path, parse: impl Fn(&[u8]) -> Result<T, Unreadable>) -> Result<T, Error> {
    let parsed = read(path).and_then(|bytes| parse(&bytes).map_err(Why::Unreadable));
    parsed.map_err(|why| Error::of(path, why))
}

/// Reads a map file that is to be served from. With `strict`, lines in error are not skipped but
/// refused; with `had_rules`, a file is in which no rule could ever apply.
fn load_to_serve(path: &Path, strict: bool, had_rules: bool) -> Result<Loaded, Why> {
    let metadata = fs::metadata(path).map_err(Why::Io)?;
    // To open a pipe may take for ever.
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(Why::Special);
    }
    let loaded = Loaded::parse(&read(path)?).map_err(Why::Unreadable)?;
    match loaded.maps.skipped() {
        0 if loaded.maps.is_empty() && had_rules => Err(Why::Emptied),
        errors => match other_text(&loaded.maps, had_rules) {
            Some(why) => Err(why),
            None if strict && errors > 0 => Err(Why::Strict(errors)),
            None => Ok(loaded),
        },
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
    read_from(file, length)
}

fn read_from(source: impl Read, length: usize) -> Result<Vec<u8>, Why> {
    let mut bytes = Vec::with_capacity(length + 1);
    let most = u64::try_from(MAX_BYTES + 1).unwrap_or(u64::MAX);
    source.take(most).read_to_end(&mut bytes).map_err(Why::Io)?;
    Ok(bytes)
}

impl Loaded {
    /// Reads a map file's bytes and judges them.
    ///
    /// # Errors
    /// They are no map file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        let (maps, mut findings) = Maps::parse(bytes)?;
        findings.append(maps.lint());
        findings.sort();
        Ok(Self {
            maps,
            findings,
            hash: sha256(bytes),
            ends_well: bytes.last().is_none_or(|b| matches!(b, b'\n' | b'\r')),
        })
    }

    /// Why `serve` does not take the file at all, if that is so.
    pub fn refusal(&self) -> Option<String> {
        other_text(&self.maps, false).map(|why| why.to_string())
    }

    /// How many lines are in error.
    pub fn errors(&self) -> usize {
        self.maps.skipped()
    }

    /// How often something is a rule, but hardly meant.
    pub fn warnings(&self) -> usize {
        self.findings.warnings()
    }
}

// === following ===

/// How long a file must have stood still whose last line is not ended: it may be one that is being
/// written slowly.
const UNENDED: Duration = Duration::from_millis(2_500);

/// A map file that may change: in place, by a rename, or by the swap of a `..data` symlink as a
/// mounted ConfigMap does it. It is looked at, not watched: a watch on a file is lost with the
/// file.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    strict: bool,
    stillness: Stillness<Option<Fingerprint>>,
    /// Whether what is in use has rules that could apply.
    has_rules: bool,
}

impl Follower {
    /// Follows a file from its present state on.
    ///
    /// # Errors
    /// The file can't be read, is no map file, has lines but no rule, or is refused for being
    /// `strict`.
    pub fn start(path: PathBuf, strict: bool) -> Result<(Self, Loaded), Error> {
        let known = Fingerprint::of(&path);
        let loaded = match load_to_serve(&path, strict, false) {
            Ok(loaded) => loaded,
            Err(why) => return Err(Error { path, why }),
        };
        let follower = Self {
            stillness: Stillness::of(known),
            has_rules: loaded.maps.has_live_rule(),
            ..Self::anew(path, strict)
        };
        Ok((follower, loaded))
    }

    /// Follows a file that is not there yet, and is read as soon as it is.
    pub fn awaiting(path: PathBuf, strict: bool) -> Self {
        Self {
            has_rules: false,
            ..Self::anew(path, strict)
        }
    }

    /// Follows a file of which nothing is known: whatever is there is read.
    pub fn anew(path: PathBuf, strict: bool) -> Self {
        Self {
            path,
            strict,
            stillness: Stillness::of(None),
            has_rules: true,
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

    /// Looks at the file, and reads it if it is another than before and has settled: a file in the
    /// middle of being written is not read. What can't be read is tried again at each look, and
    /// said once, if that lasts for some seconds; so is that it does not settle.
    pub fn look(&mut self, now: Instant) -> Option<Result<Loaded, Error>> {
        let found = self.look_if_settled(now);
        if found.is_none() && self.stillness.is_restless(now) {
            return self.complain(Why::Changes);
        }
        found
    }

    fn look_if_settled(&mut self, now: Instant) -> Option<Result<Loaded, Error>> {
        let there = Fingerprint::of(&self.path);
        let still = self.stillness.look(there, now)?;
        let loaded = load_to_serve(&self.path, self.strict, self.has_rules);
        if Fingerprint::of(&self.path) != there {
            // It changed under our hands.
            return None;
        }
        match loaded {
            Ok(loaded) if !loaded.ends_well && still < UNENDED => None,
            Err(Why::Io(_)) if still < PATIENCE => None,
            Err(why @ Why::Io(_)) => self.complain(why),
            done => {
                self.stillness.take(there);
                if let Ok(loaded) = &done {
                    self.has_rules = loaded.maps.has_live_rule();
                }
                Some(done.map_err(|why| self.error(why)))
            }
        }
    }

    fn complain(&mut self, of: Why) -> Option<Result<Loaded, Error>> {
        let is_news = self.stillness.complain(of.to_string());
        is_news.then(|| Err(self.error(of)))
    }

    fn error(&self, why: Why) -> Error {
        Error {
            path: self.path.clone(),
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn rules(loaded: Option<Result<Loaded, Error>>) -> Option<usize> {
        loaded.map(|loaded| loaded.unwrap().maps.len())
    }

    /// Looks every half a second.
    struct Looks {
        follower: Follower,
        now: Instant,
    }

    impl Looks {
        fn by(follower: Follower) -> Self {
            let now = Instant::now();
            Self { follower, now }
        }

        fn look(&mut self) -> Option<Result<Loaded, Error>> {
            self.now += Duration::from_millis(500);
            self.follower.look(self.now)
        }

        /// What is said of what can't be read: nothing for four seconds.
        fn complaint(&mut self) -> String {
            assert!((0..8).all(|_| self.look().is_none()));
            self.look().unwrap().unwrap_err().to_string()
        }
    }

    #[test]
    fn a_change_is_read_once_it_has_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maps");
        fs::write(&path, "default::a.io\n").unwrap();
        let (follower, loaded) = Follower::start(path.clone(), false).unwrap();
        let mut follower = Looks::by(follower);
        assert_eq!(loaded.maps.len(), 1);
        assert!(follower.look().is_none());

        fs::write(&path, "b.io::").unwrap();
        assert!(follower.look().is_none());
        fs::write(&path, "default::a.io\nb.io::\n").unwrap();
        assert!(follower.look().is_none());
        assert_eq!(rules(follower.look()), Some(2));
        assert!(follower.look().is_none());

        // The last line may be cut.
        fs::write(&path, "default::a.i").unwrap();
        for _ in 1..6 {
            assert!(follower.look().is_none());
        }
        assert_eq!(rules(follower.look()), Some(1));
    }

    /// Half of it may be there at any look.
    #[test]
    fn a_file_that_never_stands_still_is_not_read_and_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maps");
        fs::write(&path, "default::a.io\n").unwrap();
        let (follower, _) = Follower::start(path.clone(), false).unwrap();
        let mut follower = Looks::by(follower);
        // At each look, or so often that a last line without an end is waited for in vain.
        for every in [1, 3] {
            let mut said = Vec::new();
            for n in 0..60 {
                if n % every == 0 {
                    // Of another length each time: some file systems count times in ticks.
                    let host = "a".repeat(1 + n % 5);
                    fs::write(&path, format!("default::{host}.io")).unwrap();
                }
                said.extend(follower.look().map(|found| found.unwrap_err().to_string()));
            }
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(said[0].contains("/maps: it keeps changing"), "{said:?}");
            fs::write(&path, "default::a.io\n").unwrap();
            assert!(follower.look().is_none());
            assert_eq!(rules(follower.look()), Some(1));
        }
    }

    /// The same one: whoever was told that it is gone must hear that it is there.
    #[test]
    fn a_file_that_is_back_unchanged_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (here, away) = (dir.path().join("here"), dir.path().join("away"));
        fs::create_dir(&here).unwrap();
        let path = here.join("maps");
        fs::write(&path, "default::a.io\n").unwrap();
        let (follower, _) = Follower::start(path, false).unwrap();
        let mut follower = Looks::by(follower);
        fs::rename(&here, &away).unwrap();
        assert!(follower.complaint().contains("No such file"));
        fs::rename(&away, &here).unwrap();
        assert!(follower.look().is_none());
        assert_eq!(rules(follower.look()), Some(1));
        assert!((0..9).all(|_| follower.look().is_none()));
        // Gone for a moment, nobody hears of it.
        fs::rename(&here, &away).unwrap();
        assert!((0..8).all(|_| follower.look().is_none()));
        fs::rename(&away, &here).unwrap();
        assert!((0..9).all(|_| follower.look().is_none()));
    }

    #[test]
    fn a_file_may_be_awaited() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maps");
        let mut follower = Looks::by(Follower::awaiting(path.clone(), false));
        assert!((0..9).all(|_| follower.look().is_none()));
        for (text, expected) in [("", 0), ("default::a.io\n", 1)] {
            fs::write(&path, text).unwrap();
            assert!(follower.look().is_none());
            assert_eq!(rules(follower.look()), Some(expected));
        }
    }

    #[test]
    fn a_file_that_goes_or_is_broken_is_reported_once_and_read_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maps");
        fs::write(&path, "default::a.io").unwrap();
        let (follower, _) = Follower::start(path.clone(), false).unwrap();
        let mut follower = Looks::by(follower);
        fs::remove_file(&path).unwrap();
        assert!(follower.complaint().contains("No such file"));
        assert!((0..20).all(|_| follower.look().is_none()));
        for (text, part) in [
            (&b"\0"[..], "binary"),
            (b"", "no rule"),
            (b"rubbish", "text (1)"),
            // Each line is a rule.
            (b"404: Not Found", "text (1)"),
            (
                b"upstream connect error or disconnect/reset: connection failure",
                "text (1)",
            ),
            (b"Error: upstream connect error", "text (1)"),
            (
                b"Server: nginx\nContent-Type: text/html\nX: y/z",
                "text (3)",
            ),
            (b"{\"error\":\"not found\"}\nx.io/a::b.io\n", "text (2)"),
        ] {
            fs::write(&path, text).unwrap();
            assert!(follower.look().is_none());
            let error = follower.look().unwrap().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert!(follower.look().is_none());
        }
        // A pipe must not be opened: it may have no other end.
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        assert!(follower.look().is_none());
        let error = follower.look().unwrap().unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "default::b.io\n").unwrap();
        assert!(follower.look().is_none());
        assert_eq!(rules(follower.look()), Some(1));
    }

    /// As the kubelet does: `maps` → `..data/maps`, `..data` → `..1`, then `..2` by a rename.
    #[test]
    fn the_swap_of_a_mounted_config_map_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, text) in [
            ("..1", "default::a.io\n"),
            ("..2", "default::a.io\nb.io::\n"),
        ] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("maps"), text).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/maps", at("maps")).unwrap();
        let (follower, _) = Follower::start(at("maps"), false).unwrap();
        let mut follower = Looks::by(follower);
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
        let refused = |strict| {
            Follower::start(path.clone(), strict)
                .unwrap_err()
                .to_string()
        };
        assert!(
            refused(false).contains("No such file"),
            "{}",
            refused(false)
        );
        fs::write(&path, "rubbish\n# fine\n\nmore rubbish").unwrap();
        assert!(
            refused(false).contains("not one of its lines with text (2)"),
            "{}",
            refused(false)
        );
        // An error page, of which one line reads as a rule, and another.
        let page = "<!DOCTYPE html>\n<html><body>\n<p>::[\n</body></html>\n";
        for (page, lines) in [(page, 4), ("rubbish\n<b>::a.io\n[EXACT]a::%\n", 3)] {
            fs::write(&path, page).unwrap();
            let why = refused(false);
            assert!(
                why.contains(&format!("not one of its lines with text ({lines})")),
                "{why}"
            );
        }
        // All are rules, so it is meant, if badly; and there were no better ones.
        fs::write(&path, "<p>::a.io\n").unwrap();
        assert!(Follower::start(path.clone(), false).is_ok());
        fs::write(&path, "default::a.io\nrubbish").unwrap();
        assert_eq!(Follower::start(path.clone(), false).unwrap().1.errors(), 1);
        assert!(refused(true).contains("--strict-maps"), "{}", refused(true));
        File::create(&path).unwrap().set_len(100 << 20).unwrap();
        assert!(
            refused(false).contains("larger than 8 MiB"),
            "{}",
            refused(false)
        );
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(refused(false).contains("directory"), "{}", refused(false));
    }
}
