//! Arguments that several commands share.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::OsStringValueParser;

use super::terminal;
use crate::cluster::kubernetes::LABEL;
use crate::cluster::place::Surroundings;
use crate::maps::{Legacy, Maps, Rules};
use crate::maps_file::{self, Loaded};
use crate::text::counted;

/// Where 1.5.3's container had its map file.
pub(super) const MOUNTED_MAPS: &str = "/app/maps/imageswap-maps.conf";

/// In use where there is no map file.
const EXAMPLE: &str = include_str!("../maps/example.conf");

/// The label whose value `disabled` keeps ImageSwap away.
pub(super) const DISABLE_LABEL: &str = LABEL;

/// Which rules to use.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct RulesArgs {
    /// The map file [default: /app/maps/imageswap-maps.conf; where that does not exist, a built-in
    /// example, or in a cluster nothing until it does]
    #[arg(
        help_heading = "Rules",
        long,
        value_name = "FILE",
        value_parser = OsStringValueParser::new(),
        env = "IMAGESWAP_MAPS_FILE"
    )]
    pub(super) maps: Option<OsString>,

    /// Swap by a map file, or by one prefix (deprecated)
    #[arg(
        help_heading = "Rules",
        long,
        value_enum,
        ignore_case = true,
        hide_possible_values = true,
        value_name = "maps|legacy",
        default_value_t,
        env = "IMAGESWAP_MODE"
    )]
    pub(super) mode: Mode,

    /// The prefix of legacy mode; empty: do not swap
    #[arg(
        help_heading = "Rules",
        long,
        value_name = "PREFIX",
        default_value = "",
        env = "IMAGE_PREFIX"
    )]
    pub(super) image_prefix: String,
}

/// How images are swapped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// By a map file
    #[default]
    Maps,
    /// By the prefix alone (deprecated)
    Legacy,
}

/// How to print.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct OutputArgs {
    /// The form of what is printed
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        hide_possible_values = true,
        value_name = "text|json",
        default_value_t,
        env = "IMAGESWAP_OUTPUT"
    )]
    pub(super) form: Output,
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    #[default]
    Text,
    /// For machines, one object a line
    Json,
}

/// Standard input may be named once among the arguments: a second time nothing is left of it.
///
/// # Errors
/// It is named more than once.
pub(super) fn stdin_once<A: AsRef<OsStr>>(arguments: &[A]) -> anyhow::Result<()> {
    let named = arguments.iter().filter(|name| name.as_ref() == "-");
    if named.count() > 1 {
        anyhow::bail!(
            "`-` is named more than once, but standard input can be read only once: name it once"
        );
    }
    Ok(())
}

impl RulesArgs {
    /// The map file, if there is one.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let mounted = || Some(PathBuf::from(MOUNTED_MAPS)).filter(|path| path.exists());
        self.named().or_else(mounted)
    }

    /// Where the map file is or will be, in a cluster.
    pub(super) fn file_to_come(&self) -> PathBuf {
        self.named().unwrap_or_else(|| MOUNTED_MAPS.into())
    }

    fn named(&self) -> Option<PathBuf> {
        // A variable that is set to nothing is not set.
        let named = self.maps.clone().filter(|path| !path.is_empty());
        named.map(PathBuf::from)
    }

    /// Whether there are no rules but the built-in example.
    pub(super) fn is_example(&self) -> bool {
        self.mode == Mode::Maps && self.file().is_none()
    }

    /// What is said of the other mode alone, and so has no effect.
    pub(super) fn without_effect(&self) -> Option<&'static str> {
        match self.mode {
            Mode::Maps if !self.image_prefix.is_empty() => Some(
                "IMAGE_PREFIX (--image-prefix) has no effect: it is for `--mode legacy`, and this is `maps`",
            ),
            Mode::Legacy if self.named().is_some() => Some(
                "IMAGESWAP_MAPS_FILE (--maps) has no effect: it is for `--mode maps`, and this is `legacy`",
            ),
            Mode::Maps | Mode::Legacy => None,
        }
    }

    /// The rules, only to be asked; says so if they are the example.
    pub(super) fn load(&self) -> anyhow::Result<Rules> {
        if let Some(hint) = self.without_effect() {
            terminal::hint(hint);
        }
        if self.mode == Mode::Legacy {
            return Ok(self.legacy());
        }
        match self.file() {
            Some(path) if path.as_os_str() == "-" => {
                anyhow::bail!("--maps wants a file: standard input is for what is to be swapped")
            }
            Some(path) => {
                let maps = maps_file::load_quietly(&path)?;
                if maps.is_empty() {
                    let path = path.display();
                    terminal::hint(&format!(
                        "there is no rule in {path}, so nothing is swapped"
                    ));
                } else if !maps.has_live_rule() {
                    let path = path.display();
                    terminal::hint(&format!(
                        "there is no rule in {path} that a usual image could match, so none is swapped; \
                         `imageswap check {path}` shows why"
                    ));
                } else if maps.skipped() > 0 {
                    let (path, skipped) = (path.display(), counted(maps.skipped(), "line"));
                    terminal::hint(&format!(
                        "{path} has {skipped} in error, skipped; `imageswap check {path}` shows what is wrong"
                    ));
                }
                Ok(Rules::Maps(Box::new(maps)))
            }
            // As `serve` does there.
            None if Surroundings::look().is_pod => {
                terminal::hint(&format!(
                    "there is no map file {MOUNTED_MAPS}, so nothing is swapped"
                ));
                Ok(Rules::Maps(Box::new(Maps::parse(b"")?.0)))
            }
            None => {
                terminal::hint("no map file is named (--maps FILE): a built-in example is used");
                Ok(Rules::Maps(Box::new(example()?.maps)))
            }
        }
    }

    pub(super) fn legacy(&self) -> Rules {
        Rules::Legacy(Legacy {
            prefix: self.image_prefix.clone(),
        })
    }
}

