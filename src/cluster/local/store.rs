//! The directory as what rotation works on: its files are the parts of the Secret, and `ca.crt` is
//! also what clients believe. This process is the only endpoint.
//!
//! A file `rotate` with any text asks for a rotation, as the annotation of the Secret does; `rotated`
//! repeats the text of the request that was carried out last.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;
use tracing::warn;

use super::{Error, StateDir};
use crate::cluster::{Look, Seen};
use crate::pki::{KeyPem, Pem};
use crate::rotation::clock::Clock;
use crate::rotation::driver::Store;
use crate::rotation::source::Source;
use crate::rotation::state::{Configuration, Endpoint, Hook, Observed, Secret};
use crate::rotation::write::{Change, Failure, Next, Write};
use crate::telemetry::logs::Sparingly;

/// How often to look at the directory.
const LOOK: Duration = Duration::from_secs(10);

/// What does not work is logged this often.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// A directory that keeps a pair. A clone is the same one.
#[derive(Debug, Clone)]
pub struct LocalStore {
    dir: StateDir,
    served: watch::Receiver<Option<Pem>>,
    written: Arc<Notify>,
    /// One thread at most waits for the disk, however long that hangs: reviews need the others.
    turn: Arc<Semaphore>,
}

impl LocalStore {
    /// `served` is what this process serves.
    pub fn new(dir: StateDir, served: watch::Receiver<Option<Pem>>) -> Self {
        Self {
            dir,
            served,
            written: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Keeps `seen` up to date for ever, and tells `leader` when something changed.
    pub async fn watch(
        &self,
        seen: &watch::Sender<Seen>,
        leader: &Notify,
        clock: &Clock,
    ) -> Infallible {
        let sparingly = Sparingly::new(SAY_AGAIN);
        let mut last = None;
        loop {
            match Look::at(self, clock).await {
                Ok(look) => {
                    let secret = look.observed.secret.as_ref();
                    let version = secret.map(|found| found.version.clone());
                    seen.send_replace(Some(look));
                    if last.replace(version.clone()) != Some(version) {
                        leader.notify_one();
                    }
                }
                Err(why) if sparingly.may() => warn!("can't see the certificate's files: {why}"),
                Err(_) => {}
            }
            let _ = timeout(LOOK, self.written.notified()).await;
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StateDir) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let dir = self.dir.clone();
        // It is never closed.
        let turn = self.turn.clone().acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            // Also when nobody awaits it any more.
            let _turn = turn;
            work(&dir)
        });
        let done = done.await;
        done.map_err(|error| Failure::Failed(error.to_string()))?
    }
}

impl Store for LocalStore {
    async fn observe(&self) -> Result<Observed, Failure> {
        self.blocking(|dir| {
            let _turn = dir.turn()?;
            let secret = secret(dir)?;
            Ok(Observed {
                configuration: secret.as_ref().map(configuration),
                secret,
            })
        })
        .await
    }

    async fn apply(&self, write: &Write) -> Result<(), Failure> {
        let write = write.clone();
        let done = self.blocking(move |dir| apply(dir, &write)).await;
        self.written.notify_one();
        done
    }

