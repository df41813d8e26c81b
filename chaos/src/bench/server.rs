//! A server that is measured: a process of its own on one core, on loopback, with its own
//! certificate.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::exchange::MAPS;
use super::process::{Leash, cpu_time, resident, spawn_on};

/// What the program answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Always the same: no patch, or this one.
    Null(Option<&'static str>),
    /// What the review asks for.
    ImageSwap,
}

/// A program that can be started.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) kind: Kind,
    /// As the report calls it.
    pub(super) name: &'static str,
    pub(super) path: PathBuf,
    /// Its certificate, its maps and its log.
    pub(super) folder: PathBuf,
}

/// One that runs. It ends with this.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) kind: Kind,
    pub(super) address: SocketAddr,
    pub(super) ca: Vec<u8>,
    child: Child,
    leash: Leash,
    /// A server that greets must have somebody to greet.
    _greeting: BufReader<ChildStdout>,
}

impl Program {
    /// Starts it on a core and on loopback, and returns when it listens.
    ///
    /// # Errors
    /// It does not start; its log is named.
    pub(super) fn start(&self, core: usize) -> anyhow::Result<Server> {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let words = Command::new(&self.path);
        self.start_by(words, loopback, |command| spawn_on(core, command))
    }

    /// The same, by a command that runs the program, listening on this address.
    ///
    /// # Errors
    /// As for [`Program::start`].
    pub(super) fn start_by(
        &self,
        command: Command,
        listen: SocketAddr,
        spawn: impl FnOnce(&mut Command) -> anyhow::Result<Child>,
    ) -> anyhow::Result<Server> {
        let started = self.try_start(command, listen, spawn);
        started.with_context(|| {
            let (name, log) = (self.name, self.log());
            format!("{name} does not start; its log is {}", log.display())
        })
    }

    fn try_start(
        &self,
        mut command: Command,
        listen: SocketAddr,
        spawn: impl FnOnce(&mut Command) -> anyhow::Result<Child>,
    ) -> anyhow::Result<Server> {
        self.complete(&mut command, listen)?;
        let mut child = spawn(&mut command)?;
        let leash = Leash::on(child.id())?;
        let output = child.stdout.take().context("it has no output")?;
        let mut greeting = BufReader::new(output);
        let mut line = String::new();
        greeting.read_line(&mut line)?;
        let mut server = Server {
            kind: self.kind,
            address: listen,
            ca: Vec::new(),
            child,
            leash,
            _greeting: greeting,
        };
        let port = port(&line).with_context(|| format!("it says {line:?}"))?;
        server.address.set_port(port);
        server.ca = fs::read(self.ca())?;
        Ok(server)
    }

    /// Adds the arguments.
    fn complete(&self, command: &mut Command, listen: SocketAddr) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("can't make {}", self.folder.display()))?;
        // Not what the person who runs this has set.
        command.env_clear();
        if self.kind == Kind::ImageSwap {
            let maps = self.folder.join("maps.conf");
            fs::write(&maps, MAPS)?;
            let admin = SocketAddr::new(listen.ip(), 0).to_string();
            command.args(["serve", "--drain-delay", "0s", "--admin-listen", &admin]);
            command.arg("--maps").arg(maps);
        }
        if let Kind::Null(Some(patch)) = self.kind {
            command.args(["--patch", patch]);
        }
        let listen = listen.to_string();
        command.args(["--listen", &listen, "--state-dir"]);
        command.arg(self.folder.join("state"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(self.log())?);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// What its clients trust.
    pub(super) fn ca(&self) -> PathBuf {
        self.folder.join("state/ca.crt")
    }

    /// Certificate chain and key, PEM.
    pub(super) fn pair(&self) -> [PathBuf; 2] {
        ["tls.crt", "tls.key"].map(|file| self.folder.join("state").join(file))
    }

    /// Forgets its certificate, so that the next start makes one.
    ///
    /// # Errors
    /// It can't be removed.
    pub(super) fn forget(&self) -> anyhow::Result<()> {
        let state: &Path = &self.folder.join("state");
        match state.exists() {
            true => Ok(fs::remove_dir_all(state)?),
            false => Ok(()),
        }
    }
}

/// Of the address in a greeting.
fn port(line: &str) -> Option<u16> {
    let (_, rest) = line.split_once("https://")?;
    let (host, _) = rest.split_once('/')?;
    let (_, port) = host.rsplit_once(':')?;
    port.parse().ok()
}

impl Server {
    /// CPU time since its start.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn cpu_time(&self) -> anyhow::Result<Duration> {
        cpu_time(self.child.id())
    }

    /// Resident memory, in MiB.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn resident(&self) -> anyhow::Result<f64> {
        resident(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Before the process, whose number may then be another's.
        self.leash.let_go();
        // One that has ended does not mind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::port;

    #[test]
    fn both_greetings_tell_the_port() {
        let ours = "imageswap 2.0.0 listens on https://localhost:4711/ (metrics and probes: …)\n";
        assert_eq!(port(ours), Some(4711));
        let null = "null webhook listens on https://10.99.0.1:5000/\n";
        assert_eq!(port(null), Some(5000));
        assert_eq!(port(""), None);
    }
}
