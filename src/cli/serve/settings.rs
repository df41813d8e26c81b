//! What `serve` would make of the variables that replicas are given, by the same definitions, without being started:
//! for `status --pre`.

use std::error::Error;
use std::net::SocketAddr;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command, FromArgMatches};

use super::args::{Args, is_strange};
use super::{brought, client_certs, no_level};
use crate::cli::args::{MOUNTED_MAPS, Mode};
use crate::cluster::kubernetes::Names;
use crate::cluster::place::{Place, Surroundings};
use crate::status::pre::{Entries, Settings, Variables};
use crate::telemetry::logs;
use crate::text::shortened;

/// The Deployment sets these itself, and its word counts more.
const SET: [&str; 2] = ["IMAGESWAP_POD_NAME", "IMAGESWAP_NAMESPACE_NAME"];

/// What is to be seen in its Pods.
const POD: Surroundings = Surroundings {
    is_pod: true,
    has_token: true,
    kubeconfig_set: false,
    has_kubeconfig: false,
};

/// The ports of its Service and its probes, by which both know a Pod.
const PORTS: (u16, u16) = (5000, 9090);

/// Why it has to be with the cluster.
const ALONE: &str = "without the cluster (--cluster off, --state-dir) a replica has nowhere to keep a certificate, and \
                     nobody writes the caBundle";

/// So much of a value is shown, in characters.
const MAX_SHOWN: usize = 60;

/// A flag as a variable sets it.
struct Given {
    variable: String,
    value: String,
    /// Without the dashes.
    flag: String,
}

/// Judges what replicas are told. `names` are those of the objects in `deploy/`.
pub(in crate::cli) fn settings(variables: &Variables, names: &Names) -> Settings {
    let entries = &variables.entries;
    let command = crate::cli::command();
    let strange = entries.keys().filter(|name| is_strange(&command, name));
    let unknown = strange.cloned().collect();
    let mut unusable = Vec::new();
    let mut good = given(&command, entries);
    good.retain(|one| {
        let flaw = one.flaw();
        unusable.extend(flaw.clone());
        flaw.is_none()
    });
    let parsed = parse(&good);
    let mut unusable_alone = Vec::new();
    if let Ok(args) = &parsed {
        unusable.extend(at_start(args, &good));
        match is_all(&command, variables) {
            true => unusable.extend(halves(args, &good, variables)),
            false => unusable_alone = halves(args, &good, variables),
        }
    }
    let args = parsed.map_err(|error| unusable.push(reason(&error))).ok();
    let (unfit, unled) = args
        .as_ref()
        .map(|args| misfits(args, &good, variables, names))
        .unwrap_or_default();
    let maps_of = |args: &Args| Some(args.rules.maps.as_ref()?.to_string_lossy().into_owned());
    let other_maps = args.as_ref().and_then(maps_of);
    let is_legacy = |args: &Args| args.rules.mode == Mode::Legacy;
    let has_no_prefix = |args: &Args| {
        // One that the Deployment takes from elsewhere is not seen.
        let is_unseen = variables.env.get("IMAGE_PREFIX") == Some(&None);
        is_legacy(args) && args.rules.image_prefix.is_empty() && !is_unseen
    };
    Settings {
        unusable,
        unusable_alone,
        unfit,
        unled,
        longest_end: args.as_ref().map(Args::longest_end).unwrap_or_default(),
        unknown,
        other_maps: other_maps.filter(|path| path != MOUNTED_MAPS),
        strict_maps: args.as_ref().is_some_and(|args| args.strict_maps),
        is_legacy: args.as_ref().is_some_and(is_legacy),
        has_no_prefix: args.as_ref().is_some_and(has_no_prefix),
    }
}

/// The flags that `serve` has, and all commands.
fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    let serve = command.find_subcommand("serve").into_iter();
    let serve = serve.flat_map(Command::get_arguments);
    command.get_arguments().chain(serve)
}

/// Those that are set by variables. A variable that is set to nothing is not set.
fn given(command: &Command, entries: &Entries) -> Vec<Given> {
    let given = flags(command).filter_map(|arg| {
        let variable = arg.get_env()?.to_str()?;
        let value = entries.get(variable).filter(|value| !value.is_empty())?;
        Some(Given {
            variable: variable.to_owned(),
            value: value.clone(),
            flag: arg.get_long()?.to_owned(),
        })
    });
    given
        .filter(|one| !SET.contains(&one.variable.as_str()))
        .collect()
}

