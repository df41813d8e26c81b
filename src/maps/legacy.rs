//! LEGACY mode (`IMAGESWAP_MODE=LEGACY`): one prefix for all images, as before there were map files.

use super::book::Kind;
use super::verdict::{RuleRef, Verdict, Why};
use crate::image::Reference;

/// The prefix of LEGACY mode (`IMAGE_PREFIX`); empty means: do not swap.
#[derive(Debug, Clone, Default)]
pub struct Legacy {
    /// The prefix as set.
    pub prefix: String,
}

impl Legacy {
    /// What becomes of an image: the prefix and its last path component, or, behind a prefix that
    /// ends in `-`, all of it.
    pub fn swap(&self, image: &str) -> Verdict<'_> {
        let prefix = self.prefix.as_str();
        let rule = Some(RuleRef {
            kind: Kind::Legacy,
            line: None,
            text: prefix,
        });
        let reference = match Reference::parse(image) {
            Ok(reference) => reference,
            Err(error) => return Verdict::kept(Why::NotAReference(error), None),
        };
        if prefix.is_empty() {
            return Verdict::kept(Why::NoPrefix, rule);
        }
        if image.contains(prefix) {
            return Verdict::kept(Why::HasPrefix, rule);
        }
        let result = if prefix.ends_with('-') {
            [prefix, image].concat()
        } else {
            [prefix, "/", reference.last()].concat()
        };
        match Reference::parse(&result) {
            Ok(_) => Verdict::swapped(result, rule),
            Err(error) => Verdict::kept(Why::BadResult { result, error }, rule),
        }
    }
}
