//! AdmissionReview bytes → response bytes. Pure: no I/O, no clock, no lock.
//!
//! ImageSwap never denies. What it does not understand stays as it is, with a warning to whoever
//! created the object; only a body that is no AdmissionReview is refused. The patch holds nothing
//! but `replace` of image slots seen in the request: a patch that does not apply rejects the
//! object whatever the webhook's failurePolicy.

pub mod about;
mod base64;
mod brief;
pub mod object;
mod reply;
mod shapes;
pub mod skim;
pub mod slots;
mod string_ends;
mod wire;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Display;

use self::object::{Entry, Image, MAX_ENTRIES, Workload};
use self::reply::Swaps;
use self::slots::List;
pub use self::wire::BadReview;
use self::wire::{Object, Request, Review};
use crate::maps::{Effort, Rules};
use crate::text::shortened;

/// kube-apiserver cuts each warning to 256 characters once all together pass 4,096.
const MAX_WARNINGS: usize = 16;

/// What was answered, and what there is to count and to log.
#[derive(Debug)]
pub struct Reply {
    /// The AdmissionReview to send back, as JSON.
    pub body: Vec<u8>,
    /// What was done.
    pub outcome: Outcome,
    /// `CREATE`, `UPDATE` or `other`.
    pub operation: &'static str,
    /// How many images were decided by each kind of rule; see [`crate::maps::Verdict::kind`].
    pub images: Vec<(&'static str, u64)>,
    /// What the user was warned of, or the first of it.
    pub warnings: Vec<String>,
}

/// What was done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A patch was sent.
    Swapped,
    /// All images stay as they are.
    Unchanged,
    /// The object is not to be touched, or not understood well enough to be.
    Skipped(Skip),
    /// The review carries no images of ours.
    NoImages,
}

/// Why an object is not touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It, or its pod template, carries the label that disables ImageSwap.
    Label,
    /// It mirrors a static pod, which the kubelet runs from its own file.
    Mirror,
    /// It is a ReplicaSet or a ReplicationController that a controller made and compares with its own template: one
    /// that differs it takes for another's, and makes the next, without end. Its Pods are reviewed all the same.
    Owned,
    /// A key on the way to an image appears twice, so the server may see another image.
    DuplicateKey,
    /// It has more images than any object the server takes.
    TooLong,
    /// It is JSON, but not what it says it is.
    Unreadable,
}

impl Outcome {
    /// A label for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Swapped => "swapped",
            Self::Unchanged => "unchanged",
            Self::Skipped(Skip::Label) => "skipped_label",
            Self::Skipped(Skip::Mirror) => "skipped_mirror",
            Self::Skipped(Skip::Owned) => "skipped_owned",
            Self::Skipped(Skip::DuplicateKey) => "skipped_duplicate_key",
            Self::Skipped(Skip::TooLong) => "skipped_too_long",
            Self::Skipped(Skip::Unreadable) => "skipped_unreadable",
            Self::NoImages => "no_images",
        }
    }
}

/// Answers one review.
///
/// `disable_label` is the label whose value `disabled` on an object or its pod template keeps
/// ImageSwap away.
///
/// # Errors
/// The body is no AdmissionReview that can be answered.
pub fn review(body: &[u8], rules: &Rules, disable_label: &str) -> Result<Reply, BadReview> {
    let review = parse(text(body)?, disable_label)?;
    Ok(answer(review, rules, disable_label, &Effort::unbounded()))
}

/// As [`review`]; `None` if that takes more than there is of an effort.
///
/// # Errors
/// As those of [`review`].
pub fn review_within(
    body: &[u8],
    rules: &Rules,
    disable_label: &str,
    effort: &Effort<'_>,
) -> Result<Option<Reply>, BadReview> {
    let review = parse(text(body)?, disable_label)?;
    let reply = answer(review, rules, disable_label, effort);
    Ok((!effort.is_spent()).then_some(reply))
}

/// Reads a review, in one pass if it is written as kube-apiserver would.
fn parse<'a>(text: &'a str, disable_label: &str) -> Result<Review<'a>, BadReview> {
    // What is wrong with it, `serde_json` says better.
    if let Ok(raw) = brief::read(text, disable_label)
        && let Ok(review) = Review::of(raw, text, |object| object)
    {
        return Ok(review);
    }
    Review::parse_by_serde(text)
}

