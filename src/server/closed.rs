//! Why a connection ended.

/// Why a connection ended, as `imageswap_connections_closed_total` counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Its peer or we had no more to say.
    Done,
    /// The peer took too long.
    Late,
    /// Its place was needed for another, or there was none.
    Evicted,
    /// It broke off.
    Broken,
    /// The TLS handshake came to nothing.
    NoTls,
    /// What came is no HTTP.
    NotHttp,
}

impl Closed {
    /// Each once.
    pub const ALL: [Self; Self::NotHttp as usize + 1] = [
        Self::Done,
        Self::Late,
        Self::Evicted,
        Self::Broken,
        Self::NoTls,
        Self::NotHttp,
    ];

    /// A label for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Late => "late",
            Self::Evicted => "evicted",
            Self::Broken => "broken",
            Self::NoTls => "no_tls",
            Self::NotHttp => "not_http",
        }
    }
}
