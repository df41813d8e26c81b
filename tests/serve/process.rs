//! The binary as a process: started with files of its own, ended by its recorded process id.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// `imageswap serve`, running.
pub struct Serve {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pub dir: TempDir,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    /// The two lines that it printed.
    pub greeting: [String; 2],
}

/// The command with nothing of this environment's that could change it.
pub fn imageswap() -> Command {
    imageswap_at(Path::new(PROGRAM))
}

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_imageswap");

fn imageswap_at(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.to_uppercase().starts_with("IMAGE") || name.starts_with("PYTHON") {
            command.env_remove(name);
        }
    }
    command
}

impl Serve {
    /// In a cluster whose API is there, found by a kubeconfig. Returns once it listens; its `ca`
    /// is for the test to write.
    pub fn start_in_cluster(api: SocketAddr, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("state")).unwrap();
        write_kubeconfig(&at("kubeconfig"), api);
        let log = File::create(at("log")).unwrap();
        let args = [&["--cluster", "on", "--namespace", "ns"], args].concat();
        let mut child = serve(&args, dir.path())
            .env("KUBECONFIG", at("kubeconfig"))
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut serve = Self {
            child,
            stdout,
            dir,
            address: any,
            admin: any,
            greeting: Default::default(),
        };
        serve.until_log("listening");
        let log = serve.log();
        let line = log.lines().find(|line| line.contains("listening")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let at = |name: &str| line[name].as_str().unwrap().parse().unwrap();
        (serve.address, serve.admin) = (at("address"), at("admin"));
        serve
    }

    /// Waits until the log says this.
    pub fn until_log(&self, text: &str) {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.log().contains(text) {
            assert!(Instant::now() < until, "no {text:?} in:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// With these arguments besides those every test needs; `{dir}` is the test's own directory.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    pub fn start_with(args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, args, env)
    }

    /// Its logs go into a pipe that nobody reads.
    pub fn start_unread(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let command = serve(args, dir.path());
        Self::spawn(dir, command, &[], Stdio::piped())
    }

    /// In a process group of its own. All others are in that of the tests: Control-C ends them, too.
    pub fn start_in_group(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut command = serve(args, dir.path());
        command.process_group(0);
        Self::spawn(dir, command, &[], log.into())
    }

    pub fn start_in(dir: TempDir, args: &[&str], env: &[(&str, &str)]) -> Self {
        let log = File::create(dir.path().join("log")).unwrap();
        let command = serve(args, dir.path());
        Self::spawn(dir, command, env, log.into())
    }

    fn spawn(dir: TempDir, mut command: Command, env: &[(&str, &str)], log: Stdio) -> Self {
        let path = dir.path().to_str().unwrap().to_owned();
        let mut child = command
            .envs(
                env.iter()
                    .map(|(name, value)| (name, value.replace("{dir}", &path))),
            )
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut greeting = [String::new(), String::new()];
        for line in &mut greeting {
            stdout.read_line(line).unwrap();
        }
        let port = |after: &str| -> u16 {
            let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            let (_, rest) = greeting[0]
                .split_once(after)
                .unwrap_or_else(|| panic!("no {after} in {greeting:?}; the log says:\n{log}"));
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap()
        };
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            address: at(port("https://localhost:")),
            admin: at(port("http://localhost:")),
            child,
            stdout,
            dir,
            greeting,
        }
    }

    /// Whoever read the logs is gone.
    pub fn close_log(&mut self) {
        drop(self.child.stderr.take());
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("state/ca.crt")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The server itself, where this is its keeper.
    pub fn worker(&self) -> Pid {
        self.find_worker().unwrap()
    }

    pub fn find_worker(&self) -> Option<Pid> {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let child = children.ok()?.split_whitespace().next()?.parse().ok()?;
        Pid::from_raw(child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its end, which must come within this time.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let until = Instant::now() + within;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!(
            "still running after {within:?}; the log says:\n{}",
            self.log()
        );
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> usize {
        self.memory("VmRSS:")
    }

    /// The most memory that it ever had, in bytes.
    pub fn most_resident(&self) -> usize {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(what))
            .unwrap();
        let kib: usize = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        kib << 10
    }

    /// What it has printed besides the greeting, once it has ended.
    pub fn rest_of_stdout(&mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        rest
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the log says:\n{}", self.log());
        }
    }
}

/// How to reach an API.
pub fn write_kubeconfig(path: &Path, api: SocketAddr) {
    let kubeconfig = format!(
        "{{clusters: [{{name: c, cluster: {{server: 'http://{api}'}}}}], users: [{{name: u, user: \
         {{}}}}], contexts: [{{name: x, context: {{cluster: c, user: u}}}}], current-context: x}}"
    );
    fs::write(path, kubeconfig).unwrap();
}

/// `serve` with these arguments, and with those that every test needs unless they are given.
pub fn serve(args: &[&str], dir: &Path) -> Command {
    // A test may have a copy of the program that is its own.
    let copy = dir.join("imageswap");
    let mut command = match copy.exists() {
        true => imageswap_at(&copy),
        false => imageswap(),
    };
    let dir = dir.to_str().unwrap();
    command
        .arg("serve")
        .args(args.iter().map(|arg| arg.replace("{dir}", dir)));
    let state = format!("{dir}/state");
    for (flag, value) in [
        ("--listen", "127.0.0.1:0"),
        ("--admin-listen", "127.0.0.1:0"),
        ("--state-dir", &state),
    ] {
        if !args.contains(&flag) {
            command.args([flag, value]);
        }
    }
    command
}

/// Runs `serve` where it must refuse to: exit code 2, nothing on standard output, and the error, as for people.
pub fn refused(args: &[&str], dir: &Path) -> String {
    let output = serve(args, dir).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let text = String::from_utf8(output.stderr).unwrap();
    // Before there is a log it stands by itself; then it is the log's last line.
    let last = text.lines().last().unwrap_or_default();
    assert_eq!(
        text.matches("error: ").count(),
        usize::from(last.starts_with("error: ")),
        "{text}"
    );
    if last.starts_with("error: ") {
        return last.to_owned();
    }
    let line: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("{text}"));
    assert_eq!(line["level"], "ERROR", "{text}");
    format!("error: {}", line["message"].as_str().unwrap())
}
