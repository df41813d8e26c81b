//! Files that belong together and may change at any time: a certificate, its key, its CA.
//!
//! They are looked at, not watched: a watch on a file is lost with the file, and a mounted Secret
//! changes by the swap of a symbolic link. They may be caught in the middle of a change, so they
//! are read together, and what does not fit together has a moment to become right before it is
//! handed on. What to make of them is the reader's business.
//!
//! A map file is looked at by the same [`Stillness`], and has rules of its own for when it is whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long files that do not fit together, or can't be read, may be in the middle of a change.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);

/// How long files may go on changing before that is told: what never stands still is never read.
const RESTLESS: Duration = Duration::from_secs(10);

/// What is told then.
pub(crate) const CHANGES: &str = "it keeps changing, and may be half written at any time; write it once, and leave it \
                                  for a second";

/// The largest file. A Secret holds no more, either.
const MAX_BYTES: usize = 1 << 20;

/// What the files hold, in their order.
pub type Parts = Vec<Vec<u8>>;

/// A file can't be read.
#[derive(Debug, thiserror::Error)]
#[error("can't read {}: {why}", path.display())]
pub struct Unreadable {
    path: PathBuf,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is no regular file: name a file, not a directory or a device")]
    Special,
    #[error("it is larger than 1 MiB")]
    TooLarge,
    #[error("{CHANGES}")]
    Changes,
}

/// Follows files that belong together.
#[derive(Debug, Clone)]
pub struct Follower {
    paths: Vec<PathBuf>,
    stillness: Stillness<Prints>,
}

type Prints = Vec<Option<Fingerprint>>;

/// Tells of what is looked at again and again whether it is new, and for how long it has stood still.
#[derive(Debug, Clone)]
pub(crate) struct Stillness<P> {
    /// What was taken last.
    known: P,
    /// What is there now, if that is another, and since when.
    pending: Option<(P, Instant)>,
    /// Since when nothing came of what is there, and nothing was said.
    unsettled: Option<Instant>,
    /// What could not be read, and was said.
    complaint: Option<String>,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl<P: PartialEq> Stillness<P> {
    /// Of what was taken already.
    pub(crate) fn of(known: P) -> Self {
        Self {
            known,
            pending: None,
            unsettled: None,
            complaint: None,
        }
    }

    /// For how long what is there now has been there, if it is to be read: it is not what was taken last,
    /// and was there at the look before.
    pub(crate) fn look(&mut self, there: P, now: Instant) -> Option<Duration> {
        // Whoever heard that it can't be read does not know that it is there again.
        if there == self.known && self.complaint.is_none() {
            (self.pending, self.unsettled) = (None, None);
            return None;
        }
        match &self.pending {
            Some((seen, since)) if *seen == there => Some(now.saturating_duration_since(*since)),
            _ => {
                self.pending = Some((there, now));
                self.unsettled.get_or_insert(now);
                None
            }
        }
    }

    /// It was made use of, or refused for good.
    pub(crate) fn take(&mut self, there: P) {
        *self = Self::of(there);
    }

    /// Whether it is to be told that it keeps changing.
    pub(crate) fn is_restless(&self, now: Instant) -> bool {
        let has_gone_on = |since| now.saturating_duration_since(since) >= RESTLESS;
        self.unsettled.is_some_and(has_gone_on)
    }

    /// It can't be read, for now. Whether that is news.
    pub(crate) fn complain(&mut self, of: String) -> bool {
        let of = Some(of);
        let is_news = self.complaint != of;
        (self.complaint, self.unsettled) = (of, None);
        is_news
    }
}

impl Follower {
    /// Follows files of which nothing is known: what is there is read.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let stillness = Stillness::of(Vec::new());
        Self { paths, stillness }
    }

    /// The files that are followed.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Reads the files as they are now, and follows them from there.
    ///
    /// # Errors
    /// One of them can't be read.
    pub fn read(&mut self) -> Result<Parts, Unreadable> {
        let prints = self.prints();
        let parts = read_all(&self.paths)?;
        self.stillness.take(prints);
        Ok(parts)
    }