    async fn endpoints(&self) -> Result<Vec<Endpoint>, Failure> {
        let served = self.served.borrow().clone();
        let leaf = served.as_ref().and_then(Pem::leaf);
        let leaf = leaf.ok_or_else(|| "it serves none yet".to_owned());
        Ok(vec![Endpoint::new("this process", leaf)])
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// All parts; `None` if nothing of the pair is there.
fn secret(dir: &StateDir) -> Result<Option<Secret>, Error> {
    dir.guard_key()?;
    let mut digest = Context::new(&SHA256);
    let mut part = |name: &str| {
        let found = dir.read_file(name)?;
        let bytes = found.as_deref().unwrap_or_default();
        digest.update(&[u8::from(found.is_some())]);
        digest.update(&bytes.len().to_le_bytes());
        digest.update(bytes);
        Ok::<_, Error>(found)
    };
    let text =
        |bytes: Option<Vec<u8>>| bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let secret = Secret {
        chain: part("tls.crt")?,
        key: part("tls.key")?,
        ca: part("ca.crt")?,
        source: Source::Minted,
        next_chain: part("next.crt")?,
        next_key: part("next.key")?,
        request: text(part("rotate")?).map(|text| text.trim().to_owned()),
        // As it was written: one that was cut may end with a blank.
        answered: text(part("rotated")?),
        version: String::new(),
    };
    let version = format!("{:?}", digest.finish());
    let is_there = secret.chain.is_some() || secret.key.is_some() || secret.ca.is_some();
    Ok(is_there.then_some(Secret { version, ..secret }))
}

/// Whoever reads `ca.crt` is the only one who calls.
fn configuration(secret: &Secret) -> Configuration {
    Configuration {
        version: secret.version.clone(),
        uid: String::new(),
        generation: None,
        hooks: vec![Hook {
            index: 0,
            name: "ca.crt".to_owned(),
            bundle: secret.ca.clone().unwrap_or_default(),
            ..Hook::default()
        }],
    }
}

fn apply(dir: &StateDir, write: &Write) -> Result<(), Failure> {
    let conflict = || Failure::Conflict("the files have changed".to_owned());
    let _turn = dir.turn()?;
    let found = secret(dir)?;
    let is_still = |version: &String| found.as_ref().is_some_and(|now| now.version == *version);
    match write {
        Write::Create(_) if found.is_some() => Err(conflict()),
        Write::Create(pem) => Ok(dir.write(pem)?),
        Write::Change { version, change } if is_still(version) => Ok(change_files(dir, change)?),
        Write::Bundles { version, hooks } if is_still(version) => {
            let bundle = hooks.first().map(|hook| hook.bundle.clone());
            let text = String::from_utf8_lossy(&bundle.unwrap_or_default()).into_owned();
            Ok(dir.write_file("ca.crt", &text, 0o644)?)
        }
        Write::Change { .. } | Write::Bundles { .. } => Err(conflict()),
    }
}

/// A stop in the middle of this loses nothing: what is to be served is believed before, and stays
/// staged until it is there.
fn change_files(dir: &StateDir, change: &Change) -> Result<(), Error> {
    if let Some(ca) = &change.ca {
        dir.write_file("ca.crt", ca, 0o644)?;
    }
    if let Some(KeyPem { chain, key }) = &change.pair {
        dir.write_pair(chain, key)?;
    }
    match &change.next {
        Some(Next::Set(KeyPem { chain, key })) => {
            dir.write_file("next.crt", chain, 0o644)?;
            dir.write_file("next.key", key, 0o600)?;
        }
        Some(Next::Clear) => {
            dir.remove_file("next.crt")?;
            dir.remove_file("next.key")?;
        }
        None => {}
    }
    match &change.answered {
        Some(text) => dir.write_file("rotated", text, 0o644),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::pki::{judge, mint};
    use crate::rotation::belief::Belief;
    use crate::rotation::clock::Clock;
    use crate::rotation::driver::{Driver, Memory};
    use crate::rotation::plan::{OLDEST, Policy, SETTLED};
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::notices::Notices;

    const LIFE: time::Duration = time::Duration::days(9);

    fn names() -> Vec<String> {
        vec!["localhost".to_owned()]
    }

    fn pair() -> Pem {
        mint(&names(), LIFE, OffsetDateTime::now_utc()).unwrap()
    }

    fn store(temp: &tempfile::TempDir) -> LocalStore {
        let path = temp.path().to_owned();
        LocalStore::new(StateDir { path }, watch::channel(None).1)
    }

    async fn found(store: &LocalStore) -> Secret {
        store.observe().await.unwrap().secret.unwrap()
    }

    async fn change(store: &LocalStore, change: Change) -> Result<(), Failure> {
        let version = found(store).await.version;
        store.apply(&Write::Change { version, change }).await
    }

    /// A directory on a disk that hangs takes one thread, and not one for each look.
    #[test]
    fn a_disk_that_hangs_keeps_one_thread_waiting() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(2)
            .build()
            .unwrap();
        let temp = tempfile::tempdir().unwrap();
        let store = store(&temp);
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        runtime.block_on(async {
            let soon = Duration::from_millis(20);
            let hang = store.blocking(move |_| Ok(held.recv().is_err()));
            assert!(timeout(soon, hang).await.is_err());
            for _ in 0..3 {
                assert!(timeout(soon, store.observe()).await.is_err());
            }
            let other = tokio::task::spawn_blocking(|| ());
            let other = timeout(Duration::from_secs(5), other).await;
            assert!(other.is_ok(), "no thread is left for anything else");
            drop(let_go);
            assert!(store.observe().await.is_ok(), "and then it goes on");
        });
    }

    #[tokio::test]
    async fn a_directory_is_a_secret_and_who_comes_second_conflicts() {
        let temp = tempfile::tempdir().unwrap();
        let (store, one, two) = (store(&temp), pair(), pair());
        let nothing = store.observe().await.unwrap();
        assert!(nothing.secret.is_none() && nothing.configuration.is_none());
        store.apply(&Write::Create(one.clone())).await.unwrap();
        let again = store.apply(&Write::Create(two.clone())).await;
        assert!(matches!(again, Err(Failure::Conflict(_))), "{again:?}");

        let first = found(&store).await;
        assert_eq!(first.pem().key, one.key);
        std::fs::write(temp.path().join("rotate"), "now\n").unwrap();
        let asked = found(&store).await;
        assert_eq!(asked.open_request(), Some("now"));
        let staged = || Change {
            next: Some(Next::Set(KeyPem {
                chain: two.chain.clone(),
                key: two.key.clone(),
            })),
            ca: Some(one.ca.clone() + &two.ca),
            answered: Some("now".to_owned()),
            ..Change::default()
        };
        let outdated = Write::Change {
            version: first.version,
            change: staged(),
        };
        let late = store.apply(&outdated).await;
        assert!(matches!(late, Err(Failure::Conflict(_))), "{late:?}");
        change(&store, staged()).await.unwrap();
        let seen = store.observe().await.unwrap();
        let secret = seen.secret.as_ref().unwrap();
        assert_eq!(secret.next().key, two.key);
        assert_eq!(secret.open_request(), None);
        // One that is cut off behind a blank.
        let long = "a".repeat(199) + " and more";
        std::fs::write(temp.path().join("rotate"), long).unwrap();
        let asked = found(&store).await;
        let answered = asked.open_request().map(str::to_owned);
        assert!(answered.is_some());
        let answer = Change {
            answered,
            ..Change::default()
        };
        change(&store, answer).await.unwrap();
        let seen = store.observe().await.unwrap();
        let secret = seen.secret.as_ref().unwrap();
        assert_eq!(secret.open_request(), None);
        // Whoever reads `ca.crt` is the one who calls.
        assert_eq!(seen.live_bundle().len(), 2);

        let mut hooks = seen.hooks().to_vec();
        hooks[0].bundle = two.ca.clone().into_bytes();
        let write = |version| Write::Bundles {
            version,
            hooks: hooks.clone(),
        };
        let late = store.apply(&write(asked.version)).await;
        assert!(matches!(late, Err(Failure::Conflict(_))), "{late:?}");
        let current = secret.version.clone();
        store.apply(&write(current)).await.unwrap();
        assert_eq!(found(&store).await.pem().ca, two.ca);
    }

    #[tokio::test]
    async fn what_somebody_else_puts_there_is_kept() {
        let temp = tempfile::tempdir().unwrap();
        let (store, one, two) = (store(&temp), pair(), pair());
        store.apply(&Write::Create(one.clone())).await.unwrap();
        let theirs = rcgen::generate_simple_self_signed(names()).unwrap();
        let (chain, key) = (theirs.cert.pem(), theirs.signing_key.serialize_pem());
        let put = |name: &str, text: &str| std::fs::write(temp.path().join(name), text).unwrap();
        let read = |name: &str| std::fs::read_to_string(temp.path().join(name)).ok();
        let restore = || Change {
            pair: Some(KeyPem {
                chain: two.chain.clone(),
                key: two.key.clone(),
            }),
            ..Change::default()
        };
        // One after the other, and something is written back between.
        put("tls.crt", &chain);
        change(&store, restore()).await.unwrap();
        assert_eq!(found(&store).await.pem().chain, two.chain);
        put("tls.key", &key);
        change(&store, restore()).await.unwrap();
        assert_eq!(found(&store).await.pem().key, two.key);
        // The key that stood beside their leaf may have been theirs, too.
        assert_eq!(
            ["theirs.crt", "theirs.key", "theirs-2.key"].map(read),
            [chain, one.key, key].map(Some)
        );
        // What is ours is not theirs.
        let remove = |name: &str| std::fs::remove_file(temp.path().join(name)).unwrap();
        remove("theirs.key");
        remove("theirs-2.key");
        change(&store, restore()).await.unwrap();
        remove("tls.crt");
        change(&store, restore()).await.unwrap();
        assert_eq!(read("theirs.key"), None);
        // Nor does what comes later take the place of what was there.
        for (text, place) in [
            ("a", "theirs.key"),
            ("b", "theirs-2.key"),
            ("a", "theirs.key"),
            ("c", "theirs-3.key"),
        ] {
            put("tls.key", text);
            change(&store, restore()).await.unwrap();
            assert_eq!(read(place).as_deref(), Some(text));
        }
        assert_eq!(read("theirs.key").as_deref(), Some("a"));
    }

    #[tokio::test]
    async fn a_directory_that_was_removed_is_made_anew() {
        let temp = tempfile::tempdir().unwrap();
        let (store, one) = (store(&temp), pair());
        std::fs::remove_dir(temp.path()).unwrap();
        assert!(store.observe().await.unwrap().secret.is_none());
        store.apply(&Write::Create(one.clone())).await.unwrap();
        assert_eq!(found(&store).await.pem().key, one.key);
    }

    /// The files of a promotion are written one after the other.
    #[tokio::test]
    async fn a_stop_in_the_middle_of_a_promotion_loses_nothing() {
        let (one, two) = (pair(), pair());
        for done in 0..4 {
            let temp = tempfile::tempdir().unwrap();
            let store = store(&temp);
            store.apply(&Write::Create(one.clone())).await.unwrap();
            let next = KeyPem {
                chain: two.chain.clone(),
                key: two.key.clone(),
            };
            let staged = Change {
                next: Some(Next::Set(next)),
                ca: Some(one.ca.clone() + &two.ca),
                ..Change::default()
            };
            change(&store, staged).await.unwrap();
            let file = |name: &str, text: &str| store.dir.write_file(name, text, 0o600).unwrap();
            for part in 0..done {
                match part {
                    0 => file("tls.crt", &two.chain),
                    1 => file("tls.key", &two.key),
                    _ => store.dir.remove_file("next.crt").unwrap(),
                }
            }
            let driver = Driver {
                believed: watch::channel(Belief::default()).1,
                store: store.clone(),
                policy: Policy {
                    names: names(),
                    required: names(),
                    life: LIFE,
                    renew_before: LIFE / 2,
                    trust_delay: Duration::ZERO,
                    writes_bundles: true,
                    settled: SETTLED,
                    shown: SETTLED,
                    oldest: OLDEST,
                },
                served: watch::channel(None).1,
                clock: Clock::system(),
                metrics: Metrics::new().unwrap(),
                notices: Notices::default(),
            };
            let mut memory = Memory::default();
            driver.step(&mut memory).await.unwrap();
            let pem = found(&store).await.pem();
            let served = judge(&pem, &names(), OffsetDateTime::now_utc());
            assert!(served.is_ok(), "after {done} files: {served:?}");
            let is_old = done == 0;
            assert_eq!(pem.key == one.key, is_old, "after {done} files");
        }
    }
}
