//! What is read of an AdmissionReview: only what is needed, borrowed from the body.
//!
//! What is written as kube-apiserver would is read by `brief` in one pass; all else, and so each error, is
//! `serde_json`'s.
//!
//! Source: `admission.k8s.io/v1` and `v1beta1`, which name these fields alike. kube-apiserver's own
//! types stay out of here: they read whole objects, at fifty times the allocations.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use super::object::Workload;
use super::shapes::Text;
use super::slots::{is_compared_by_its_owner, pod_path};
use crate::text::shortened;

/// An AdmissionReview that can be answered.
#[derive(Debug)]
pub(super) struct Review<'a> {
    pub(super) version: Version,
    pub(super) request: Request<'a>,
}

/// The versions that are spoken; a review is answered in its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V1Beta1,
}

/// The request in a review.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) uid: Cow<'a, str>,
    group: Cow<'a, str>,
    kind: Cow<'a, str>,
    pub(super) operation: Operation,
    sub_resource: Cow<'a, str>,
    pub(super) object: Option<Object<'a>>,
    pub(super) old_object: Option<Object<'a>>,
    /// As of [`RawRequest`].
    pub(super) duplicate: Option<&'static str>,
}

/// An object that may hold images.
#[derive(Debug)]
pub(super) enum Object<'a> {
    /// What was read of it: it is a map.
    Read(Workload<'a>),
    /// As it stands in the body.
    Text(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Update,
    Other,
}

/// Why a body can't be answered: it is no AdmissionReview. Each is one sentence for HTTP 400.
#[derive(Debug, thiserror::Error)]
pub enum BadReview {
    /// Not UTF-8, so not JSON.
    #[error("the body is not JSON: byte {0} is not UTF-8")]
    NotUtf8(usize),
    /// No JSON.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// JSON of another shape.
    #[error("the body is not an AdmissionReview: {0}")]
    Shape(String),
    /// JSON of another kind.
    #[error("the body is not an AdmissionReview: its kind is {0:?}")]
    Kind(String),
    /// A version that is not spoken.
    #[error(
        "the AdmissionReview is of version {0:?}; admission.k8s.io/v1 and admission.k8s.io/v1beta1 are spoken"
    )]
    Version(String),
    /// A response, or nothing.
    #[error("the AdmissionReview has no request")]
    NoRequest,
    /// Nothing to answer to.
    #[error("the AdmissionReview has no request.uid")]
    NoUid,
}

impl BadReview {
    /// A label for metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotUtf8(_) | Self::NotJson(_) => "not_json",
            Self::Shape(_) | Self::Kind(_) => "not_a_review",
            Self::Version(_) => "version",
            Self::NoRequest => "no_request",
            Self::NoUid => "no_uid",
        }
    }
}

// === what serde reads ===

/// `O` is an object.
#[derive(Deserialize)]
#[serde(
    bound(deserialize = "O: Deserialize<'de>"),
    expecting = "an AdmissionReview"
)]
pub(super) struct RawReview<'a, O> {
    #[serde(borrow)]
    pub(super) kind: Option<Text<'a>>,
    #[serde(borrow, rename = "apiVersion")]
    pub(super) api_version: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) request: Option<RawRequest<'a, O>>,
}

pub(super) struct RawRequest<'a, O> {
    pub(super) uid: Option<Text<'a>>,
    pub(super) kind: Option<RawKind<'a>>,
    pub(super) operation: Option<Text<'a>>,
    pub(super) sub_resource: Option<Text<'a>>,
    pub(super) object: Option<O>,
    pub(super) old_object: Option<O>,
    /// A key that appears twice, and decides what there is to swap.
    pub(super) duplicate: Option<&'static str>,
}

#[derive(Deserialize)]
pub(super) struct RawKind<'a> {
    #[serde(borrow)]
    pub(super) group: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) kind: Option<Text<'a>>,
}

// === impl RawRequest ===

impl<'de: 'a, 'a, O: Deserialize<'de>> Deserialize<'de> for RawRequest<'a, O> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(RequestVisitor(PhantomData))
    }
}

struct RequestVisitor<O>(PhantomData<O>);

impl<'de, O: Deserialize<'de>> Visitor<'de> for RequestVisitor<O> {
    type Value = RawRequest<'de, O>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request")
    }

    /// Of a key that appears twice the last counts.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut request = RawRequest {
            uid: None,
            kind: None,
            operation: None,
            sub_resource: None,
            object: None,
            old_object: None,
            duplicate: None,
        };
        while let Some(Text(key)) = map.next_key()? {
            let duplicate = match key.as_ref() {
                "uid" => {
                    request.uid = map.next_value()?;
                    None
                }
                "kind" => put(&mut request.kind, map.next_value()?, "kind"),
                "operation" => put(&mut request.operation, map.next_value()?, "operation"),
                "subResource" => put(&mut request.sub_resource, map.next_value()?, "subResource"),
                "object" => put(&mut request.object, map.next_value()?, "object"),
                "oldObject" => put(&mut request.old_object, map.next_value()?, "oldObject"),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    None
                }
            };
            request.duplicate = request.duplicate.or(duplicate);
        }
        Ok(request)
    }
}

