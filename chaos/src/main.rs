//! `cargo run -p chaos -- COMMAND`: a real Kubernetes to try ImageSwap on.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use chaos::bench::{self, creations};
use chaos::cluster::{self, Cluster};
use chaos::guard::{self, Guard};
use chaos::load::{self, Plan};
use chaos::progress::{Step, print, say};
use chaos::scenario::Scenario;
use chaos::scenario::run::Run;
use chaos::scenario::runner::Options;
use chaos::scenario::stage::Extent;
use chaos::{binaries, doctor, flood, handshake, image, install, scenarios, sidecar, wire};
use clap::{Args, Parser, Subcommand};

/// A real Kubernetes on this machine, in network namespaces of its own, and ImageSwap on it.
///
/// The first `up` builds Kubernetes from source; that takes some 18 minutes and is kept.
#[derive(Debug, Parser)]
#[command(name = "chaos", max_term_width = 100)]
struct Cli {
    /// Which cluster: several can run at once
    #[arg(long, global = true, value_name = "NAME", default_value = cluster::DEFAULT_NAME, env = "IMAGESWAP_CHAOS_CLUSTER")]
    cluster: String,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster
    Up {
        /// How many nodes
        #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u8).range(1..=9))]
        nodes: u8,
        /// Install what is missing, if Debian has it
        #[arg(long)]
        yes: bool,
    },
    /// Take the cluster down, and all that it left
    Down,
    /// Run kubectl against the cluster
    Kubectl {
        /// What kubectl is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build ImageSwap's image and install deploy/install.yaml
    Install,
    /// Create Pods at a steady rate and look at every answer; needs `install`
    Load {
        /// Pods a second
        #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..=2000))]
        rate: u32,
        /// For how many seconds
        #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
        /// By how many clients, each with connections of its own
        #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u8).range(1..=64))]
        clients: u8,
        /// How many containers each Pod has
        #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=5000))]
        containers: u16,
        /// Really create them, in place of dry runs; they are deleted afterwards
        #[arg(long)]
        real: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the scenarios
    List,
    /// Play scenarios, on a cluster of their own: exits with 1 if one costs more than it may
    Run(RunArgs),
    /// Measure the whole server beside a webhook that decides nothing
    Bench(bench::Options),
    /// Say where the logs are, or show one
    Logs {
        /// A program, such as kube-apiserver or node1-kubelet
        program: Option<String>,
    },
    /// Say what this machine lacks
    Doctor {
        /// Install what Debian has of it
        #[arg(long)]
        yes: bool,
    },
    /// Hold namespaces
    #[command(hide = true)]
    Init,
    /// Be the load, within the cluster's network
    #[command(hide = true)]
    LoadWorker {
        /// Whose cluster
        kubeconfig: PathBuf,
        /// What to do, JSON
        plan: String,
    },
    /// Create Pods as fast as kube-apiserver answers, within the cluster's network
    #[command(hide = true)]
    Creations {
        /// Whose cluster
        kubeconfig: PathBuf,
        /// What to do, JSON
        plan: String,
    },
    /// Open connections that want nothing, until standard input ends
    #[command(hide = true)]
    Flood {
        /// A file with the CAs to trust
        #[arg(long)]
        ca: PathBuf,
        /// The name that the leaf must be for
        #[arg(long)]
        name: String,
        /// Slow heads, large bodies and garbage, too
        #[arg(long)]
        hostile: bool,
        /// Upon whom
        address: SocketAddr,
    },
    /// Make a TLS handshake and print the leaf's SHA-256
    #[command(hide = true)]
    Handshake {
        /// A file with the CAs to trust
        #[arg(long)]
        ca: PathBuf,
        /// The name that the leaf must be for
        #[arg(long)]
        name: String,
        /// What to present to a peer that asks for a certificate, and its key
        #[arg(long, requires = "key")]
        cert: Option<PathBuf>,
        /// See --cert
        #[arg(long, requires = "cert")]
        key: Option<PathBuf>,
        /// With whom
        #[arg(required = true)]
        addresses: Vec<SocketAddr>,
    },
    /// Be a wire to another address that can be long or cut, until standard input ends
    #[command(hide = true)]
    Wire {
        /// How many milliseconds late what comes back arrives
        #[arg(long, default_value = "0")]
        late: u64,
        /// Where to listen
        address: SocketAddr,
        /// Where it leads
        to: SocketAddr,
    },
    /// Serve a webhook that adds a sidecar
    #[command(hide = true)]
    Sidecar {
        /// Where to write the CA to
        #[arg(long)]
        ca: PathBuf,
        /// The sidecar's image
        #[arg(long)]
        image: String,
        /// Where to listen
        address: SocketAddr,
    },
    /// Wait for what a signal has ended
    #[command(hide = true)]
    Interrupted {
        /// What to exit with
        code: u8,
    },
    /// Take a cluster down when standard input ends
    #[command(hide = true)]
    Guard {
        /// Which
        name: String,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Which; `list` shows them
    #[arg(value_name = "SCENARIO", required_unless_present = "all", value_parser = scenario)]
    scenarios: Vec<&'static Scenario>,
    /// All, one after the other
    #[arg(long, conflicts_with = "scenarios")]
    all: bool,
    /// Where to write report.html, report.json and report.md to
    #[arg(long, value_name = "DIR", default_value = "target/chaos-report")]
    report: PathBuf,
    /// Pods a second
    #[arg(long, value_name = "N", default_value = "40", value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: u32,
    /// By how many clients; every second one speaks HTTP/2
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u8).range(1..=64))]
    clients: u8,
    /// Play as little of each as the test suite does
    #[arg(long)]
    short: bool,
    /// Set a variable of ImageSwap's, such as IMAGESWAP_DRAIN_DELAY=0s: to see what it is good for
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// A static binary to put into ImageSwap's image, in place of one of these sources
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

fn scenario(name: &str) -> Result<&'static Scenario, String> {
    scenarios::find(name)
        .ok_or_else(|| "there is none of that name; `chaos list` shows them".into())
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is not NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Up { nodes, yes } => up(&cli.cluster, nodes.into(), yes)?,
        Command::Down => match cluster::down(&cli.cluster)? {
            true => say(format_args!("cluster {} is gone", cli.cluster)),
            false => say(format_args!("there is no cluster {}", cli.cluster)),
        },
        Command::Kubectl { args } => {
            let error = Cluster::open(&cli.cluster)?
                .kubectl(args)
                .stdin(std::process::Stdio::inherit())
                .exec();
            return Err(error).context("can't start kubectl");
        }
        Command::Install => {
            let cluster = Cluster::open(&cli.cluster)?;
            install::load_image(&cluster, &image::binary()?)?;
            install::apply_maps(&cluster, install::MAPS)?;
            install::install(&cluster)?;
            say(
                "images of Docker Hub now come from mirror.example.com in namespaces labelled \
                 k8s.twr.io/imageswap=enabled; chaos/busybox:1 is there",
            );
        }
        Command::Load {
            rate,
            seconds,
            clients,
            containers,
            real,
            json,
        } => {
            let plan = Plan {
                rate,
                duration: Duration::from_secs(seconds),
                clients: clients.into(),
                containers: containers.into(),
                real: u32::from(real),
                ..Plan::new(format!("load-{}", std::process::id()))
            };
            return load(&Cluster::open(&cli.cluster)?, &plan, json);
        }
        Command::LoadWorker { kubeconfig, plan } => {
            let out = std::io::stdout();
            load::run(&serde_json::from_str(&plan)?, &kubeconfig, out.lock())?;
        }
        Command::Creations { kubeconfig, plan } => {
            let created = creations::run(&serde_json::from_str(&plan)?, &kubeconfig)?;
            print(serde_json::to_string(&created)?);
        }
        Command::List => list(),
        Command::Run(args) => return run_scenarios(args),
        Command::Bench(options) => bench::run(&options, &std::env::current_exe()?)?,
        Command::Logs { program } => logs(&cli.cluster, program.as_deref())?,
        Command::Doctor { yes } => doctor::report(yes)?,
        Command::Init => init()?,
        Command::Handshake {
            ca,
            name,
            cert,
            key,
            addresses,
        } => {
            let read = |path: Option<PathBuf>| path.map(std::fs::read).transpose();
            let own = read(cert)?.zip(read(key)?);
            let ca = std::fs::read(ca)?;
            for address in addresses {
                print(handshake::leaf(address, &name, &ca, own.clone())?);
            }
        }
        Command::Flood {
            ca,
            name,
            hostile,
            address,
        } => {
            let flooded = flood::run(address, &name, &std::fs::read(ca)?, hostile)?;
            print(serde_json::to_string(&flooded)?);
        }
        Command::Wire { late, address, to } => {
            wire::run(address, to, Duration::from_millis(late))?;
        }
        Command::Sidecar { ca, image, address } => sidecar::serve(address, &image, &ca)?,
        Command::Interrupted { code } => {
            guard::interrupted();
            return Ok(ExitCode::from(code));
        }
        Command::Guard { name } => {
            if guard::wait()? {
                // It was started with the claim.
                cluster::clear(&name)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn up(name: &str, nodes: usize, yes: bool) -> anyhow::Result<()> {
    doctor::offer(yes)?;
    let binaries = binaries::ready()?;
    let chaos = std::env::current_exe()?;
    let guard = Guard::start(&chaos, name, None)?;
    let cluster = Cluster::up(name, nodes, binaries, &chaos)?;
    guard.keep();
    say("`chaos down` takes it away again; `kubectl` speaks to it after this:");
    // Alone on standard output, so that a shell can take it as it is.
    print(format_args!(
        "export PATH={}:\"$PATH\"",
        cluster.bin().display()
    ));
    Ok(())
}

fn load(cluster: &Cluster, plan: &Plan, json: bool) -> anyhow::Result<ExitCode> {
    let step = Step::begin(format!(
        "{} Pods a second for {:?}",
        plan.rate, plan.duration
    ));
    install::make_namespace(cluster, &plan.namespace)?;
    let report = load::start(cluster, plan).and_then(load::Load::wait);
    let delete = ["delete", "namespace", &plan.namespace, "--wait=false"];
    chaos::command::run(&mut cluster.kubectl(delete))?;
    let report = report?;
    step.done("done");
    if json {
        print(serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::from(u8::from(!report.is_clean())))
}

fn list() {
    let longest = scenarios::ALL.iter().map(|scenario| scenario.name.len());
    let width = longest.max().unwrap_or(0);
    for Scenario {
        name,
        about,
        budget,
        ..
    } in scenarios::ALL
    {
        print(format_args!(
            "{name:<width$}  {about}; may cost: {}",
            budget.words
        ));
    }
}

fn run_scenarios(args: RunArgs) -> anyhow::Result<ExitCode> {
    let scenarios = match args.all {
        true => scenarios::ALL.to_vec(),
        false => args.scenarios,
    };
    let extent = if args.short {
        Extent::Short
    } else {
        Extent::Full
    };
    let run = Run {
        scenarios,
        options: Options {
            rate: args.rate,
            clients: args.clients.into(),
            set: args.set.into_iter().collect(),
            extent,
        },
        folder: args.report,
        binary: args.binary,
        chaos: std::env::current_exe()?,
    };
    Ok(ExitCode::from(u8::from(!run.go()?)))
}

fn logs(name: &str, program: Option<&str>) -> anyhow::Result<()> {
    let folder = Cluster::open(name)?.logs();
    let Some(program) = program else {
        print(folder.display());
        let mut names: Vec<_> = std::fs::read_dir(&folder)?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
            .iter()
            .for_each(|name| print(format_args!("  {name}")));
        return Ok(());
    };
    let path: PathBuf = folder.join(format!("{program}.log"));
    let mut file = std::fs::File::open(&path)
        .with_context(|| format!("{}; `chaos logs` lists what there is", path.display()))?;
    std::io::copy(&mut file, &mut std::io::stdout())?;
    Ok(())
}

/// The first process of a PID namespace: it takes in all orphans, and must see them off.
fn init() -> anyhow::Result<()> {
    use rustix::process::{WaitOptions, wait};
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some(_)) => {}
            // No child at the moment.
            _ => std::thread::sleep(std::time::Duration::from_secs(1)),
        }
    }
}
