//! Container images, built without a registry: ImageSwap's own, and those that test Pods run.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cargo::cargo;
use crate::command::{command, run};
use crate::progress::Step;

/// What holds a Pod's namespaces. It sleeps.
pub const PAUSE: &str = "imageswap-chaos.test/pause:1";

/// What test Pods run: busybox. Nodes know it by this name and no other.
pub const WORKLOAD: &str = "mirror.example.com/chaos/busybox:1";

/// ImageSwap's image, as `deploy/` names it and containerd completes it.
pub const IMAGESWAP: &str = "docker.io/library/imageswap:2.0.0";

/// Another build of it.
pub const OTHER_BUILD: &str = "docker.io/library/imageswap:2.0.0-other";

/// The largest that ImageSwap's image may be, in bytes.
pub const MOST: u64 = 15_000_000;

/// Busybox, under the first of its two names, as an archive in this folder.
///
/// # Errors
/// buildah fails.
pub fn workload(folder: &Path) -> anyhow::Result<PathBuf> {
    let context = folder.join("busybox");
    fs::create_dir_all(&context)?;
    fs::copy("/bin/busybox", context.join("busybox")).context("can't copy busybox")?;
    let file = context.join("Dockerfile");
    fs::write(
        &file,
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\n\
         ENV PATH=/bin\nENTRYPOINT [\"/bin/busybox\", \"sleep\", \"1000000000\"]\n",
    )?;
    let archive = folder.join("busybox.tar");
    build(&file, &context, &[], &archive, PAUSE)?;
    Ok(archive)
}

/// ImageSwap's image from the Dockerfile, with [`binary`] in place of its first stage; an archive in
/// this folder.
///
/// # Errors
/// The build fails.
pub fn imageswap(folder: &Path, binary: &Path) -> anyhow::Result<PathBuf> {
    let step = Step::begin("building ImageSwap's image");
    fs::create_dir_all(staged(folder))?;
    fs::copy(binary, staged(folder).join("imageswap"))?;
    let archive = of_staged(folder, "imageswap.tar", IMAGESWAP)?;
    step.done(format_args!(
        "{:.1} MB",
        fs::metadata(&archive)?.len() as f64 / 1e6
    ));
    Ok(archive)
}

/// [`OTHER_BUILD`], in a folder in which [`imageswap`] was: a binary that does the same.
///
/// # Errors
/// The build fails.
pub fn other_build(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut binary = fs::File::options()
        .append(true)
        .open(staged(folder).join("imageswap"))?;
    // Behind its end a program may have anything.
    binary.write_all(b"other")?;
    drop(binary);
    of_staged(folder, "other.tar", OTHER_BUILD)
}

fn staged(folder: &Path) -> PathBuf {
    folder.join("build")
}

fn of_staged(folder: &Path, archive: &str, name: &str) -> anyhow::Result<PathBuf> {
    let archive = folder.join(archive);
    let replaced = format!("build={}", staged(folder).display());
    let root = crate::repository();
    let options = ["--build-context", &replaced];
    build(&root.join("Dockerfile"), root, &options, &archive, name)?;
    Ok(archive)
}

/// The static binary for the image, compiled if it is not.
///
/// # Errors
/// cargo fails.
pub fn binary() -> anyhow::Result<PathBuf> {
    let root = crate::repository();
    let triple = host()?;
    // The flags would make cargo compile everything anew in the usual folder, each time.
    let target = root.join("target/image");
    let step = Step::begin("compiling the static release binary, 6 minutes the first time");
    let mut cargo = cargo(&["build", "--release", "--locked", "--package", "imageswap"]);
    cargo
        .args(["--target", &triple, "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    run(&mut cargo)?;
    step.done("compiled");
    Ok(target.join(triple).join("release/imageswap"))
}

/// Such as `x86_64-unknown-linux-gnu`.
fn host() -> anyhow::Result<String> {
    let version = run(&mut command("rustc", ["-vV"]))?;
    let line = version.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned)
        .context("rustc does not say what it compiles for")
}

/// `buildah build`, with its store in the archive's folder; nothing is left of it elsewhere.
fn build(
    file: &Path,
    context: &Path,
    options: &[&str],
    archive: &Path,
    name: &str,
) -> anyhow::Result<()> {
    let folder = archive.parent().context("an archive in no folder")?;
    let store = folder.join("store");
    fs::create_dir_all(&store)?;
    // Else it makes a lock in /etc.
    let settings = store.join("containers.conf");
    let network = store.join("network");
    fs::write(
        &settings,
        format!("[network]\nnetwork_config_dir = {network:?}\n"),
    )?;
    let buildah = || {
        let mut buildah = command("buildah", ["--storage-driver", "vfs", "--root"]);
        buildah
            .arg(store.join("root"))
            .arg("--runroot")
            .arg(store.join("run"));
        buildah.env("CONTAINERS_CONF", &settings);
        buildah
    };
    let tag = "localhost/built:1";
    run(buildah()
        .args([
            "build",
            "--isolation",
            "chroot",
            "--timestamp",
            "0",
            "--file",
        ])
        .arg(file)
        .args(options)
        .args(["--tag", tag])
        .arg(context))?;
    let mut target = std::ffi::OsString::from("docker-archive:");
    target.push(archive);
    let _ = fs::remove_file(archive);
    let mut push = buildah();
    push.args(["push", "--quiet"]);
    target.push(format!(":{name}"));
    run(push.arg(tag).arg(target))?;
    Ok(fs::remove_dir_all(store)?)
}
