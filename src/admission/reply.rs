//! The AdmissionReview that goes back: verdict, patch, warnings, audit annotations.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::slots::List;
use super::wire::Review;
use crate::maps::RuleRef;

/// One audit annotation an image, as long as a person would read them.
const MAX_ANNOTATIONS: usize = 64;

/// The longest name in an annotation's key (Kubernetes' qualified names).
const MAX_KEY: usize = 63;

/// One image that is swapped.
#[derive(Debug)]
pub(super) struct Swap<'a> {
    /// The way from the object to its pod.
    pub(super) path: &'static [&'static str],
    pub(super) list: List,
    pub(super) index: usize,
    pub(super) name: Option<Cow<'a, str>>,
    pub(super) from: Cow<'a, str>,
    pub(super) to: String,
    pub(super) rule: Option<RuleRef<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    // Both or neither, says v1.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Cow<'a, str>>,
}

#[derive(Serialize)]
struct Operation<'a> {
    op: &'static str,
    path: String,
    value: &'a str,
}

pub(super) fn write(
    review: &Review<'_>,
    swaps: &[Swap<'_>],
    warnings: Vec<Cow<'_, str>>,
) -> Vec<u8> {
    let patch = (!swaps.is_empty()).then(|| STANDARD.encode(patch(swaps)));
    json(&Envelope {
        api_version: review.version.as_str(),
        kind: "AdmissionReview",
        response: Response {
            uid: &review.request.uid,
            allowed: true,
            patch_type: patch.is_some().then_some("JSONPatch"),
            patch,
            audit_annotations: annotations(swaps),
            warnings,
        },
    })
}

/// Only `replace`, and only where the request has an image: it can't fail to apply.
fn patch(swaps: &[Swap<'_>]) -> Vec<u8> {
    let operations: Vec<_> = swaps
        .iter()
        .map(|swap| Operation {
            op: "replace",
            path: swap.pointer(),
            value: &swap.to,
        })
        .collect();
    json(&operations)
}

/// Structs of texts always serialise.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

impl Swap<'_> {
    /// The JSON pointer of the image. No part of it needs escaping.
    fn pointer(&self) -> String {
        let mut pointer = String::with_capacity(64);
        let to_pod = self.path.iter().copied();
        for step in to_pod.chain(["spec", self.list.key()]) {
            pointer.push('/');
            pointer.push_str(step);
        }
        pointer.push('/');
        pointer.push_str(&self.index.to_string());
        for step in self.list.image_path() {
            pointer.push('/');
            pointer.push_str(step);
        }
        pointer
    }

    /// By name and not by index, for a sidecar may be put before it between two calls.
    fn annotation_key(&self) -> String {
        let name = match &self.name {
            Some(name) if !name.is_empty() => name.as_ref(),
            _ => return format!("{}.{}", self.list.key(), self.index),
        };
        let key = format!("{}.{name}", self.list.key());
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let ends_well = key.ends_with(|c: char| c.is_ascii_alphanumeric());
        if key.len() <= MAX_KEY && ends_well && key.chars().all(is_plain) {
            return key;
        }
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let hash = format!("-{:016x}", hasher.finish());
        let mut plain: String = key
            .chars()
            .take(MAX_KEY - hash.len())
            .map(|c| if is_plain(c) { c } else { '-' })
            .collect();
        plain.push_str(&hash);
        plain
    }

    fn annotation(&self) -> String {
        let (from, to) = (&self.from, &self.to);
        match self.rule {
            Some(RuleRef {
                line: Some(line),
                text,
                ..
            }) => format!("{from} => {to} by {text} (line {line})"),
            Some(RuleRef { text, .. }) => format!("{from} => {to} by IMAGE_PREFIX {text}"),
            None => format!("{from} => {to}"),
        }
    }
}

/// What was swapped and by which rule. An image that is not swapped, because it was in an earlier
/// call for the same object, has none: the server keeps the first value of a key.
fn annotations(swaps: &[Swap<'_>]) -> BTreeMap<String, String> {
    let shown = swaps.iter().take(MAX_ANNOTATIONS);
    shown
        .map(|swap| (swap.annotation_key(), swap.annotation()))
        .collect()
}
