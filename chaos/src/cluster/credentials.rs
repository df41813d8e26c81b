//! Who may speak to kube-apiserver: a token and a kubeconfig for each program and the
//! administrator; kube-apiserver's certificates, to serve and to call webhooks; the key that signs
//! service accounts' tokens.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use imageswap::pki;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::layout::{APISERVER, Layout};

/// What kube-apiserver is called.
const NAMES: [&str; 8] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    "10.99.0.1",
    "10.0.0.1",
];

/// Who calls webhooks.
pub const CALLER: &str = "kube-apiserver";

/// No cluster of a test lives longer.
const LIFE: Duration = Duration::days(30);

pub(super) fn make(layout: &Layout, nodes: usize) -> anyhow::Result<()> {
    let names: Vec<_> = NAMES.map(str::to_owned).into();
    let secrets = layout.secrets();
    let mint = || pki::mint(&names, LIFE, OffsetDateTime::now_utc());
    let serving = mint()?;
    write(&secrets.join("ca.crt"), &serving.ca)?;
    write(&secrets.join("apiserver.crt"), &serving.chain)?;
    write(&secrets.join("apiserver.key"), &serving.key)?;
    // Kubernetes reads the public key out of a certificate.
    let accounts = mint()?;
    write(&secrets.join("accounts.crt"), &accounts.chain)?;
    write(&secrets.join("accounts.key"), &accounts.key)?;
    write_caller(&secrets)?;

    let mut users = vec![
        ("admin".to_owned(), "admin".to_owned(), "system:masters"),
        named("kube-controller-manager"),
        named("kube-scheduler"),
        named("kube-proxy"),
    ];
    users.extend((1..=nodes).map(|node| {
        let name = format!("node{node}");
        let user = format!("system:node:{name}");
        (name, user, "system:nodes")
    }));
    let mut tokens = String::new();
    for (file, user, group) in users {
        let token = token()?;
        tokens += &format!("{token},{user},{user},\"{group}\"\n");
        write(&layout.kubeconfig(&file), &kubeconfig(&secrets, &token))?;
    }
    write(&secrets.join("tokens.csv"), &tokens)
}

/// What kube-apiserver presents to a webhook that asks for a certificate, and the CA of that.
fn write_caller(secrets: &Path) -> anyhow::Result<()> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name.push(DnType::CommonName, CALLER);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let chain = leaf.signed_by(&key, &ca)?.pem();
    write(&secrets.join("caller-ca.crt"), &ca.pem())?;
    write(&secrets.join("caller.crt"), &chain)?;
    write(&secrets.join("caller.key"), &key.serialize_pem())
}

fn named(program: &str) -> (String, String, &'static str) {
    let user = format!("system:{program}");
    (program.to_owned(), user, "system:authenticated")
}

fn kubeconfig(secrets: &Path, token: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "chaos",
            "cluster": {"server": APISERVER, "certificate-authority": secrets.join("ca.crt")},
        }],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "chaos", "context": {"cluster": "chaos", "user": "user"}}],
        "current-context": "chaos",
    })
    .to_string()
}

fn token() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .ok()
        .context("the system has no randomness")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = fs::File::options();
    let mut file = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
