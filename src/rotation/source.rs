//! Who brings the pair, and so what of it may be written. Pure.

/// Where a pair comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// The Secret that is ours: the leader mints it, and keeps the caBundle right.
    #[default]
    Minted,
    /// The Secret, which somebody else keeps and has annotated as 1.5.3 has it: only the caBundle
    /// is written.
    Annotated,
    /// Files, one of them the CA: only the caBundle is written.
    Files,
    /// Files without a CA: nothing is written, for somebody else injects the caBundle.
    FilesAlone,
}

impl Source {
    /// What it is called in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minted => "the Secret",
            Self::Annotated => "the Secret with the annotation imageswap-byoc",
            Self::Files | Self::FilesAlone => "what --tls-cert and --tls-key name",
        }
    }

    /// What to do about a pair that can't be served.
    pub fn help_if_bad(self) -> &'static str {
        match self {
            Self::Minted => "the leader replaces it if need be",
            Self::Annotated => {
                "correct tls.crt and tls.key in imageswap-tls, and rootca.pem in imageswap-tls-ca, \
                 or take the annotation away"
            }
            Self::Files => "correct the files; --tls-ca is what kube-apiserver shall trust",
            Self::FilesAlone => "correct the files",
        }
    }

    /// What to do about a pair that is served and ends soon.
    pub fn help_if_it_ends(self) -> &'static str {
        match self {
            Self::Minted => {
                "it should have been renewed: see the leader's log for what keeps it from it"
            }
            Self::Annotated | Self::Files | Self::FilesAlone => {
                "renew it where it comes from (docs/install.md)"
            }
        }
    }

    /// What to do about a pair that is served and that the caBundle does not trust; `is_ours` is
    /// whether the caBundles are ours to write.
    pub fn help_if_not_trusted(self, is_ours: bool) -> &'static str {
        match self {
            Self::Minted | Self::Annotated | Self::Files if is_ours => {
                "the leader writes the caBundle"
            }
            Self::Minted => {
                "with --patch-ca-bundle false nobody but you writes the caBundle: add what is in \
                 ca.crt of the Secret"
            }
            Self::Annotated | Self::Files => {
                "with --patch-ca-bundle false nobody but you writes the caBundle: add the CA of what \
                 you brought"
            }
            Self::FilesAlone => {
                "nobody but you writes the caBundle: let cert-manager do so (the annotation \
                 cert-manager.io/inject-ca-from), or name the CA with --tls-ca"
            }
        }
    }
}
