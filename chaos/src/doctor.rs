//! What this machine must have for a cluster, and how to come by what is missing.

use std::fmt;
use std::fs;
use std::io::{IsTerminal, stdin};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::binaries;
use crate::cache;
use crate::command::{command, output, run, search_path};
use crate::progress::{Step, say};

/// Something that is missing.
#[derive(Debug)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Where it comes from.
    pub cure: Cure,
}

/// How to come by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cure {
    /// A package of Debian's.
    Package(&'static str),
    /// Something that only a person can do.
    Advice(&'static str),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cure {
            Cure::Package(name) => write!(f, "{}: Debian's package {name}", self.what),
            Cure::Advice(advice) => write!(f, "{}: {advice}", self.what),
        }
    }
}

/// A program (or file) and the package that brings it.
const PACKAGES: [(&str, &str); 17] = [
    ("buildah", "buildah"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("/bin/busybox", "busybox-static"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("kill", "procps"),
    ("pidof", "sysvinit-utils"),
    ("awk", "mawk"),
    ("cc", "gcc"),
    ("make", "make"),
    ("curl", "curl"),
    // What Go's modules are verified with.
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];

/// So much of the disk must be free for a cluster, in MiB: ten times what its kubelets want to be left.
const LEAST_FREE: u64 = 1024;

/// Where the disk is nearly full, kubelets evict Pods, and what is seen then says nothing of ImageSwap.
///
/// # Errors
/// Less than 1 GiB is free under this folder.
pub fn has_room(folder: &Path) -> anyhow::Result<()> {
    let disk = rustix::fs::statvfs(folder)?;
    let free = (disk.f_bavail * disk.f_frsize) >> 20;
    ensure!(
        free >= LEAST_FREE,
        "{free} MiB of the disk under {} are free, and a cluster wants {LEAST_FREE}: make room, of \
         `target` for instance",
        folder.display()
    );
    Ok(())
}

/// All that is missing; empty if a cluster can be had.
pub fn examine() -> Vec<Missing> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push(Missing {
            what: "root".to_owned(),
            cure: Cure::Advice("network namespaces and mounts need it; run this with sudo"),
        });
    }
    for (program, package) in PACKAGES {
        if !has(program) {
            missing.push(Missing {
                what: program.to_owned(),
                cure: Cure::Package(package),
            });
        }
    }
    if !binaries::are_ready() {
        missing.extend(go());
    }
    missing.extend(kernel());
    missing
}

/// What Kubernetes is built with, and what of it is missing.
fn go() -> Option<Missing> {
    let wanted = binaries::go_version();
    let missing = |what, advice| {
        let cure = Cure::Advice(advice);
        Some(Missing { what, cure })
    };
    if !has("go") {
        return missing(
            format!("go {wanted}"),
            "Kubernetes is built with it: install it or a later one, and put it on PATH",
        );
    }
    // Not in a module's folder, which may want another than this one.
    let mut go = command("go", ["env", "GOVERSION", "GOTOOLCHAIN"]);
    let told = run(go.current_dir("/")).unwrap_or_default();
    let mut lines = told.lines();
    let (version, toolchain) = (lines.next()?, lines.next().unwrap_or_default());
    if is_go_enough(version, toolchain, &wanted) {
        return None;
    }
    missing(
        format!("go {wanted}, where this is {version} with GOTOOLCHAIN={toolchain}"),
        "Kubernetes is built with it: install it or a later one, or set GOTOOLCHAIN=auto, by which Go fetches it",
    )
}

/// Whether this Go is no earlier than the one that is wanted, or fetches that itself, as Go does from 1.21 on unless
/// it is told not to, or to look on PATH alone.
fn is_go_enough(version: &str, toolchain: &str, wanted: &str) -> bool {
    let fetches = toolchain.contains("auto");
    // Such as `go1.26.8`, `go1.27rc1 X:nodwarf5` or `devel go1.27-f00`.
    let number = version.split_whitespace();
    let number = number.filter_map(|word| word.strip_prefix("go")).next();
    fetches || number.is_none_or(|number| parts(number) >= parts(wanted))
}