/// As [`review`], with `serde_json` alone: what it is held against.
///
/// # Errors
/// As those of [`review`].
pub fn review_by_serde(
    body: &[u8],
    rules: &Rules,
    disable_label: &str,
) -> Result<Reply, BadReview> {
    let review = Review::parse_by_serde(text(body)?)?;
    Ok(answer(review, rules, disable_label, &Effort::unbounded()))
}

fn text(body: &[u8]) -> Result<&str, BadReview> {
    simdutf8::compat::from_utf8(body).map_err(|error| BadReview::NotUtf8(error.valid_up_to()))
}

/// Means nothing if the effort is spent.
fn answer<'a>(
    mut review: Review<'a>,
    rules: &'a Rules,
    disable_label: &str,
    effort: &Effort<'_>,
) -> Reply {
    let mut decision = Decision::default();
    let outcome = decision.decide(&mut review.request, rules, disable_label, effort);
    Reply {
        body: reply::write(&review, &decision.swaps, &decision.all_warnings()),
        outcome,
        operation: review.request.operation.as_str(),
        images: decision.images,
        warnings: decision.warnings,
    }
}

/// What is found out about one review.
#[derive(Debug, Default)]
struct Decision<'a> {
    swaps: Swaps<'a>,
    warnings: Vec<String>,
    images: Vec<(&'static str, u64)>,
    /// How many warnings there were beyond those that are kept.
    more_warnings: usize,
}

impl<'a> Decision<'a> {
    /// About all images of an object.
    fn decide(
        &mut self,
        request: &mut Request<'a>,
        rules: &'a Rules,
        disable_label: &str,
        effort: &Effort<'_>,
    ) -> Outcome {
        if let Some(key) = request.duplicate {
            return self.skip_duplicate(key);
        }
        let Some(path) = request.pod_path() else {
            return Outcome::NoImages;
        };
        let Some(object) = request.object.take() else {
            return Outcome::NoImages;
        };
        let workload = match object.workload(path, disable_label) {
            Ok(workload) => workload,
            Err(error) => {
                self.warn(format_args!("the object can't be read: {error}"));
                return Outcome::Skipped(Skip::Unreadable);
            }
        };
        if let Some(key) = &workload.duplicate {
            return self.skip_duplicate(key);
        }
        if workload.is_too_long {
            self.warn(format_args!(
                "there are more than {MAX_ENTRIES} images, so none is swapped"
            ));
            return Outcome::Skipped(Skip::TooLong);
        }
        let scope = Scope::of(request, path, disable_label);
        if let Some(why) = why_left_alone(&workload, &scope, request, path) {
            return Outcome::Skipped(why);
        }
        self.swaps.reserve(workload.entries.len());
        let mut any = false;
        for list in List::ALL {
            for entry in workload.entries.iter().filter(|entry| entry.list == list) {
                if scope.covers(entry) {
                    any = true;
                    self.decide_entry(entry, path, rules, effort);
                }
            }
        }
        match (any, self.swaps.is_empty()) {
            (false, _) => Outcome::NoImages,
            (true, true) => Outcome::Unchanged,
            (true, false) => Outcome::Swapped,
        }
    }

    fn skip_duplicate(&mut self, key: &str) -> Outcome {
        self.warn(format_args!(
            "the key {key:?} appears twice, so nothing is swapped"
        ));
        Outcome::Skipped(Skip::DuplicateKey)
    }