/// Puts a value in its place, and gives back its key if another was there.
fn put<T>(place: &mut Option<T>, value: Option<T>, key: &'static str) -> Option<&'static str> {
    let before = std::mem::replace(place, value);
    before.map(|_| key)
}

// === impl Review ===

impl<'a> Review<'a> {
    /// Reads any review.
    pub(super) fn parse_by_serde(text: &'a str) -> Result<Self, BadReview> {
        let raw: RawReview<'a, &'a RawValue> =
            serde_json::from_str(text).map_err(|error| match error.classify() {
                Category::Data => BadReview::Shape(said(&error)),
                Category::Io | Category::Syntax | Category::Eof => BadReview::NotJson(said(&error)),
            })?;
        Self::of(raw, text, |raw| Object::Text(raw.get()))
    }

    /// Makes a review of what was read of it.
    pub(super) fn of<O>(
        raw: RawReview<'a, O>,
        text: &str,
        object: impl Fn(O) -> Object<'a>,
    ) -> Result<Self, BadReview> {
        let kind = text_of(raw.kind);
        // serde reads a struct from an array, too.
        if kind != "AdmissionReview" || !text.trim_start().starts_with('{') {
            return Err(BadReview::Kind(shortened(&kind, 60).to_owned()));
        }
        let version = match text_of(raw.api_version).as_ref() {
            "admission.k8s.io/v1" => Version::V1,
            "admission.k8s.io/v1beta1" => Version::V1Beta1,
            other => return Err(BadReview::Version(shortened(other, 60).to_owned())),
        };
        let request = raw.request.ok_or(BadReview::NoRequest)?;
        let uid = text_of(request.uid);
        if uid.is_empty() {
            return Err(BadReview::NoUid);
        }
        let (group, kind) = request.kind.map_or_else(Default::default, |kind| {
            (text_of(kind.group), text_of(kind.kind))
        });
        Ok(Self {
            version,
            request: Request {
                uid,
                group,
                kind,
                operation: Operation::parse(&text_of(request.operation)),
                sub_resource: text_of(request.sub_resource),
                object: request.object.map(&object),
                old_object: request.old_object.map(&object),
                duplicate: request.duplicate,
            },
        })
    }
}

fn text_of(text: Option<Text<'_>>) -> Cow<'_, str> {
    text.map(|text| text.0).unwrap_or_default()
}

/// What serde says, which may quote all of the body.
fn said(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let start = shortened(&text, 160);
    if start.len() == text.len() {
        return text;
    }
    format!(
        "{start}… at line {} column {}",
        error.line(),
        error.column()
    )
}

// === impl Object ===

impl<'a> Object<'a> {
    /// What holds images in it; see [`Workload::read`].
    pub(super) fn workload(
        self,
        path: &[&str],
        disable_label: &str,
    ) -> Result<Workload<'a>, serde_json::Error> {
        match self {
            Self::Read(workload) => Ok(workload),
            Self::Text(text) => Workload::read(text, path, disable_label),
        }
    }

    pub(super) fn is_map(&self) -> bool {
        match self {
            Self::Read(_) => true,
            Self::Text(text) => text.starts_with('{'),
        }
    }
}

// === impl Request ===

impl Request<'_> {
    /// The way from the object to its pod; `None` if the request carries no images of ours.
    pub(super) fn pod_path(&self) -> Option<&'static [&'static str]> {
        path_to_pod(&self.group, &self.kind, self.operation, &self.sub_resource)
    }

    /// As [`keeps_images`], of an update.
    pub(super) fn keeps_images(&self, path: &[&str]) -> bool {
        self.operation == Operation::Update && keeps_images(path, &self.kind)
    }

    /// As [`is_compared_by_its_owner`].
    pub(super) fn is_compared_by_its_owner(&self) -> bool {
        is_compared_by_its_owner(&self.kind)
    }

    pub(super) fn is_ephemeral(&self) -> bool {
        self.sub_resource == "ephemeralcontainers"
    }
}

/// As [`Request::pod_path`], of the parts that decide.
pub(super) fn path_to_pod(
    group: &str,
    kind: &str,
    operation: Operation,
    sub_resource: &str,
) -> Option<&'static [&'static str]> {
    let is_ours = match (operation, sub_resource) {
        (Operation::Create | Operation::Update, "") => true,
        (Operation::Update, "ephemeralcontainers") => true,
        // A status, a scale or a resize may carry a whole object, of which the server takes no
        // image.
        _ => false,
    };
    let path = pod_path(group, kind).filter(|_| is_ours)?;
    (sub_resource.is_empty() || path.is_empty()).then_some(path)
}

/// Whether an update may touch no image that it does not change: that restarts a container of a Pod, and
/// kube-apiserver refuses any change of a Job's template.
pub(super) fn keeps_images(path: &[&str], kind: &str) -> bool {
    path.is_empty() || kind == "Job"
}

impl Operation {
    pub(super) fn parse(operation: &str) -> Self {
        match operation {
            // 1.5.3 did not look at the operation; who leaves it out means a new object.
            "CREATE" | "" => Self::Create,
            "UPDATE" => Self::Update,
            _ => Self::Other,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Other => "other",
        }
    }
}

impl Version {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "admission.k8s.io/v1",
            Self::V1Beta1 => "admission.k8s.io/v1beta1",
        }
    }
}