    /// Looks at the files, and hands on what they hold if that is new, has settled, and fits
    /// together; or has not come to fit for some seconds. What can't be read, or does not settle, is
    /// tried again at each look, and said once.
    pub fn look(
        &mut self,
        now: Instant,
        fits: impl Fn(&[Vec<u8>]) -> bool,
    ) -> Option<Result<Parts, Unreadable>> {
        let found = self.look_if_settled(now, fits);
        if found.is_none() && self.stillness.is_restless(now) {
            return self.complain(self.restless());
        }
        found
    }

    fn look_if_settled(
        &mut self,
        now: Instant,
        fits: impl Fn(&[Vec<u8>]) -> bool,
    ) -> Option<Result<Parts, Unreadable>> {
        let prints = self.prints();
        let still = self.stillness.look(prints.clone(), now)?;
        let read = read_all(&self.paths);
        if self.prints() != prints {
            // They changed under our hands.
            return None;
        }
        let is_late = still >= PATIENCE;
        match read {
            Ok(parts) if is_late || fits(&parts) => {
                self.stillness.take(prints);
                Some(Ok(parts))
            }
            Err(error) if is_late => self.complain(error),
            _ => None,
        }
    }

    fn complain(&mut self, of: Unreadable) -> Option<Result<Parts, Unreadable>> {
        let is_news = self.stillness.complain(of.to_string());
        is_news.then_some(Err(of))
    }

    /// Said of the file that changed last.
    fn restless(&self) -> Unreadable {
        let changed = |path: &&PathBuf| Fingerprint::of(path).map(|print| print.changed);
        let path = self.paths.iter().max_by_key(changed);
        Unreadable {
            path: path.cloned().unwrap_or_default(),
            why: Why::Changes,
        }
    }

    /// Follows the files as if nothing were known of them: a look failed, and whoever was told does not know that
    /// they can be read. Whether that is news.
    pub fn begin_anew(&mut self, why: String) -> bool {
        (self.stillness.known, self.stillness.pending) = (Vec::new(), None);
        self.stillness.complain(why)
    }

    fn prints(&self) -> Prints {
        self.paths
            .iter()
            .map(|path| Fingerprint::of(path))
            .collect()
    }
}

impl Fingerprint {
    /// `None` if there is no file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
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

fn read_all(paths: &[PathBuf]) -> Result<Parts, Unreadable> {
    let read = |path: &PathBuf| {
        read(path).map_err(|why| Unreadable {
            path: path.clone(),
            why,
        })
    };
    paths.iter().map(read).collect()
}

/// At most one byte more than is allowed. To open a pipe may take for ever.
fn read(path: &Path) -> Result<Vec<u8>, Why> {
    if !fs::metadata(path)?.is_file() {
        return Err(Why::Special);
    }
    let (mut bytes, most) = (Vec::new(), u64::try_from(MAX_BYTES + 1).unwrap_or(u64::MAX));
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_BYTES {
        return Err(Why::TooLarge);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Two files that fit if they hold the same.
    struct Story {
        dir: tempfile::TempDir,
        follower: Follower,
        now: Instant,
    }

    impl Story {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let paths = ["a", "b"].map(|name| dir.path().join(name)).to_vec();
            let follower = Follower::new(paths);
            let now = Instant::now();
            Self { dir, follower, now }
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.dir.path().join(name), text).unwrap();
        }

        /// A look half a second later.
        fn look(&mut self) -> Option<Result<Parts, Unreadable>> {
            self.now += Duration::from_millis(500);
            self.follower.look(self.now, |parts| parts[0] == parts[1])
        }

        /// What is handed on at the next so many looks: nothing, but at the last one.
        fn looks(&mut self, looks: usize) -> String {
            for _ in 1..looks {
                assert!(self.look().is_none());
            }
            match self.look() {
                None => "nothing".to_owned(),
                Some(Ok(parts)) => parts.concat().iter().map(|b| char::from(*b)).collect(),
                Some(Err(error)) => error.to_string(),
            }
        }
    }

    #[test]
    fn what_fits_is_handed_on_at_the_second_look_and_once() {
        let mut story = Story::new();
        story.write("a", "1");
        story.write("b", "1");
        assert_eq!(story.follower.read().unwrap().concat(), b"11");
        assert_eq!(story.looks(20), "nothing");
        for text in ["2", "long", "3"] {
            story.write("a", text);
            story.write("b", text);
            assert_eq!(story.looks(2), text.repeat(2));
            assert_eq!(story.looks(20), "nothing");
        }
    }

