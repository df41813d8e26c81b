//! The proxy on a person's way to kube-apiserver: the kubeconfig's, else the environment's, which counts as it does for
//! kubectl. kube takes `HTTPS_PROXY` for any API, and knows no `NO_PROXY`. Unlike kubectl's, a call to an API without TLS is
//! tunnelled, too. Replicas have no proxy.

use std::net::IpAddr;

use http::{HeaderValue, Response, Uri};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioExecutor;
use kube::Config;
use kube::client::{Body, ClientBuilder, ConfigExt as _, DynBody};
use kube::config::{Cluster, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tower::util::BoxService;
use tower::{BoxError, ServiceBuilder, ServiceExt as _};

/// What the kubeconfig says of the API and of the way to it, else the Pod.
///
/// # Errors
/// Neither says what can be used, or the proxy's address is none.
pub(super) async fn config() -> Result<Config, String> {
    let infer = async || Config::infer().await.map_err(|error| error.to_string());
    let Ok(mut kubeconfig) = Kubeconfig::read() else {
        return infer().await;
    };
    let cluster = cluster(&mut kubeconfig);
    let unnamed = cluster.filter(|one| one.proxy_url.as_deref().is_none_or(str::is_empty));
    let is_unnamed = unnamed.is_some();
    if let Some(cluster) = unnamed {
        // With any name here kube does not look at the environment.
        cluster.proxy_url = Some("http://unnamed".to_owned());
    }
    let options = KubeConfigOptions::default();
    let mut config = match Config::from_custom_kubeconfig(kubeconfig, &options).await {
        Ok(config) => config,
        Err(KubeconfigError::ParseProxyUrl(error)) => {
            return Err(format!(
                "proxy-url in the kubeconfig is no address ({error}); {WAY_OUT}"
            ));
        }
        Err(_) => return infer().await,
    };
    config.apply_debug_overrides();
    if is_unnamed {
        config.proxy_url = of_environment(&config.cluster_url)?;
        let exec = config.auth_info.exec.as_mut();
        if let Some(told) = exec.and_then(|exec| exec.cluster.as_mut()) {
            told.proxy_url = None;
        }
    }
    Ok(config)
}

/// The one of the current context.
fn cluster(kubeconfig: &mut Kubeconfig) -> Option<&mut Cluster> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|one| one.name == *current);
    let name = &context?.context.as_ref()?.cluster;
    let cluster = kubeconfig.clusters.iter_mut().find(|one| one.name == *name);
    cluster?.cluster.as_mut()
}

/// The environment's proxy on the way to this API.
fn of_environment(server: &Uri) -> Result<Option<Uri>, String> {
    let set = |names: [&'static str; 2]| {
        let values = names.map(|name| (name, std::env::var(name).unwrap_or_default()));
        values.into_iter().find(|(_, value)| !value.is_empty())
    };
    let exempt = set(["NO_PROXY", "no_proxy"]);
    let names = match is_plain(server) {
        true => ["HTTP_PROXY", "http_proxy"],
        false => ["HTTPS_PROXY", "https_proxy"],
    };
    match set(names) {
        Some((name, proxy)) if !is_exempt(server, &exempt.unwrap_or_default().1) => {
            // The value may hold a password.
            let parsed = with_scheme(&proxy).parse();
            let refusal = |error| format!("{name} is no address ({error}); {WAY_OUT}");
            parsed.map(Some).map_err(refusal)
        }
        _ => Ok(None),
    }
}

fn is_plain(server: &Uri) -> bool {
    server.scheme() == Some(&http::uri::Scheme::HTTP)
}

/// By the rules of Go's `http.ProxyFromEnvironment`: this machine always; hosts and all below them, or with a dot before
/// them the latter alone; addresses and networks; all of these with or without a port; `*`.
fn is_exempt(server: &Uri, list: &str) -> bool {
    let host = server.host().unwrap_or_default();
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let is_here = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    let default = if is_plain(server) { 80 } else { 443 };
    let port = format!(":{}", server.port_u16().unwrap_or(default));
    let is_all = list.split(',').any(|entry| entry.trim() == "*");
    let entries = list.split(',').map(str::trim).map(|entry| {
        let is_address = entry.parse::<IpAddr>().is_ok();
        let entry = entry
            .strip_suffix(&port)
            .filter(|_| !is_address)
            .unwrap_or(entry);
        let below = entry.strip_prefix('*').filter(|rest| rest.starts_with('.'));
        below.unwrap_or(entry).trim_matches(['[', ']'])
    });
    // The matcher takes `.host` for the host itself, too; Go takes a `*` for all only where it is alone.
    let is_itself = |rest: &str| rest.eq_ignore_ascii_case(host);
    let counts = |entry: &&str| *entry != "*" && !entry.strip_prefix('.').is_some_and(is_itself);
    let entries: Vec<_> = entries.filter(counts).collect();
    let any = Matcher::builder().all("http://any").no(entries.join(","));
    is_here || is_all || any.build().intercept(server).is_none()
}

