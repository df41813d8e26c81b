//! The proxy on a person's way to kube-apiserver. kube takes the kubeconfig's, else what `HTTPS_PROXY` says, and knows no
//! `NO_PROXY`; here the environment counts as it does for kubectl. Replicas have no proxy.

use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::Config;
use kube::config::Kubeconfig;

/// Of the proxy that kube found in the environment, if it is one: none where it does not count, and else a whole address.
pub(super) fn settle(config: &mut Config) {
    if is_in_kubeconfig() {
        return;
    }
    let set = |name| std::env::var(name).ok().filter(|list| !list.is_empty());
    let exempt = set("NO_PROXY").or_else(|| set("no_proxy"));
    let exempt = exempt.unwrap_or_default();
    let proxy = config.proxy_url.take();
    let counts = |_: &Uri| !is_exempt(&config.cluster_url, &exempt);
    config.proxy_url = proxy.filter(counts).map(with_scheme);
}

/// Whether the kubeconfig names one itself, which nothing exempts a host from.
fn is_in_kubeconfig() -> bool {
    let named = || {
        let all = Kubeconfig::read().ok()?;
        let current = all.current_context?;
        let context = all.contexts.into_iter().find(|one| one.name == current);
        let cluster = context?.context?.cluster;
        let cluster = all.clusters.into_iter().find(|one| one.name == cluster);
        cluster?.cluster?.proxy_url.filter(|url| !url.is_empty())
    };
    named().is_some()
}

/// By the rules of Go's `http.ProxyFromEnvironment`: this machine always; hosts and all below them, addresses and
/// networks, with or without a port; `*`.
fn is_exempt(server: &Uri, list: &str) -> bool {
    let host = server.host().unwrap_or_default();
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let is_here = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    let port = format!(":{}", server.port_u16().unwrap_or(443));
    let entries = list.split(',').map(str::trim).map(|entry| {
        let is_address = entry.parse::<IpAddr>().is_ok();
        let entry = entry
            .strip_suffix(&port)
            .filter(|_| !is_address)
            .unwrap_or(entry);
        let below = entry.strip_prefix('*').filter(|rest| rest.starts_with('.'));
        below.unwrap_or(entry).trim_matches(['[', ']'])
    });
    let entries: Vec<_> = entries.collect();
    let any = Matcher::builder().all("http://any").no(entries.join(","));
    is_here || entries.contains(&"*") || any.build().intercept(server).is_none()
}

/// Without a scheme it is `http://`, as for all others.
fn with_scheme(proxy: Uri) -> Uri {
    match proxy.scheme() {
        Some(_) => proxy,
        None => format!("http://{proxy}").parse().unwrap_or(proxy),
    }
}

/// Where it is, without a password.
pub(super) fn shown(proxy: &Uri) -> String {
    let scheme = proxy.scheme_str().map(|scheme| format!("{scheme}://"));
    let port = proxy.port_u16().map(|port| format!(":{port}"));
    let host = proxy.host().unwrap_or_default();
    [
        scheme.unwrap_or_default(),
        host.to_owned(),
        port.unwrap_or_default(),
    ]
    .concat()
}

/// Why there is no client, and the way out if it is the kind of proxy.
pub(super) fn refusal(error: &kube::Error) -> String {
    match error {
        kube::Error::ProxyProtocolDisabled { proxy_url, .. }
        | kube::Error::ProxyProtocolUnsupported { proxy_url } => format!(
            "the proxy {} is not one with http:// or https:// (proxy-url in the kubeconfig, else HTTPS_PROXY); name such \
             a one, exempt the host by NO_PROXY or unset the variable, or run this in a replica: \
             `kubectl -n NAMESPACE exec deployment/imageswap -- /imageswap …`",
            shown(proxy_url)
        ),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_exempts_hosts_as_for_kubectl() {
        let name = "https://api.corp.example:6443";
        for (server, list, expected) in [
            (name, "", false),
            (name, "api.corp.example", true),
            (name, "API.corp.example", true),
            (name, "corp.example", true),
            (name, ".corp.example", true),
            (name, "*.corp.example", true),
            (name, "other.example, .corp.example", true),
            (name, "rp.example", false),
            (name, "pi.corp.example", false),
            (name, "*", true),
            (name, "corp.example:6443", true),
            (name, "corp.example:443", false),
            ("https://corp.example", "corp.example:443", true),
            ("https://10.1.2.3", "*", true),
            ("https://10.1.2.3", "10.1.2.3", true),
            ("https://10.1.2.3", "10.0.0.0/8", true),
            ("https://10.1.2.3", "10.2.0.0/16,10.1.2.30", false),
            ("https://10.1.2.3:6443", "10.1.2.3:6443", true),
            ("https://[fd00::443]", "fd00::443", true),
            ("https://[fd00::1]:443", "[fd00::1]:443", true),
            ("https://[fd00::1]", "fd00::/8", true),
            ("https://[fd00::1]", "fd01::/16", false),
            // Of kind and minikube, whatever is exempt.
            ("https://127.0.0.1:40123", "", true),
            ("https://[::1]:40123", "", true),
            ("https://localhost:40123", "", true),
        ] {
            let found = is_exempt(&server.parse().unwrap(), list);
            assert_eq!(found, expected, "{server} {list:?}");
        }
    }

    #[test]
    fn a_proxy_without_a_scheme_is_one_of_http_and_no_password_is_shown() {
        for (proxy, expected) in [
            ("proxy.corp:3128", "http://proxy.corp:3128"),
            ("proxy", "http://proxy"),
            ("https://proxy:3128/", "https://proxy:3128"),
            ("http://me:secret@proxy:3128", "http://proxy:3128"),
            ("me:secret@proxy:3128", "http://proxy:3128"),
            ("socks5://[::1]:1080", "socks5://[::1]:1080"),
        ] {
            let found = shown(&with_scheme(proxy.parse().unwrap()));
            assert_eq!(found, expected, "{proxy}");
        }
    }
}