impl Given {
    /// Why it ends `serve`, if it does so by itself.
    fn flaw(&self) -> Option<String> {
        let error = parse(std::slice::from_ref(self)).err()?;
        Some(self.with(&reason(&error)))
    }

    fn with(&self, why: &str) -> String {
        let value = shortened(&self.value, MAX_SHOWN);
        format!("{}={value:?}: {why}", self.variable)
    }
}

/// As `serve` would be called with these flags alone, whatever variables this process has.
fn parse(given: &[Given]) -> Result<Args, clap::Error> {
    let words = given
        .iter()
        .map(|one| format!("--{}={}", one.flag, one.value));
    let words = ["imageswap", "serve"]
        .map(str::to_owned)
        .into_iter()
        .chain(words);
    let bare = |arg: Arg| bare(arg, given);
    let command = crate::cli::command().mut_args(bare);
    let command = command.mut_subcommand("serve", |serve| serve.mut_args(bare));
    let mut matches = command.try_get_matches_from(words)?;
    let serve = matches.remove_subcommand();
    let (_, mut serve) =
        serve.ok_or_else(|| clap::Error::new(clap::error::ErrorKind::MissingSubcommand))?;
    Args::from_arg_matches_mut(&mut serve)
}

/// A variable says yes or no, where a flag on the command line takes no value.
fn bare(arg: Arg, given: &[Given]) -> Arg {
    let is_given = given.iter().any(|one| arg.get_long() == Some(&one.flag));
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let arg = arg.env(Resettable::Reset);
    match is_given && is_switch {
        true => arg.action(ArgAction::Set),
        false => arg,
    }
}

/// Why a value is refused, without saying it: it may be long.
fn reason(error: &clap::Error) -> String {
    let words = || match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(words)) => Some(format!("it is one of {}", words.join(", "))),
        _ => None,
    };
    let source = error.source().map(ToString::to_string);
    source
        .or_else(words)
        .unwrap_or_else(|| error.kind().to_string())
}

/// Whether all is seen that `serve` is told. The Deployment may take any other variable from elsewhere.
fn is_all(command: &Command, variables: &Variables) -> bool {
    let is_unseen = |name: &str| variables.env.get(name) == Some(&None) && !SET.contains(&name);
    let mut names = flags(command).filter_map(|arg| arg.get_env()?.to_str());
    !variables.has_more && !names.any(is_unseen)
}

/// What `serve` refuses after its flags are read, so far as no file has to be there.
fn at_start(args: &Args, given: &[Given]) -> Vec<String> {
    let level = logs::filter(&args.log_level).err();
    let level = level.map(|_| no_level(&args.log_level));
    let level = level.map(|why| format!("IMAGESWAP_LOG_LEVEL: {why}"));
    let policy = args.policy(Vec::new(), Vec::new()).err();
    let policy = policy.map(|error| named(error.to_string(), given));
    level.into_iter().chain(policy).collect()
}

/// With the variables that it is about.
fn named(why: String, given: &[Given]) -> String {
    let is_meant = |one: &&Given| why.contains(&format!("--{}", one.flag));
    let names = given.iter().filter(is_meant);
    let names: Vec<_> = names.map(|one| one.variable.as_str()).collect();
    format!("{}: {why}", names.join(", "))
}

/// What `serve` refuses because something else is not set.
fn halves(args: &Args, given: &[Given], variables: &Variables) -> Vec<String> {
    // What is brought in files needs no cluster. And who says so in the Deployment may have mounted a directory there.
    let is_meant = |name: &str| name == "IMAGESWAP_CLUSTER" || name == "IMAGESWAP_STATE_DIR";
    let is_meant = variables.env.keys().any(|name| is_meant(name));
    let has_files = args.tls_files().iter().any(Option::is_some);
    let is_alone = is_by_itself(args) && !has_files && !is_meant;
    let halves = [
        is_alone.then(|| ALONE.to_owned()),
        brought::files_of(args).err().map(|error| error.to_string()),
        client_certs::asked_for(args)
            .err()
            .map(|error| error.to_string()),
    ];
    let halves = halves.into_iter().flatten();
    halves.map(|why| named(why, given)).collect()
}