/// The numbers of a version of Go, by which versions compare.
pub(crate) fn parts(version: &str) -> [u32; 3] {
    let mut numbers = version.split('.').map(|part| {
        let digits = part.split(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    });
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

/// Installs what Debian has of what is missing, and fails for what it has not.
///
/// # Errors
/// Something is missing still.
pub fn cure() -> anyhow::Result<()> {
    let missing = examine();
    let mut packages: Vec<_> = missing
        .iter()
        .filter_map(|missing| match missing.cure {
            Cure::Package(name) => Some(name),
            Cure::Advice(_) => None,
        })
        .collect();
    packages.dedup();
    if !packages.is_empty() && can_install() {
        install(&packages)?;
    }
    match examine().as_slice() {
        [] => Ok(()),
        missing => {
            let list: Vec<_> = missing.iter().map(ToString::to_string).collect();
            bail!(
                "this machine can't run a cluster: missing {}",
                list.join("; ")
            )
        }
    }
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    let step = Step::begin(format!("installing Debian's {}", packages.join(", ")));
    run(&mut apt(&["update", "-qq"])).context("can't read Debian's package lists")?;
    let words = ["install", "-qq", "--yes", "--no-install-recommends"];
    run(apt(&words).args(packages)).context("can't install packages")?;
    step.done("installed");
    Ok(())
}

/// Where a program is, if need be after its package of Debian's has been installed.
///
/// # Errors
/// It is not here and can't be had.
pub fn installed(program: &str, package: &str) -> anyhow::Result<PathBuf> {
    if !has(program) && can_install() {
        install(&[package])?;
    }
    find(program).with_context(|| is_missing(program, package))
}

fn is_missing(program: &str, package: &str) -> String {
    format!("{program} is missing: install Debian's package {package}, or run this as root")
}

/// Where a program is, if need be unpacked from Debian's package into the cache. It must need
/// nothing else of Debian's. Not installed: a package may start a daemon, as Prometheus' does on the
/// port that ImageSwap's own has.
///
/// # Errors
/// It is not here and can't be had.
pub fn ensure(program: &str, package: &str) -> anyhow::Result<PathBuf> {
    let folder = cache().join("debian").join(package);
    let unpacked = folder.join("usr/bin").join(program);
    if let Some(found) = find(program).or_else(|| unpacked.is_file().then(|| unpacked.clone())) {
        return Ok(found);
    }
    if !can_install() {
        bail!(is_missing(program, package));
    }
    unpack(program, package, &folder)?;
    match unpacked.is_file() {
        true => Ok(unpacked),
        false => bail!("Debian's package {package} has no /usr/bin/{program}"),
    }
}

/// Downloads a package and unpacks the program beside the folder, then makes that the folder: another
/// process may be doing the same.
fn unpack(program: &str, package: &str, folder: &Path) -> anyhow::Result<()> {
    let step = Step::begin(format!("unpacking {program} of Debian's {package}"));
    let work = folder.with_extension(format!("{}.part", std::process::id()));
    let root = work.join("root");
    fs::create_dir_all(&root).with_context(|| format!("can't make {}", root.display()))?;
    run(&mut apt(&["update", "-qq"])).context("can't read Debian's package lists")?;
    run(apt(&["download", "-qq", package]).current_dir(&work))
        .with_context(|| format!("can't download Debian's {package}"))?;
    let script =
        r#"dpkg-deb --fsys-tarfile ./*.deb | tar --extract --directory "$0" "./usr/bin/$1""#;
    let mut unpack = command("sh", ["-c", script]);
    run(unpack.arg(&root).arg(program).current_dir(&work))
        .with_context(|| format!("can't unpack Debian's {package}"))?;
    if let Err(error) = fs::rename(&root, folder)
        && !folder.is_dir()
    {
        return Err(error).with_context(|| format!("can't make {}", folder.display()));
    }
    // What is left is of no use and in nobody's way.
    let _ = fs::remove_dir_all(&work);
    step.done("unpacked");
    Ok(())
}

fn can_install() -> bool {
    rustix::process::geteuid().is_root() && Path::new("/usr/bin/apt-get").is_file()
}

fn apt(words: &[&str]) -> Command {
    let mut apt = command("apt-get", words);
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

fn has(program: &str) -> bool {
    find(program).is_some()
}

/// Where [`command`] finds it.
fn find(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Path::new(program).exists().then(|| program.into());
    }
    std::env::split_paths(&search_path())
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// What the kernel must be able to do, each tried for real.
fn kernel() -> Vec<Missing> {
    if !rustix::process::geteuid().is_root() || !has("unshare") || !has("ip") {
        return Vec::new();
    }
    let trials = [
        (
            "PID and mount namespaces",
            "true",
            "the kernel, or the container that this runs in, refuses unshare(2)",
        ),
        (
            "bridges and veth pairs",
            "ip link add br0 type bridge && ip link add one type veth peer name two",
            "the kernel needs CONFIG_BRIDGE and CONFIG_VETH; `modprobe bridge veth`",
        ),
        (
            "iptables' nat table",
            "command -v iptables >/dev/null || exit 0; iptables -t nat -S >/dev/null",
            "the kernel needs nf_tables and NAT; `modprobe nf_tables nft_compat`",
        ),
    ];
    trials
        .into_iter()
        .filter(|(_, script, _)| !succeeds(script))
        .map(|(what, _, advice)| Missing {
            what: what.to_owned(),
            cure: Cure::Advice(advice),
        })
        .collect()
}

/// In namespaces of its own, which end with it.
fn succeeds(script: &str) -> bool {
    let words = ["--net", "--mount", "--pid", "--fork", "sh", "-c", script];
    output(&mut command("unshare", words)).is_ok_and(|output| output.status.success())
}

/// Shows what is missing, and installs it if told to, or if the person at the terminal agrees.
///
/// # Errors
/// Something is missing still.
pub fn offer(is_agreed: bool) -> anyhow::Result<()> {
    let missing = examine();
    for missing in &missing {
        say(format_args!("missing: {missing}"));
    }
    let packages = missing
        .iter()
        .any(|missing| matches!(missing.cure, Cure::Package(_)));
    if is_agreed || !packages || agrees()? {
        return cure();
    }
    bail!("nothing was installed; `--yes` installs what Debian has")
}

/// Asks whoever is at the terminal; nobody is, nobody agrees.
fn agrees() -> anyhow::Result<bool> {
    if !stdin().is_terminal() {
        return Ok(false);
    }
    say("install Debian's packages now? [y/N]");
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Shows what is missing, and whether all is there.
///
/// # Errors
/// Something is missing.
pub fn report(is_agreed: bool) -> anyhow::Result<()> {
    offer(is_agreed)?;
    say("this machine can run a cluster");
    if binaries::are_ready() {
        say("Kubernetes is built");
    } else {
        say("Kubernetes is not built yet: the first cluster takes some 18 minutes longer");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_go_that_is_late_enough_or_fetches_one() {
        for (version, toolchain, is_enough) in [
            ("go1.26.8", "local", true),
            ("go1.26.7", "local", false),
            ("go1.26", "local", false),
            ("go1.26.7 X:nodwarf5", "local", false),
            ("go1.26.10", "local", true),
            ("go1.27rc1", "local", true),
            ("devel go1.27-f00d", "local", true),
            ("go1.26.7", "go1.26.7", false),
            ("go1.22.1", "auto", true),
            ("go1.22.1", "local+auto", true),
            ("go1.22.1", "go1.22.1+path", false),
            // One that knows of no toolchains.
            ("go1.19.8", "", false),
            ("gccgo", "local", true),
        ] {
            let found = is_go_enough(version, toolchain, "1.26.8");
            assert_eq!(found, is_enough, "{version} {toolchain}");
        }
    }

    #[test]
    fn what_is_found_is_what_is_started() {
        // Some machine's root alone has it on PATH.
        let folders: Vec<_> = std::env::split_paths(&search_path()).collect();
        assert!(folders.contains(&PathBuf::from("/usr/sbin")), "{folders:?}");
        let mut sh = command("sh", ["-c", "printf %s \"$PATH\""]);
        let path = run(&mut sh).unwrap();
        assert_eq!(std::env::split_paths(&path).collect::<Vec<_>>(), folders);
    }
}