/// The built-in example.
pub(super) fn example() -> anyhow::Result<Loaded> {
    Ok(Loaded::parse(EXAMPLE.as_bytes())?)
}

/// Yes or no, as a variable says it for a flag; a flag that is given says yes. Nothing is no, as charts set it.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "on" | "t" | "true" | "y" | "yes" => Ok(true),
        "" | "0" | "f" | "false" | "n" | "no" | "off" => Ok(false),
        _ => Err("it is yes or no: true, yes, on, 1 or false, no, off, 0".to_owned()),
    }
}

/// `9s`, `10m`, `365d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let help = "a time is a number with a unit: 500ms, 9s, 10m, 12h, 365d";
    let days = text
        .strip_suffix('d')
        .and_then(|days| days.trim().parse::<u32>().ok());
    let parsed = match days {
        Some(days) => Duration::from_secs(u64::from(days) * 86_400),
        None => {
            let signed: jiff::SignedDuration = text.parse().map_err(|_| help.to_owned())?;
            Duration::try_from(signed).map_err(|_| help.to_owned())?
        }
    };
    if parsed > MAX_TIME {
        return Err("a time is at most 36500d".to_owned());
    }
    Ok(parsed)
}

/// A label's key, as Kubernetes has it: a name, which a domain and a slash may stand before.
pub(super) fn label_key(text: &str) -> Result<String, String> {
    let (domain, name) = match text.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, text),
    };
    let is_made_of = |text: &str, most: usize, also: &str| {
        let mut ends = [text.chars().next(), text.chars().next_back()].into_iter();
        let is_right = |c: char| c.is_ascii_alphanumeric() || also.contains(c);
        let ends_well = ends.all(|c| c.is_some_and(|c| c.is_ascii_alphanumeric()));
        ends_well && text.len() <= most && text.chars().all(is_right)
    };
    match is_made_of(name, 63, "-_.") && domain.is_none_or(|domain| is_made_of(domain, 253, "-.")) {
        true => Ok(text.to_owned()),
        false => Err(
            "a label's key is NAME or DOMAIN/NAME, of letters, digits, '-', '_' and '.'".to_owned(),
        ),
    }
}

/// A time that is not zero.
pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it must be more than nothing: 9s".to_owned()),
        time => Ok(time),
    }
}

/// A hundred years: dates and deadlines are reckoned with it.
const MAX_TIME: Duration = Duration::from_secs(36_500 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_without_fault() {
        let Loaded { maps, findings, .. } = example().unwrap();
        assert_eq!(findings.listed(), []);
        assert_eq!(
            maps.swap("docker.io/nginx/nginx:latest").image(),
            Some("my-registry.example.com/nginx/nginx:latest")
        );
    }

    #[test]
    fn a_label_key_is_one_that_kubernetes_takes() {
        for (text, is_one) in [
            (DISABLE_LABEL, true),
            ("a", true),
            ("a.B_c-1", true),
            ("", false),
            ("a b", false),
            ("a/", false),
            ("/a", false),
            ("a/b/c", false),
            ("-a", false),
            ("a_b/c", false),
            (&"a".repeat(63), true),
            (&"a".repeat(64), false),
        ] {
            assert_eq!(label_key(text).is_ok(), is_one, "{text}");
        }
    }

    #[test]
    fn a_duration_has_a_unit() {
        for (text, expected) in [
            ("9s", Some(9_000)),
            ("500ms", Some(500)),
            ("10m", Some(600_000)),
            ("365d", Some(31_536_000_000)),
            ("0s", Some(0)),
            ("36500d", Some(3_153_600_000_000)),
            ("36501d", None),
            ("9223372036854775807s", None),
            ("-1s", None),
            ("9", None),
            ("", None),
        ] {
            assert_eq!(
                duration(text).ok().map(|d| d.as_millis()),
                expected,
                "{text}"
            );
        }
    }
}