/// Without a scheme it is `http://`, as for all others.
fn with_scheme(proxy: &str) -> String {
    match proxy.contains("://") {
        true => proxy.to_owned(),
        false => format!("http://{proxy}"),
    }
}

/// What kube's client is built of.
type Service = BoxService<http::Request<Body>, Response<Box<DynBody>>, BoxError>;

/// kube's own, but for a proxy that wants a name and a password: kube would send them with the escapes of the URL.
pub(super) fn builder(config: Config) -> kube::Result<ClientBuilder<Service>> {
    let known = config.proxy_url.as_ref().and_then(authorization);
    let Some((proxy, authorization)) = known else {
        return ClientBuilder::try_from(config);
    };
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(config.connect_timeout);
    // To one with `http://` this speaks no TLS.
    let to_proxy = config.rustls_https_connector_with_connector(http)?;
    let tunnel = Tunnel::new(proxy, to_proxy).with_auth(authorization);
    let to_server = config.rustls_https_connector_with_connector(tunnel)?;
    let client = legacy::Client::builder(TokioExecutor::new()).build(to_server);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .map_response(|answer: Response<hyper::body::Incoming>| {
            answer.map(|body| Box::new(body.map_err(BoxError::from)) as Box<DynBody>)
        })
        .service(client);
    let namespace = config.default_namespace;
    Ok(ClientBuilder::new(service.boxed(), namespace))
}

/// The proxy by itself, and what it is told if its address has a name or a password, each without escapes.
fn authorization(proxy: &Uri) -> Option<(Uri, HeaderValue)> {
    let any = Matcher::builder().all(proxy.to_string()).build();
    let found = any.intercept(&Uri::from_static("http://any"))?;
    Some((found.uri().clone(), found.basic_auth()?.clone()))
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

/// What to do about a proxy that can't be used.
const WAY_OUT: &str = "name one with http:// or https://, exempt the host by NO_PROXY or unset the variable, or run this \
     in a replica: `kubectl -n NAMESPACE exec deployment/imageswap -- /imageswap …`";

/// Why there is no client, and the way out if it is the kind of proxy.
pub(super) fn refusal(error: &kube::Error) -> String {
    match error {
        kube::Error::ProxyProtocolDisabled { proxy_url, .. }
        | kube::Error::ProxyProtocolUnsupported { proxy_url } => format!(
            "the proxy {} is not one with http:// or https:// (proxy-url in the kubeconfig, else HTTPS_PROXY or HTTP_PROXY); {WAY_OUT}",
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
            ("https://corp.example", ".corp.example", false),
            ("https://corp.example", "*.Corp.example:443", false),
            ("https://corp.example", "*.corp.example,corp.example", true),
            (name, "*.corp.example", true),
            (name, "other.example, .corp.example", true),
            (name, "rp.example", false),
            (name, "pi.corp.example", false),
            (name, "*", true),
            (name, "*:6443", false),
            (name, "corp.example:6443", true),
            (name, "corp.example:443", false),
            ("https://corp.example", "corp.example:443", true),
            ("http://corp.example", "corp.example:443", false),
            ("http://corp.example", "corp.example:80", true),
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
            ("proxy.corp:3128/", "http://proxy.corp:3128"),
            ("https://proxy:3128/", "https://proxy:3128"),
            ("http://me:secret@proxy:3128", "http://proxy:3128"),
            ("me:secret@proxy:3128", "http://proxy:3128"),
            ("socks5://[::1]:1080", "socks5://[::1]:1080"),
        ] {
            let found = shown(&with_scheme(proxy).parse().unwrap());
            assert_eq!(found, expected, "{proxy}");
        }
    }
}
