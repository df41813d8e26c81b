//! How far a rotation is that somebody asked for, as the Secret and the caBundles tell it. Pure.

use crate::rotation::state::{Observed, Secret};

/// A stage of a rotation, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// The leader has not begun.
    Asked,
    /// The new pair is made, and its CA is being made known.
    Staged,
    /// The new pair is the one to be served, and the old CA is still believed.
    Promoted,
    /// One pair, one CA.
    Done,
    /// It was begun, and somebody took the new pair away before it was served: it will not be made again.
    Undone,
}

impl Progress {
    /// How far the rotation is that was asked for by this text, when the Secret was as `before` when nobody had
    /// begun. If somebody asked after that, it is theirs: one is made for both.
    pub fn of(observed: &Observed, request: &str, before: &Secret) -> Self {
        let Some(secret) = &observed.secret else {
            return Self::Asked;
        };
        let is_one = |cas: usize| cas <= 1;
        let bundles = observed.hooks().iter().map(|hook| hook.bundle().len());
        let answered = secret.answered.as_deref();
        let is_newer = secret.request.is_some() && secret.open_request().is_none();
        let is_before = answered == before.answered.as_deref();
        if answered != Some(request) && (is_before || !is_newer) {
            Self::Asked
        } else if secret.has_next() {
            Self::Staged
        } else if secret.pem().leaf() == before.pem().leaf() {
            Self::Undone
        } else if bundles.chain([secret.bundle().len()]).all(is_one) {
            Self::Done
        } else {
            Self::Promoted
        }
    }
}

#[cfg(test)]
mod tests {
    use time::{Duration, OffsetDateTime};

    use super::*;
    use crate::pki::mint;
    use crate::rotation::source::Source;
    use crate::rotation::state::{Configuration, Hook};

    #[test]
    fn a_rotation_goes_through_its_stages() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
        let pair = || mint(&["a".to_owned()], Duration::DAY, now).unwrap();
        let (old, new) = (pair(), pair());
        let (one, both) = (old.ca.clone(), new.ca.clone() + &old.ca);
        let seen_with =
            |leaf: &str, request: &str, answered: &str, next: bool, secret: &str, bundle: &str| {
                Observed {
                    configuration: Some(Configuration {
                        version: String::new(),
                        uid: String::new(),
                        generation: None,
                        hooks: vec![Hook {
                            index: 0,
                            name: String::new(),
                            bundle: bundle.as_bytes().to_vec(),
                            ..Hook::default()
                        }],
                    }),
                    secret: Some(Secret {
                        version: String::new(),
                        chain: Some(leaf.as_bytes().to_vec()),
                        key: None,
                        ca: Some(secret.as_bytes().to_vec()),
                        source: Source::Minted,
                        next_chain: next.then(Vec::new),
                        next_key: None,
                        request: (!request.is_empty()).then(|| request.to_owned()),
                        answered: Some(answered.to_owned()),
                    }),
                }
            };
        let seen = |request: &str, answered: &str, next: bool, secret: &str, bundle: &str| {
            seen_with(&new.chain, request, answered, next, secret, bundle)
        };
        let old_again = |answered: &str, next: bool, secret: &str| {
            seen_with(&old.chain, "now", answered, next, secret, &both)
        };
        let before = Secret {
            answered: Some("before".to_owned()),
            ..Secret::minted("1", &old)
        };
        for (observed, expected) in [
            (Observed::default(), Progress::Asked),
            (seen("now", "before", false, &one, &one), Progress::Asked),
            (seen("now", "now", true, &both, &one), Progress::Staged),
            (seen("now", "now", false, &both, &both), Progress::Promoted),
            (seen("now", "now", false, &one, &both), Progress::Promoted),
            (seen("now", "now", false, &one, &one), Progress::Done),
            // Somebody takes away what is staged, and with it the request, or not.
            (old_again("now", true, &both), Progress::Staged),
            (old_again("now", false, &both), Progress::Undone),
            (old_again("now", false, &one), Progress::Undone),
            (old_again("before", false, &one), Progress::Asked),
            // Somebody asks later.
            (seen("later", "before", false, &one, &one), Progress::Asked),
            (seen("later", "now", true, &both, &one), Progress::Staged),
            (seen("later", "later", true, &both, &one), Progress::Staged),
            (seen("later", "later", false, &one, &one), Progress::Done),
            // Somebody takes the request back.
            (seen("before", "before", false, &one, &one), Progress::Asked),
            (seen("", "before", false, &one, &one), Progress::Asked),
            (seen("", "now", false, &one, &one), Progress::Done),
        ] {
            assert_eq!(Progress::of(&observed, "now", &before), expected);
        }
    }
}
