//! What `serve` would make of the variables in a ConfigMap, by the same definitions, without being started: for
//! `status --pre`.

use std::error::Error;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command, FromArgMatches};

use super::args::{Args, is_strange};
use super::{brought, client_certs, no_level};
use crate::cli::args::{MOUNTED_MAPS, Mode};
use crate::status::pre::{Entries, Settings};
use crate::telemetry::logs;
use crate::text::shortened;

/// The Deployment sets these itself, and its word counts more.
const SET: [&str; 2] = ["IMAGESWAP_POD_NAME", "IMAGESWAP_NAMESPACE_NAME"];

/// So much of a value is shown, in characters.
const MAX_SHOWN: usize = 60;

/// A flag as a variable sets it.
struct Given {
    variable: String,
    value: String,
    /// Without the dashes.
    flag: String,
}

/// Judges what is in a ConfigMap.
pub(in crate::cli) fn settings(entries: &Entries) -> Settings {
    let command = crate::cli::command();
    let names = entries.keys().filter(|name| is_strange(&command, name));
    let unknown = names.cloned().collect();
    let mut unusable = Vec::new();
    let mut good = given(&command, entries);
    good.retain(|one| {
        let flaw = one.flaw();
        unusable.extend(flaw.clone());
        flaw.is_none()
    });
    let parsed = parse(&good);
    if let Ok(args) = &parsed {
        unusable.extend(at_start(args, &good));
    }
    let args = parsed.map_err(|error| unusable.push(reason(&error))).ok();
    let maps_of = |args: &Args| Some(args.rules.maps.as_ref()?.to_string_lossy().into_owned());
    let other_maps = args.as_ref().and_then(maps_of);
    Settings {
        unusable,
        unknown,
        other_maps: other_maps.filter(|path| path != MOUNTED_MAPS),
        strict_maps: args.as_ref().is_some_and(|args| args.strict_maps),
        is_legacy: args.is_some_and(|args| args.rules.mode == Mode::Legacy),
    }
}

/// The flags that `serve` has, and all commands. A variable that is set to nothing is not set.
fn given(command: &Command, entries: &Entries) -> Vec<Given> {
    let serve = command.find_subcommand("serve").into_iter();
    let args = command.get_arguments();
    let args = args.chain(serve.flat_map(Command::get_arguments));
    let given = args.filter_map(|arg| {
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

/// What `serve` refuses after its flags are read, so far as no file has to be there.
fn at_start(args: &Args, given: &[Given]) -> Vec<String> {
    let level = logs::filter(&args.log_level).err();
    let level = level.map(|_| no_level(&args.log_level));
    let policy = args.policy(Vec::new(), Vec::new()).err();
    let policy = policy.map(|error| error.to_string());
    let named = |why: String| {
        let is_meant = |one: &&Given| why.contains(&format!("--{}", one.flag));
        let names = given.iter().filter(is_meant);
        let names: Vec<_> = names.map(|one| one.variable.as_str()).collect();
        format!("{}: {why}", names.join(", "))
    };
    let level = level.map(|why| format!("IMAGESWAP_LOG_LEVEL: {why}"));
    let halves = [
        policy,
        brought::files_of(args).err().map(|error| error.to_string()),
        client_certs::asked_for(args)
            .err()
            .map(|error| error.to_string()),
    ];
    let halves = halves.into_iter().flatten().map(named);
    level.into_iter().chain(halves).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Settings {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        settings(&entries.iter().map(owned).collect())
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
        let found = settings(&entries);
        assert!(
            found.unusable.is_empty() && found.unknown.is_empty(),
            "{found:?}"
        );
    }
}
