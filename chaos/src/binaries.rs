//! Kubernetes, etcd and containerd, built from their Go modules.
//!
//! Two `go.mod` files in `chaos/binaries` pin every module. What is built is kept in the user's
//! cache under a hash of them, so that another checkout does not build it again.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};

use crate::command::{command, run};
use crate::progress::{Step, say};

/// A folder with all of [`PROGRAMS`], to be used in place of what would be built.
pub const VARIABLE: &str = "IMAGESWAP_CHAOS_BINARIES";

/// What a cluster runs.
pub const PROGRAMS: [&str; 10] = [
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

struct Module {
    folder: &'static str,
    /// For a person who waits.
    takes: &'static str,
    tags: &'static str,
    /// What tells its version to the programs, if they ask.
    version_of: Option<&'static str>,
}

/// containerd first: it takes a tenth of the time, and what is wrong with Go shows at once.
const MODULES: [Module; 2] = [
    Module {
        folder: "containerd",
        takes: "2 minutes",
        tags: "no_btrfs no_zfs no_devmapper",
        version_of: None,
    },
    Module {
        folder: "kubernetes",
        takes: "16 minutes",
        tags: "",
        version_of: Some("k8s.io/kubernetes"),
    },
];

/// The folders in which the programs are, built first if need be.
///
/// # Errors
/// There is no Go, a module can't be had, or the folder that is named lacks a program.
pub fn ready() -> anyhow::Result<Vec<PathBuf>> {
    let folders = match std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        Some(named) => vec![
            fs::canonicalize(&named)
                .with_context(|| format!("{VARIABLE} names {}", named.display()))?,
        ],
        None => MODULES
            .iter()
            .map(Module::built)
            .collect::<anyhow::Result<_>>()?,
    };
    for program in PROGRAMS {
        find(&folders, program)?;
    }
    Ok(folders)
}

/// Whether nothing needs to be built.
pub fn are_ready() -> bool {
    let named = std::env::var_os(VARIABLE).is_some_and(|named| !named.is_empty());
    named
        || MODULES
            .iter()
            .all(|module| module.folder().is_ok_and(|folder| folder.is_dir()))
}

/// The Go that the modules want, such as `1.26.8`.
pub(crate) fn go_version() -> String {
    let texts = MODULES
        .iter()
        .map(|module| fs::read_to_string(module.source().join("go.mod")).unwrap_or_default());
    let wanted = texts.filter_map(|text| version(&text, "go").map(str::to_owned));
    wanted
        .max_by_key(|wanted| crate::doctor::parts(wanted))
        .unwrap_or_default()
}

/// Where a program is.
///
/// # Errors
/// It is nowhere.
pub fn find(folders: &[PathBuf], program: &str) -> anyhow::Result<PathBuf> {
    folders
        .iter()
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("there is no {program} in {folders:?}"))
}

impl Module {
    fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("binaries")
            .join(self.folder)
    }

    /// Its name holds all that goes into what it holds.
    fn folder(&self) -> anyhow::Result<PathBuf> {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        for file in ["go.mod", "go.sum"] {
            let path = self.source().join(file);
            hash.update(
                &fs::read(&path).with_context(|| format!("can't read {}", path.display()))?,
            );
        }
        hash.update(self.tags.as_bytes());
        let hash = hash.finish();
        let hex: String = hash
            .as_ref()
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(crate::cache().join(format!("{}-{hex}", self.folder)))
    }

    fn built(&self) -> anyhow::Result<PathBuf> {
        let folder = self.folder()?;
        if folder.is_dir() {
            return Ok(folder);
        }
        fs::create_dir_all(crate::cache())?;
        // Two who build at once take turns; the second finds what the first has built.
        let lock = File::create(crate::cache().join(format!("{}.lock", self.folder)))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
        if !folder.is_dir() {
            let unfinished = folder.with_extension("unfinished");
            let _ = fs::remove_dir_all(&unfinished);
            self.build(&unfinished)
                .with_context(|| format!("can't build {}", self.folder))?;
            fs::rename(&unfinished, &folder)?;
        }
        Ok(folder)
    }

    /// Kubernetes' programs learn their version from the linker.
    fn linker_flags(&self) -> anyhow::Result<String> {
        let mut flags = "-s -w".to_owned();
        if let Some(module) = self.version_of {
            let path = self.source().join("go.mod");
            let text = fs::read_to_string(&path)?;
            let version = version(&text, module)
                .with_context(|| format!("{} does not require {module}", path.display()))?;
            let mut parts = version.trim_start_matches('v').split('.');
            let (major, minor) = (parts.next().unwrap_or("0"), parts.next().unwrap_or("0"));
            for (name, value) in [
                ("gitVersion", version),
                ("gitMajor", major),
                ("gitMinor", minor),
            ] {
                flags += &format!(" -X k8s.io/component-base/version.{name}={value}");
            }
        }
        Ok(flags)
    }

    fn build(&self, into: &Path) -> anyhow::Result<()> {
        say(format_args!(
            "building {} from source, once for this machine: some {} on two cores, kept in {}",
            self.folder,
            self.takes,
            crate::cache().display()
        ));
        let go = |words: &[&str]| {
            let mut go = command("go", words);
            go.current_dir(self.source()).env("CGO_ENABLED", "0");
            go
        };
        run(go(&["mod", "download"]).env("GOFLAGS", "-mod=readonly"))?;
        let all = run(&mut go(&["list", "-deps", "tool"]))?.lines().count();
        fs::create_dir_all(into)?;
        let mut build = go(&["build", "-v", "-trimpath"]);
        build.arg("-tags").arg(self.tags);
        build.arg("-ldflags").arg(self.linker_flags()?);
        build.arg("-o").arg(into).arg("tool");
        let mut child = build
            .stderr(Stdio::piped())
            .spawn()
            .context("can't start go")?;
        let mut step = Step::begin(format!("building {}", self.folder));
        let mut last = Vec::new();
        let stderr: Box<dyn Read> = match child.stderr.take() {
            Some(stderr) => Box::new(stderr),
            None => Box::new(std::io::empty()),
        };
        // One line a package; those that Go has built before are not among them.
        for (built, line) in BufReader::new(stderr).lines().enumerate() {
            step.update(format_args!("{built} of at most {all} packages"));
            last.push(line?);
            if last.len() > 30 {
                last.remove(0);
            }
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("go build: {status}\n{}", last.join("\n"));
        }
        // etcd's program bears the name of its folder.
        if into.join("server").is_file() {
            fs::rename(into.join("server"), into.join("etcd"))?;
        }
        ensure!(fs::read_dir(into)?.next().is_some(), "go built nothing");
        step.done("built");
        Ok(())
    }
}

/// The version of a module that a `go.mod` requires.
fn version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(module)).then(|| words.next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_is_told_the_version_in_go_mod() {
        let [_, kubernetes] = &MODULES;
        let flags = kubernetes.linker_flags().unwrap();
        assert!(flags.contains(".gitVersion=v1."), "{flags}");
        assert!(flags.contains(".gitMajor=1 "), "{flags}");
        assert!(go_version().starts_with("1."), "{}", go_version());
        let text = "require (\n\ta.io/a v1.2.3\n\ta.io/ab v4.5.6 // indirect\n)";
        assert_eq!(version(text, "a.io/a"), Some("v1.2.3"));
        assert_eq!(version(text, "a.io/ab"), Some("v4.5.6"));
        assert_eq!(version(text, "a.io"), None);
    }
}
