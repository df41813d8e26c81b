//! Certificates to bring, and the ways in which files of them are written.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use imageswap::pki::{Pem, mint};
use time::{Duration, OffsetDateTime};

/// What kube-apiserver calls in these tests.
pub const HOST: &str = "imageswap.ns.svc";

/// A pair for the Service and for this machine.
pub fn pair() -> Pem {
    pair_for(&[HOST, "localhost"], 9)
}

/// A pair that ends in so many days.
pub fn pair_for(names: &[&str], days: i64) -> Pem {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    mint(&names, Duration::days(days), OffsetDateTime::now_utc()).unwrap()
}

/// A pair that ended yesterday.
pub fn ended() -> Pem {
    let names = [HOST, "localhost"].map(str::to_owned);
    let began = OffsetDateTime::now_utc() - Duration::days(9);
    mint(&names, Duration::days(8), began).unwrap()
}

/// A pair that begins so much later than now.
pub fn beginning_in(time: Duration) -> Pem {
    // All that ImageSwap itself would ask for on this machine.
    let service = [
        "imageswap",
        "imageswap.ns",
        HOST,
        "imageswap.ns.svc.cluster.local",
    ];
    let names = [&service[..], &["localhost", "127.0.0.1", "::1"]].concat();
    let names: Vec<_> = names.into_iter().map(str::to_owned).collect();
    // What is minted begins two days and an hour before.
    let minted = OffsetDateTime::now_utc() + Duration::hours(49) + time;
    mint(&names, Duration::days(8), minted).unwrap()
}

/// The leaf of the one with the key of the other.
pub fn mixed(one: &Pem, other: &Pem) -> Pem {
    Pem {
        key: other.key.clone(),
        ..one.clone()
    }
}

/// Written in place, one file after the other.
pub fn write(dir: &Path, pem: &Pem) {
    for (name, text) in files(pem) {
        fs::write(dir.join(name), text).unwrap();
    }
}

/// Each file is written beside and renamed.
pub fn rename(dir: &Path, pem: &Pem) {
    for (name, text) in files(pem) {
        fs::write(dir.join("beside"), text).unwrap();
        fs::rename(dir.join("beside"), dir.join(name)).unwrap();
    }
}

/// As the kubelet writes a Secret: files in a new directory, then the link `..data` is renamed over,
/// and the old directory goes.
pub fn mount(dir: &Path, version: &str, pem: &Pem) {
    let data = dir.join(version);
    fs::create_dir(&data).unwrap();
    write(&data, pem);
    let old = fs::read_link(dir.join("..data")).ok();
    symlink(version, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    for (name, _) in files(pem) {
        // There from the first time on.
        let _ = symlink(format!("..data/{name}"), dir.join(name));
    }
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old)).unwrap();
    }
}

fn files(pem: &Pem) -> [(&'static str, &String); 3] {
    [
        ("tls.crt", &pem.chain),
        ("tls.key", &pem.key),
        ("ca.crt", &pem.ca),
    ]
}