    fn decide_entry(
        &mut self,
        entry: &Entry<'a>,
        path: &'static [&'static str],
        rules: &'a Rules,
        effort: &Effort<'_>,
    ) {
        let image = match &entry.image {
            Image::Text(image) => image,
            Image::Missing | Image::NotText => {
                let what = if entry.image == Image::Missing {
                    "it is missing"
                } else {
                    "it is no text"
                };
                self.count("invalid");
                self.warn(format_args!("{entry}: the image stays as it is: {what}"));
                return;
            }
        };
        let Some(verdict) = rules.swap_within(image, effort) else {
            return;
        };
        self.count(verdict.kind());
        if let Some(why) = verdict.why_invalid() {
            let image = shortened(image, 100);
            self.warn(format_args!(
                "{entry}: the image {image:?} stays as it is: {why}"
            ));
        }
        if let Ok(result) = verdict.outcome {
            self.swaps
                .push(entry, path, image.clone(), result, verdict.rule);
        }
    }

    fn count(&mut self, kind: &'static str) {
        match self.images.iter_mut().find(|(counted, _)| *counted == kind) {
            Some((_, count)) => *count += 1,
            None => self.images.push((kind, 1)),
        }
    }

    fn warn(&mut self, warning: impl Display) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(format!("imageswap: {warning}"));
        } else {
            self.more_warnings += 1;
        }
    }

    /// The warnings that are kept, and one for those that are not.
    fn all_warnings(&self) -> Vec<Cow<'_, str>> {
        let kept = self.warnings.iter().map(|w| Cow::Borrowed(w.as_str()));
        let more = (self.more_warnings > 0)
            .then(|| Cow::Owned(format!("imageswap: {} more warnings", self.more_warnings)));
        kept.chain(more).collect()
    }
}

/// Why an object that is understood is not to be touched, if it is so.
fn why_left_alone(
    workload: &Workload<'_>,
    scope: &Scope<'_>,
    request: &Request<'_>,
    path: &[&str],
) -> Option<Skip> {
    // Of an update of a Pod's ephemeral containers kube-apiserver drops all else, after this: a label or an
    // annotation in it is no Pod's.
    let is_disabled = match scope {
        Scope::NewEphemeral(old) => old.is_disabled,
        _ => workload.is_disabled,
    };
    if is_disabled {
        return Some(Skip::Label);
    }
    if workload.is_mirror && path.is_empty() && !request.is_ephemeral() {
        return Some(Skip::Mirror);
    }
    let is_owned = workload.is_controlled && request.is_compared_by_its_owner();
    is_owned.then_some(Skip::Owned)
}

/// Which images of an object are ours to decide in this request.
enum Scope<'a> {
    /// All: the object is new, or a template.
    All,
    /// `pods/ephemeralcontainers`: the entries that were not there. The server refuses a change of
    /// those that were, and ignores everything else.
    NewEphemeral(Old<'a>),
    /// UPDATE of a Pod or a Job: images that are not as they were.
    Changed(Old<'a>),
    /// None, because it can't be known what was there.
    Nothing,
}

/// An object before the update.
struct Old<'a> {
    /// Its images, by list and name.
    images: HashMap<(List, String), Image<'a>>,
    is_disabled: bool,
}

impl<'a> Scope<'a> {
    fn of(request: &mut Request<'a>, path: &[&str], disable_label: &str) -> Self {
        if !request.keeps_images(path) {
            return Self::All;
        }
        match old(request.old_object.take(), path, disable_label) {
            None => Self::Nothing,
            Some(old) if request.is_ephemeral() => Self::NewEphemeral(old),
            Some(old) => Self::Changed(old),
        }
    }

    fn covers(&self, entry: &Entry<'_>) -> bool {
        let key = || {
            let name = entry.name.as_deref().unwrap_or_default();
            (entry.list, name.to_owned())
        };
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::NewEphemeral(old) => {
                entry.list == List::EphemeralContainers && !old.images.contains_key(&key())
            }
            Self::Changed(old) => old.images.get(&key()) != Some(&entry.image),
        }
    }
}

/// `None` if there is no old object that can be read.
fn old<'a>(object: Option<Object<'a>>, path: &[&str], disable_label: &str) -> Option<Old<'a>> {
    let object = object.filter(|object| object.is_map())?;
    let workload = object.workload(path, disable_label).ok()?;
    let entries = workload.entries.into_iter();
    let images = entries.map(|entry| {
        let name = entry.name.unwrap_or_default().into_owned();
        ((entry.list, name), entry.image)
    });
    (!workload.is_too_long).then(|| Old {
        images: images.collect(),
        is_disabled: workload.is_disabled,
    })
}