/// Whether a replica would do without the cluster.
fn is_by_itself(args: &Args) -> bool {
    matches!(args.place_in(POD), Ok(Place::Machine))
}

/// What `serve` takes, and `deploy/` does not carry: what leaves replicas unready or out of reach, and what leaves them
/// without a leader. Who has changed the Deployment may have changed the others with it.
fn misfits(
    args: &Args,
    given: &[Given],
    variables: &Variables,
    names: &Names,
) -> (Vec<String>, Option<String>) {
    let is_on = |address: SocketAddr, port| address.port() == port && address.ip().is_unspecified();
    let ours = args.names.names(Place::Pod);
    let is_by_itself = is_by_itself(args);
    let has_files = args.tls_files().iter().any(Option::is_some);
    let (port, admin_port) = PORTS;
    let misfit = |variable: &str, fits: bool, why: String| {
        let one = given.iter().find(|one| one.variable == variable)?;
        let fits = fits || variables.env.contains_key(variable);
        (!fits).then(|| one.with(&why))
    };
    let unfit = [
        misfit(
            "IMAGESWAP_LISTEN",
            is_on(args.listen, port),
            format!("the Service leads to port {port} of a Pod's address"),
        ),
        misfit(
            "IMAGESWAP_ADMIN_LISTEN",
            is_on(args.admin_listen, admin_port),
            format!("the probes ask port {admin_port} of a Pod's address"),
        ),
        misfit(
            "IMAGESWAP_TLS_SECRET",
            is_by_itself || has_files || ours.secret == names.secret,
            format!("the Role names {}", names.secret),
        ),
        misfit(
            "IMAGESWAP_WEBHOOK_CONFIGURATION",
            is_by_itself || ours.configuration == names.configuration,
            format!("the ClusterRole names {}", names.configuration),
        ),
        misfit(
            "IMAGESWAP_SERVICE",
            is_by_itself || ours.service == names.service,
            format!("kube-apiserver calls {}", names.service),
        ),
    ];
    let unled = misfit(
        "IMAGESWAP_LEASE",
        is_by_itself || ours.lease == names.lease,
        format!("the Role names {}", names.lease),
    );
    (unfit.into_iter().flatten().collect(), unled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Settings {
        settings(&all_of(entries), &names())
    }

    /// Without a word from the Deployment.
    fn all_of(entries: &[(&str, &str)]) -> Variables {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Variables {
            entries: entries.iter().map(owned).collect(),
            ..Variables::default()
        }
    }

    fn names() -> Names {
        parse(&[]).unwrap().names.names(Place::Pod)
    }

    #[test]
    fn what_ends_a_replica_is_named_with_its_reason() {
        for (entries, parts) in [
            (&[][..], &[][..]),
            // A time has a unit, and what is quoted stays short.
            (
                &[("IMAGESWAP_DRAIN_DELAY", "8")],
                &["IMAGESWAP_DRAIN_DELAY=\"8\": a time is a number with a unit"],
            ),
            (
                &[("IMAGESWAP_MODE", "map")],
                &["IMAGESWAP_MODE=\"map\": it is one of maps, legacy"],
            ),
            (&[("IMAGESWAP_MODE", "LEGACY")], &[]),
            (
                &[("IMAGESWAP_MAX_IN_FLIGHT", "0")],
                &["0 is not in 1..=100000"],
            ),
            (
                &[("IMAGESWAP_MAX_IN_FLIGHT", "-1")],
                &["IMAGESWAP_MAX_IN_FLIGHT"],
            ),
            (
                &[("IMAGESWAP_LISTEN", "here")],
                &["IMAGESWAP_LISTEN=\"here\": an address is"],
            ),
            (&[("IMAGESWAP_STRICT_MAPS", "maybe")], &["it is yes or no"]),
            (&[("IMAGESWAP_STRICT_MAPS", "off")], &[]),
            (
                &[("IMAGESWAP_PATCH_CA_BUNDLE", "maybe")],
                &["IMAGESWAP_PATCH_CA_BUNDLE"],
            ),
            (&[("IMAGESWAP_PATCH_CA_BUNDLE", "no")], &[]),
            (&[("IMAGESWAP_DISABLE_LABEL", "a b")], &["a label's key is"]),
            // Of all commands.
            (
                &[("IMAGESWAP_COLOR", "red")],
                &["it is one of auto, always, never"],
            ),
            // Of other commands alone.
            (&[("IMAGESWAP_OUTPUT", "rubbish")], &[]),
            // What is set to nothing is not set.
            (
                &[("IMAGESWAP_DRAIN_DELAY", ""), ("IMAGESWAP_SERVICE", "")],
                &[],
            ),
            (
                &[("IMAGESWAP_LOG_LEVEL", "loud")],
                &["IMAGESWAP_LOG_LEVEL: \"loud\" is no log level"],
            ),
            (&[("IMAGESWAP_LOG_LEVEL", "WARNING")], &[]),
            // One half of two.
            (
                &[("IMAGESWAP_CLIENT_NAME", "a,b")],
                &["IMAGESWAP_CLIENT_NAME: --client-name needs --client-ca"],
            ),
            (
                &[
                    ("IMAGESWAP_CLIENT_NAME", "a,b"),
                    ("IMAGESWAP_CLIENT_CA", "f"),
                ],
                &[],
            ),
            (
                &[("IMAGESWAP_TLS_CERT", "c")],
                &["IMAGESWAP_TLS_CERT: --tls-cert needs --tls-key"],
            ),
            (&[("IMAGESWAP_MAPS_FILE", "--strict-maps")], &[]),
            // Each is right, and they are not together.
            (
                &[
                    ("IMAGESWAP_CERT_LIFETIME", "1h"),
                    ("IMAGESWAP_TRUST_DELAY", "30m"),
                ],
                &["IMAGESWAP_CERT_LIFETIME, IMAGESWAP_TRUST_DELAY: --cert-lifetime must be longer"],
            ),
            (
                &[
                    ("IMAGESWAP_DRAIN_DELAY", "x"),
                    ("IMAGESWAP_LEASE_TIME", "x"),
                ],
                &["IMAGESWAP_LEASE_TIME", "IMAGESWAP_DRAIN_DELAY"],
            ),
        ] {
            let found = read(entries).unusable;
            assert_eq!(found.len(), parts.len(), "{entries:?}: {found:?}");
            for (found, part) in found.iter().zip(parts) {
                assert!(found.contains(part), "{entries:?}: {found}");
            }
        }
        let long = "9".repeat(5_000);
        let found = read(&[("IMAGESWAP_DRAIN_DELAY", &long)]).unusable;
        assert!(found[0].len() < 300, "{found:?}");
    }

    #[test]
    fn names_that_nobody_knows_are_told_from_those_of_1_5_3() {
        let found = read(&[
            ("IMAGESWAP_STRICT_MAP", "true"),
            ("IMAGESWAP_CLUSTER_NAME", "c"),
            ("IMAGESWAP_DISABLE_AUTO_MWC", "true"),
            ("imageswap_tls_secret_name", "s"),
            ("FLASK_ENV", "production"),
            ("PYTHONUNBUFFERED", "1"),
            ("IMAGE_PREFIX", "p"),
            ("IMAGESWAP_LOG_LEVEL", "INFO"),
            ("IMAGESWAP_NAMESPACE_NAME", "n"),
            // Which Kubernetes makes, but not here.
            ("IMAGESWAP_SERVICE_HOST", "h"),
            ("HTTPS_PROXY", "p"),
        ]);
        let unknown = ["IMAGESWAP_SERVICE_HOST", "IMAGESWAP_STRICT_MAP"];
        assert_eq!(found.unknown, unknown);
        assert!(found.unusable.is_empty(), "{found:?}");
    }

    #[test]
    fn what_the_maps_are_judged_by_is_read_although_another_variable_is_bad() {
        let bad = ("IMAGESWAP_DRAIN_DELAY", "x");
        for (entries, expected) in [
            (&[bad][..], (false, false)),
            (&[bad, ("IMAGESWAP_STRICT_MAPS", "yes")], (true, false)),
            (&[bad, ("IMAGESWAP_STRICT_MAPS", "no")], (false, false)),
            (&[bad, ("IMAGESWAP_MODE", "Legacy")], (false, true)),
        ] {
            let found = read(entries);
            assert_eq!(
                (found.strict_maps, found.is_legacy),
                expected,
                "{entries:?}"
            );
        }
    }

    #[test]
    fn legacy_mode_has_a_prefix_or_swaps_nothing() {
        let legacy = ("IMAGESWAP_MODE", "LEGACY");
        for (entries, is_unseen, expected) in [
            (&[][..], false, false),
            (&[legacy], false, true),
            (&[legacy, ("IMAGE_PREFIX", "")], false, true),
            (&[legacy, ("IMAGE_PREFIX", "p.io/")], false, false),
            (&[legacy], true, false),
        ] {
            let mut variables = all_of(entries);
            if is_unseen {
                variables.env.insert("IMAGE_PREFIX".to_owned(), None);
            }
            // Whether there may be more is not for these to say.
            for has_more in [false, true] {
                variables.has_more = has_more;
                let found = settings(&variables, &names());
                assert_eq!(found.has_no_prefix, expected, "{variables:?}");
            }
        }
    }

    #[test]
    fn what_deploy_does_not_carry_is_named() {
        let files = [("IMAGESWAP_TLS_CERT", "c"), ("IMAGESWAP_TLS_KEY", "k")];
        let off = ("IMAGESWAP_CLUSTER", "off");
        let alone = "a replica has nowhere to keep a certificate";
        for (entries, unusable, unfit, unled) in [
            (&[off][..], alone, "", ""),
            (&[("IMAGESWAP_STATE_DIR", "/state")], alone, "", ""),
            (
                &[
                    ("IMAGESWAP_STATE_DIR", "/state"),
                    ("IMAGESWAP_CLUSTER", "on"),
                ],
                "",
                "",
                "",
            ),
            (&[("IMAGESWAP_CLUSTER", "on")], "", "", ""),
            // An injector may write the caBundle.
            (
                &[files[0], files[1], off, ("IMAGESWAP_LEASE", "l")],
                "",
                "",
                "",
            ),
            (
                &[("IMAGESWAP_LISTEN", ":5001")],
                "",
                "=\":5001\": the Service leads to port 5000",
                "",
            ),
            (
                &[("IMAGESWAP_LISTEN", "127.0.0.1:5000")],
                "",
                "the Service leads to port 5000",
                "",
            ),
            (&[("IMAGESWAP_LISTEN", "0.0.0.0:5000")], "", "", ""),
            // Where probes and metrics are.
            (
                &[("IMAGESWAP_LISTEN", ":9090")],
                "",
                "the Service leads to port 5000",
                "",
            ),
            (
                &[("IMAGESWAP_ADMIN_LISTEN", ":9091")],
                "",
                "the probes ask port 9090",
                "",
            ),
            (
                &[("IMAGESWAP_ADMIN_LISTEN", "[::1]:9090")],
                "",
                "the probes ask port 9090",
                "",
            ),
            (&[("IMAGESWAP_ADMIN_LISTEN", ":9090")], "", "", ""),
            (
                &[("IMAGESWAP_TLS_SECRET", "s")],
                "",
                "the Role names imageswap-tls",
                "",
            ),
            (
                &[files[0], files[1], ("IMAGESWAP_TLS_SECRET", "s")],
                "",
                "",
                "",
            ),
            (
                &[("IMAGESWAP_WEBHOOK_CONFIGURATION", "w")],
                "",
                "the ClusterRole names imageswap-w",
                "",
            ),
            (
                &[("IMAGESWAP_SERVICE", "s")],
                "",
                "kube-apiserver calls imageswap",
                "",
            ),
            (
                &[("IMAGESWAP_LEASE", "l")],
                "",
                "",
                "the Role names imageswap-leader",
            ),
        ] {
            let found = read(entries);
            for (part, found) in [
                (unusable, found.unusable),
                (unfit, found.unfit),
                (unled, found.unled.into_iter().collect()),
            ] {
                assert_eq!(
                    found.len(),
                    usize::from(!part.is_empty()),
                    "{entries:?}: {found:?}"
                );
                assert!(found.concat().contains(part), "{entries:?}: {found:?}");
            }
        }
        // Who has changed all of it says so.
        let service = "s".to_owned();
        let found = settings(
            &all_of(&[("IMAGESWAP_SERVICE", "s")]),
            &Names { service, ..names() },
        );
        assert!(found.unfit.is_empty(), "{found:?}");
    }

    #[test]
    fn what_the_deployment_says_is_meant_and_may_be_another_half_that_is_not_seen() {
        let half = ("IMAGESWAP_CLIENT_NAME", "a");
        let off = ("IMAGESWAP_CLUSTER", "off");
        let with = |env: &[(&str, bool)], has_more| {
            let value = |is_seen: bool| is_seen.then(String::new);
            let env = env
                .iter()
                .map(|(name, is_seen)| ((*name).to_owned(), value(*is_seen)));
            (env.collect(), has_more)
        };
        // As in `deploy/`.
        let plain = [("IMAGESWAP_POD_NAME", false)];
        let elsewhere = [("IMAGESWAP_CLIENT_CA", false)];
        let not_ours = [("NODE_NAME", false), ("IMAGESWAP_CLIENT_CAS", false)];
        for (entries, (env, has_more), unusable, alone, unfit) in [
            (half, with(&plain, false), 1, 0, 0),
            (half, with(&plain, true), 0, 1, 0),
            (half, with(&elsewhere, false), 0, 1, 0),
            (half, with(&not_ours, false), 1, 0, 0),
            (off, with(&plain, false), 1, 0, 0),
            (off, with(&plain, true), 0, 1, 0),
            (off, with(&[("IMAGESWAP_STATE_DIR", true)], false), 0, 0, 0),
            // What is wrong by itself is so in any case.
            (("IMAGESWAP_LOG_LEVEL", "loud"), with(&plain, true), 1, 0, 0),
            (("IMAGESWAP_LISTEN", ":5001"), with(&plain, true), 0, 0, 1),
            (
                ("IMAGESWAP_LISTEN", ":5001"),
                with(&[("IMAGESWAP_LISTEN", true)], false),
                0,
                0,
                0,
            ),
        ] {
            let variables = Variables {
                env,
                has_more,
                ..all_of(&[entries])
            };
            let found = settings(&variables, &names());
            assert_eq!(
                (
                    found.unusable.len(),
                    found.unusable_alone.len(),
                    found.unfit.len()
                ),
                (unusable, alone, unfit),
                "{variables:?}: {found:?}"
            );
        }
    }

    #[test]
    fn the_longest_end_is_that_of_the_drain_a_review_and_the_leave() {
        for (time, seconds) in [("8s", 22), ("1m", 74)] {
            let found = read(&[("IMAGESWAP_DRAIN_DELAY", time)]);
            assert_eq!(found.longest_end.as_secs(), seconds, "{time}");
        }
    }

    /// By the ports that the manifests name.
    #[test]
    fn the_service_and_the_probes_lead_to_the_ports_that_are_judged_by() {
        let (port, admin_port) = PORTS;
        let service = include_str!("../../../deploy/base/service.yaml");
        assert!(service.contains(&format!("targetPort: {port}\n")));
        let deployment = include_str!("../../../deploy/base/deployment.yaml");
        let probes = deployment.matches("httpGet:").count();
        assert_eq!(
            deployment
                .matches(&format!(" port: {admin_port}\n"))
                .count(),
            probes
        );
    }

    #[test]
    fn another_map_file_is_named() {
        for (path, expected) in [
            ("/app/maps/imageswap-maps.conf", None),
            ("", None),
            (
                "/app/maps/maps.conf",
                Some("/app/maps/maps.conf".to_owned()),
            ),
        ] {
            assert_eq!(read(&[("IMAGESWAP_MAPS_FILE", path)]).other_maps, expected);
        }
    }

    /// By what each flag says itself of its default.
    #[test]
    fn every_default_may_be_written_out() {
        let command = crate::cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        let defaults = serve.get_arguments().filter_map(|arg| {
            let value = arg.get_default_values().first()?.to_str()?;
            Some((arg.get_env()?.to_str()?.to_owned(), value.to_owned()))
        });
        let entries: Entries = defaults.collect();
        assert!(entries.len() > 20, "{entries:?}");
        let variables = Variables {
            entries,
            ..Variables::default()
        };
        let found = settings(&variables, &names());
        assert!(
            found.unusable.is_empty() && found.unknown.is_empty() && found.unfit.is_empty(),
            "{found:?}"
        );
    }
}
