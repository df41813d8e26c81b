//! Looking into objects of Kubernetes: what is not there is null.

use serde_json::Value;

/// What a pointer such as `/metadata/name` leads to.
pub fn at<'v>(object: &'v Value, pointer: &str) -> &'v Value {
    object.pointer(pointer).unwrap_or(&Value::Null)
}

/// The text there; empty if there is none.
pub fn text_at<'v>(object: &'v Value, pointer: &str) -> &'v str {
    at(object, pointer).as_str().unwrap_or_default()
}