    #[test]
    fn what_does_not_fit_has_a_moment_from_its_last_change() {
        let mut story = Story::new();
        story.write("a", "1");
        story.write("b", "1");
        assert_eq!(story.looks(2), "11");
        story.write("a", "2");
        assert_eq!(story.looks(5), "nothing");
        story.write("b", "2");
        assert_eq!(story.looks(2), "22");
        story.write("a", "3");
        assert_eq!(story.looks(7), "nothing");
        // Of another length: some file systems count times in ticks, and this takes less than one.
        story.write("a", "44");
        assert_eq!(story.looks(9), "442");
        assert_eq!(story.looks(20), "nothing");
        // Nothing came of it, and the old is back.
        story.write("a", "2");
        assert_eq!(story.looks(2), "22");
    }

    #[test]
    fn what_never_stands_still_is_said_once_and_read_when_it_does() {
        let mut story = Story::new();
        story.write("a", "1");
        story.write("b", "1");
        assert_eq!(story.looks(2), "11");
        for _ in 0..2 {
            let mut said = Vec::new();
            for n in 1_u32..100 {
                story.write("b", &"1".repeat(1 + (n % 2) as usize));
                if let Some(found) = story.look() {
                    said.push((n, found.unwrap_err().to_string()));
                }
            }
            let [(at, why)] = &said[..] else {
                panic!("{said:?}");
            };
            assert_eq!(*at, 21);
            assert!(why.contains("/b: it keeps changing"), "{why}");
            story.write("b", "1");
            assert_eq!(story.looks(2), "11");
            assert_eq!(story.looks(20), "nothing");
        }
        // Each of these stands still for a look, and does not fit to the other file.
        let mut said = Vec::new();
        for n in 1..50 {
            if n % 2 == 1 {
                story.write("b", &format!("{n} "));
            }
            said.extend(story.look().map(|found| found.is_err()));
        }
        assert_eq!(said, [true]);
    }

    #[test]
    fn what_can_not_be_read_is_said_once_and_read_when_it_is_back() {
        let mut story = Story::new();
        story.write("a", "1");
        assert!(
            story
                .follower
                .read()
                .unwrap_err()
                .to_string()
                .contains("/b: ")
        );
        story.write("b", "1");
        assert_eq!(story.looks(2), "11");
        let path = story.dir.path().join("b");
        fs::remove_file(&path).unwrap();
        assert!(story.looks(9).contains("No such file"));
        assert_eq!(story.looks(20), "nothing");
        // Back as it was, by all that can be seen from outside.
        story.write("b", "1");
        story.follower.stillness.known = story.follower.prints();
        assert_eq!(story.looks(2), "11");
        assert_eq!(story.looks(20), "nothing");
        fs::remove_file(&path).unwrap();
        assert!(story.looks(9).contains("No such file"));
        fs::create_dir(&path).unwrap();
        assert!(story.looks(9).contains("no regular file"));
        fs::remove_dir(&path).unwrap();
        File::create(&path).unwrap().set_len(2 << 20).unwrap();
        assert!(story.looks(9).contains("larger than 1 MiB"));
        story.write("b", "1");
        assert_eq!(story.looks(2), "11");
        fs::remove_file(&path).unwrap();
        symlink("b", &path).unwrap();
        assert!(story.looks(9).contains("symbolic links"));
    }

    /// As the kubelet does: `a` → `..data/a`, and `..data` is renamed over.
    #[test]
    fn the_swap_of_a_mounted_secret_is_seen_whole() {
        let mut story = Story::new();
        let at = |story: &Story, name: &str| story.dir.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(at(&story, version)).unwrap();
            for name in ["a", "b"] {
                story.write(&format!("{version}/{name}"), version);
            }
        }
        symlink("..1", at(&story, "..data")).unwrap();
        for name in ["a", "b"] {
            symlink(format!("..data/{name}"), at(&story, name)).unwrap();
        }
        assert_eq!(story.looks(2), "..1..1");
        symlink("..2", at(&story, "..data_tmp")).unwrap();
        fs::rename(at(&story, "..data_tmp"), at(&story, "..data")).unwrap();
        fs::remove_dir_all(at(&story, "..1")).unwrap();
        assert_eq!(story.looks(2), "..2..2");
    }
}
