//! What became of an image, and by which rule.

use super::book::Kind;
use crate::image;
use crate::text::{shortened, visible};

/// What became of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<'m> {
    /// The new image, or why it stays as it is.
    pub outcome: Result<String, Why<'m>>,
    /// The rule that decided, if one did.
    pub rule: Option<RuleRef<'m>>,
}

/// A rule, as a person finds it in the map file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleRef<'m> {
    /// Its form.
    pub kind: Kind,
    /// Its line, counted from 1; `None` for a prefix in LEGACY mode.
    pub line: Option<usize>,
    /// The line as written, without comment.
    pub text: &'m str,
}

/// Why an image stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why<'m> {
    /// It is no image reference, so no rule was tried.
    NotAReference(image::Error),
    /// The rule's result would be no image reference.
    BadResult {
        /// What the rule made of the image.
        result: String,
        /// What is wrong with it.
        error: image::Error,
    },
    /// The rule's result is the image itself.
    Same,
    /// The rule has no value: do not swap.
    NoValue,
    /// An item of `noswap_wildcards` is in the image.
    Noswap,
    /// The image is where this rule would put it; only `default` looks at that.
    AtTarget(RuleRef<'m>),
    /// No rule matches, and there is no `default`.
    NoRule,
    /// LEGACY mode: the image contains the prefix.
    HasPrefix,
    /// LEGACY mode: the prefix is empty.
    NoPrefix,
}

/// A rule, or a group of rules, that was tried in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried<'a> {
    /// No `[EXACT]` line names the image.
    Exact,
    /// None of this many patterns matches, without those that can match nothing or are left out.
    Replace(usize),
    /// There is no such registry key.
    Registry(&'a str),
    /// The image contains none of these items.
    Noswap(&'a [String]),
}

impl<'m> Verdict<'m> {
    pub(super) fn swapped(image: String, rule: Option<RuleRef<'m>>) -> Self {
        Self {
            outcome: Ok(image),
            rule,
        }
    }

    pub(super) fn kept(why: Why<'m>, rule: Option<RuleRef<'m>>) -> Self {
        Self {
            outcome: Err(why),
            rule,
        }
    }

    /// The new image, if it is another.
    pub fn image(&self) -> Option<&str> {
        self.outcome.as_deref().ok()
    }

    /// Whether the image, or what a rule made of it, is no image reference.
    pub fn is_invalid(&self) -> bool {
        matches!(
            self.outcome,
            Err(Why::NotAReference(_) | Why::BadResult { .. })
        )
    }

    /// If the image or its result is no reference: why, and by which line of the map file.
    pub fn why_invalid(&self) -> Option<String> {
        let why = self.outcome.as_ref().err().filter(|_| self.is_invalid())?;
        let line = self.rule.and_then(|rule| rule.line);
        Some(match line {
            Some(line) => format!("{why} (line {line} of the map file)"),
            None => why.to_string(),
        })
    }

    /// The kind of rule that decided, `invalid` or `none`: a label for metrics and machines.
    pub fn kind(&self) -> &'static str {
        if self.is_invalid() {
            return "invalid";
        }
        self.rule.map_or("none", |rule| rule.kind.as_str())
    }
}

impl Kind {
    /// The name that machines read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Replace => "replace",
            Self::Registry => "registry",
            Self::Noswap => "noswap",
            Self::Default => "default",
            Self::Legacy => "legacy",
        }
    }
}

impl std::fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAReference(error) => write!(f, "this is no image reference: {error}"),
            Self::BadResult { result, error } => {
                let result = shortened(result, 100);
                write!(
                    f,
                    "the rule's result is no image reference: {error}: {result:?}"
                )
            }
            Self::Same => f.write_str("the rule's result is the image itself"),
            Self::NoValue => f.write_str("the rule has no value, so nothing is swapped"),
            Self::Noswap => f.write_str("the image contains an item of noswap_wildcards"),
            Self::AtTarget(target) => {
                let rule = visible(target.text);
                write!(f, "the image is already where {rule} puts it")
            }
            Self::NoRule => f.write_str("no rule matches, and there is no default line"),
            Self::HasPrefix => f.write_str("the image contains the prefix already"),
            Self::NoPrefix => f.write_str("IMAGE_PREFIX is empty, so nothing is swapped"),
        }
    }
}
