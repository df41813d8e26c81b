//! A map file that changes while requests run: the last good one stays.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::client::{Client, metric};
use crate::process::Serve;

/// Asks until the answer is there; every answer on the way is one of the two.
async fn turns(client: &mut Client, from: &str, to: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let result = client.swap("nginx").await;
        if result == to {
            return;
        }
        assert_eq!(result, from);
        assert!(Instant::now() < until, "still {result}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks for long enough that a change would be seen; there is none.
async fn stays(client: &mut Client, result: &str) {
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        assert_eq!(client.swap("nginx").await, result);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn failed(serve: &Serve) -> f64 {
    metric(serve, "imageswap_maps_loads_total{result=\"failed\"}").await
}

#[tokio::test]
async fn a_map_file_is_changed_broken_and_restored() {
    let dir = tempfile::tempdir().unwrap();
    let maps = dir.path().join("maps");
    fs::write(&maps, "default::one.io").unwrap();
    let serve = Serve::start_in(dir, &["--maps", "{dir}/maps"], &[]);
    let mut client = Client::connect(&serve).await;
    assert_eq!(client.swap("nginx").await, "one.io/nginx");

    fs::write(&maps, "default::two.io\nno rule\n").unwrap();
    turns(&mut client, "one.io/nginx", "two.io/nginx").await;
    assert_eq!(metric(&serve, "imageswap_maps_lines_in_error").await, 1.0);
    assert!(
        serve
            .log()
            .contains("there is no \\\"::\\\" in the line; skipped"),
        "{}",
        serve.log()
    );

    let rubbish: [&[u8]; 3] = [b"\0\0\0", b"rubbish", b"more\nrubbish"];
    for (n, text) in rubbish.into_iter().enumerate() {
        fs::write(&maps, text).unwrap();
        stays(&mut client, "two.io/nginx").await;
        assert_eq!(failed(&serve).await, n as f64 + 1.0);
    }
    fs::File::create(&maps).unwrap().set_len(100 << 20).unwrap();
    stays(&mut client, "two.io/nginx").await;
    fs::remove_file(&maps).unwrap();
    serve.until_log("No such file");
    stays(&mut client, "two.io/nginx").await;
    fs::create_dir(&maps).unwrap();
    stays(&mut client, "two.io/nginx").await;
    assert_eq!(failed(&serve).await, 6.0);
    let log = serve.log();
    for part in [
        "binary",
        "not one of its",
        "larger than 8 MiB",
        "No such file",
        "a directory",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(log.contains("the rules in use stay"), "{log}");

    fs::remove_dir(&maps).unwrap();
    fs::write(&maps, "default::three.io").unwrap();
    turns(&mut client, "two.io/nginx", "three.io/nginx").await;
    assert_eq!(metric(&serve, "imageswap_maps_lines_in_error").await, 0.0);
}

#[tokio::test]
async fn a_strict_reload_keeps_the_last_file_without_errors() {
    let dir = tempfile::tempdir().unwrap();
    let maps = dir.path().join("maps");
    fs::write(&maps, "default::one.io").unwrap();
    let serve = Serve::start_in(dir, &["--strict-maps", "--maps", "{dir}/maps"], &[]);
    let mut client = Client::connect(&serve).await;
    fs::write(&maps, "default::two.io\nno rule\n").unwrap();
    stays(&mut client, "one.io/nginx").await;
    assert_eq!(failed(&serve).await, 1.0);
    fs::write(&maps, "default::two.io\n").unwrap();
    turns(&mut client, "one.io/nginx", "two.io/nginx").await;
}

/// As the kubelet writes a ConfigMap: files in a new directory, then the link is renamed over.
fn mount(volume: &Path, version: &str, text: &str) {
    let data = volume.join(version);
    fs::create_dir(&data).unwrap();
    fs::write(data.join("maps"), text).unwrap();
    symlink(version, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_through_its_links() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().to_owned();
    mount(&volume, "..2026_1", "default::one.io");
    symlink("..data/maps", volume.join("maps")).unwrap();
    let serve = Serve::start_in(dir, &["--maps", "{dir}/maps"], &[]);
    let mut client = Client::connect(&serve).await;
    let mut before = "one.io/nginx".to_owned();
    for n in 2..5 {
        mount(
            &volume,
            &format!("..2026_{n}"),
            &format!("default::v{n}.io"),
        );
        fs::remove_dir_all(volume.join(format!("..2026_{}", n - 1))).unwrap();
        let after = format!("v{n}.io/nginx");
        turns(&mut client, &before, &after).await;
        before = after;
    }
    assert_eq!(failed(&serve).await, 0.0);
}
