//! A review as kube-apiserver writes it, read in one pass: when its object comes, it is known already
//! what of it is wanted.
//!
//! What is written otherwise is an error here, and read by [`wire`](super::wire) with `serde_json`.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::object::Workload;
use super::shapes::Text;
use super::skim::{Marked, NotHere, Skimmer};
use super::wire::{Object, Operation, RawKind, RawRequest, RawReview, keeps_images, path_to_pod};

/// The way from an object to its pod.
type Path = &'static [&'static str];

/// Reads a review.
///
/// # Errors
/// It is not written as kube-apiserver would, be it valid or not.
pub(super) fn read<'a>(
    text: &'a str,
    disable_label: &str,
) -> Result<RawReview<'a, Object<'a>>, NotHere> {
    let marked = Marked::of(text);
    let mut reader = Skimmer::new(&marked);
    let review = reader.deserialize_struct("", &[], ReviewVisitor { disable_label })?;
    if reader.is_at_end() {
        Ok(review)
    } else {
        Err(NotHere)
    }
}

/// Puts a value in its place, once.
fn once<T, E: serde::de::Error>(place: &mut Option<T>, value: T) -> Result<(), E> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom("a key stands twice")),
    }
}

struct ReviewVisitor<'l> {
    disable_label: &'l str,
}

impl<'de> Visitor<'de> for ReviewVisitor<'_> {
    type Value = RawReview<'de, Object<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an AdmissionReview")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut kind, mut api_version, mut request) = (None, None, None);
        while let Some(Text(key)) = map.next_key()? {
            match key.as_ref() {
                "kind" => once(&mut kind, map.next_value::<Text<'de>>()?)?,
                "apiVersion" => once(&mut api_version, map.next_value::<Text<'de>>()?)?,
                "request" => {
                    let disable_label = self.disable_label;
                    let seed = RequestVisitor { disable_label };
                    once(&mut request, map.next_value_seed(seed)?)?;
                }
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(RawReview {
            kind,
            api_version,
            request,
        })
    }
}

struct RequestVisitor<'l> {
    disable_label: &'l str,
}

impl<'de> DeserializeSeed<'de> for RequestVisitor<'_> {
    type Value = RawRequest<'de, Object<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_struct("", &[], self)
    }
}

impl<'de> Visitor<'de> for RequestVisitor<'_> {
    type Value = RawRequest<'de, Object<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut uid, mut kind, mut operation, mut sub_resource) = (None, None, None, None);
        let (mut object, mut old_object) = (None, None);
        while let Some(Text(key)) = map.next_key()? {
            let key = key.as_ref();
            // What decides how an object is read must stand before it.
            let decides = matches!(key, "kind" | "operation" | "subResource");
            if decides && (object.is_some() || old_object.is_some()) {
                return Err(serde::de::Error::custom("an object stands too early"));
            }
            match key {
                "uid" => once(&mut uid, map.next_value::<Text<'de>>()?)?,
                "kind" => once(&mut kind, map.next_value::<RawKind<'de>>()?)?,
                "operation" => once(&mut operation, map.next_value::<Text<'de>>()?)?,
                "subResource" => once(&mut sub_resource, map.next_value::<Text<'de>>()?)?,
                "object" | "oldObject" => {
                    let is_old = key == "oldObject";
                    let path = wanted(kind.as_ref(), operation.as_ref(), sub_resource.as_ref());
                    let seed = ObjectSeed {
                        path: path.filter(|path| {
                            !is_old || is_old_wanted(path, kind.as_ref(), operation.as_ref())
                        }),
                        disable_label: self.disable_label,
                    };
                    let place = if is_old { &mut old_object } else { &mut object };
                    once(place, map.next_value_seed(seed)?)?;
                }
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(RawRequest {
            uid,
            kind,
            operation,
            sub_resource,
            object: object.flatten(),
            old_object: old_object.flatten(),
            duplicate: None,
        })
    }
}

/// The way to the pod, if the request carries images of ours.
fn wanted(
    kind: Option<&RawKind<'_>>,
    operation: Option<&Text<'_>>,
    sub_resource: Option<&Text<'_>>,
) -> Option<Path> {
    path_to_pod(
        said(kind.and_then(|kind| kind.group.as_ref())),
        said(kind.and_then(|kind| kind.kind.as_ref())),
        Operation::parse(said(operation)),
        said(sub_resource),
    )
}

fn said<'t>(text: Option<&'t Text<'_>>) -> &'t str {
    text.map_or("", |text| &text.0)
}

/// What was there only counts where images that stay as they are must not be touched.
fn is_old_wanted(path: Path, kind: Option<&RawKind<'_>>, operation: Option<&Text<'_>>) -> bool {
    let kind = said(kind.and_then(|kind| kind.kind.as_ref()));
    said(operation) == "UPDATE" && keeps_images(path, kind)
}

/// Reads an object, if it is wanted: if there is a path to a pod.
struct ObjectSeed<'l> {
    path: Option<Path>,
    disable_label: &'l str,
}

impl<'de> DeserializeSeed<'de> for ObjectSeed<'_> {
    type Value = Option<Object<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed<'_> {
    type Value = Option<Object<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        let Some(path) = self.path else {
            json.deserialize_ignored_any(IgnoredAny)?;
            return Ok(None);
        };
        let workload = Workload::read_map(json, path, self.disable_label)?;
        Ok(Some(Object::Read(workload)))
    }
}
