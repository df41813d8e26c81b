//! `imageswap rewrite`: manifests in, manifests out, with the images swapped and nothing else.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use similar::TextDiff;
use tempfile::{NamedTempFile, TempPath};

use super::args::{DISABLE_LABEL, Mode, RulesArgs, flag, label_key, stdin_once};
use super::terminal::{self, BOLD, ERROR, GOOD};
use crate::manifests::{self, Ambiguous, Found, Rewritten};
use crate::maps::Rules;
use crate::text::visible;

/// Swap the images in Kubernetes manifests, and nothing else in them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
    Comments, order and quoting stay. YAML with any number of documents, JSON, and Lists are \
    read; objects that carry the disabling label stay as they are. Exits with 2, and \
    prints nothing, if something can't be read.")]
pub(super) struct Args {
    /// The manifests; `-`, or none, reads standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Show what would change, in place of the result
    #[arg(long, value_parser = flag, env = "IMAGESWAP_DIFF")]
    diff: bool,

    /// Write each file that changes back
    #[arg(short, long, value_parser = flag, env = "IMAGESWAP_IN_PLACE")]
    in_place: bool,

    /// The label whose value "disabled" on an object keeps its images
    #[arg(long, value_name = "LABEL", value_parser = label_key, default_value = DISABLE_LABEL, env = "IMAGESWAP_DISABLE_LABEL")]
    disable_label: String,

    /// Refuse a map file with lines in error
    #[arg(long, value_parser = flag, env = "IMAGESWAP_STRICT_MAPS")]
    strict_maps: bool,

    #[command(flatten)]
    rules: RulesArgs,
}

/// A manifest before and after.
struct Done {
    path: PathBuf,
    before: String,
    after: Rewritten,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // By hand, for a variable that says no is no wish.
    if args.diff && args.in_place {
        anyhow::bail!(
            "--diff shows what would change and --in-place changes it: say one of them (IMAGESWAP_DIFF and \
             IMAGESWAP_IN_PLACE say so, too)"
        );
    }
    stdin_once(&args.files)?;
    let reads_stdin = args.files.is_empty() || args.files.iter().any(|file| is_stdin(file));
    if args.in_place && reads_stdin {
        anyhow::bail!("--in-place wants files: standard input can't be written back");
    }
    // Before anything is read: what a pipe holds would be gone.
    let is_special = |file: &&PathBuf| fs::metadata(file).is_ok_and(|known| !known.is_file());
    if args.in_place
        && let Some(file) = args.files.iter().find(is_special)
    {
        let no_file = anyhow::anyhow!(match file.is_dir() {
            true => "it is a directory: name its files",
            false => "it is no regular file, and would become one",
        });
        return Err(no_file.context(unwritten(file, &[])));
    }
    // What the example says is nobody's wish.
    if args.rules.is_example() {
        anyhow::bail!("no map file is named, so it is not known what to swap: say --maps FILE");
    }
    if args.rules.mode == Mode::Legacy && args.rules.image_prefix.is_empty() {
        anyhow::bail!("there is no prefix, so nothing would be swapped: say --image-prefix PREFIX");
    }
    let rules = args.rules.load()?;
    if let Rules::Maps(maps) = &rules
        && args.strict_maps
        && maps.skipped() > 0
    {
        anyhow::bail!("the map file has lines in error, and --strict-maps is set");
    }
    let stdin = [PathBuf::from("-")];
    let files = if args.files.is_empty() {
        &stdin[..]
    } else {
        &args.files[..]
    };
    // All of them before the first is printed: half an answer would be taken for one.
    let done: Vec<Done> = files
        .iter()
        .map(|path| rewrite(path, &rules, &args.disable_label))
        .collect::<Result<_, _>>()?;
    if args.in_place {
        write_back(&done)?;
    } else if args.diff {
        print_diffs(&done)?;
    } else {
        print_manifests(&done)?;
    }
    if io::stderr().is_terminal() {
        let count = |of: fn(&Rewritten) -> usize| done.iter().map(|d| of(&d.after)).sum::<usize>();
        let (swapped, objects) = (count(|r| r.swapped), count(|r| r.objects));
        terminal::hint(&format!(
            "swapped {swapped} images in {objects} objects with Pods"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn rewrite(path: &Path, rules: &Rules, disable_label: &str) -> anyhow::Result<Done> {
    let name = shown(path);
    let before = read(path).with_context(|| format!("can't read {name}"))?;
    let mut swap = |found: &Found<'_>| {
        let verdict = rules.swap(found.image);
        if let Some(why) = verdict.why_invalid() {
            let (line, image) = (found.line, found.image);
            terminal::hint(&format!(
                "{name}:{line}: the image {image:?} stays as it is: {why}"
            ));
        }
        verdict.outcome.ok()
    };
    let after = manifests::rewrite(&before, disable_label, &mut swap)
        .with_context(|| format!("can't rewrite {name}"))?;
    for line in &after.odd {
        terminal::hint(&format!(
            "{name}:{line}: what stands where an image should is no plain text, and stays as it is (a template must be \
             rendered, and a tag such as !!binary resolved, before)"
        ));
    }
    for Ambiguous {
        line,
        key,
        key_line,
    } in &after.ambiguous
    {
        let key = visible(key);
        terminal::hint(&format!(
            "{name}:{key_line}: the key {key} is given twice (itself or by a `<<` behind it), so the images of the \
             object that begins in line {line} stay as they are; keep one of the two"
        ));
    }
    Ok(Done {
        path: path.to_owned(),
        before,
        after,
    })
}

fn shown(path: &Path) -> String {
    if is_stdin(path) {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    if is_stdin(path) {
        io::stdin().lock().read_to_end(&mut bytes)?;
    } else {
        bytes = fs::read(path)?;
    }
    let text = String::from_utf8(bytes);
    text.map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("byte {at} of it is not UTF-8")
    })
}

/// As they are, with what separates two documents where one file would run into the next. Who reads the stream
/// tells by its beginning whether it is JSON or YAML, and then takes it all for that.
fn print_manifests(done: &[Done]) -> anyhow::Result<()> {
    let is_blank = |text: &str| text.trim_start_matches('\u{feff}').trim().is_empty();
    let is_shown = |one: &&Done| done.len() == 1 || !is_blank(&one.after.text);
    let all: Vec<_> = done.iter().filter(is_shown).collect();
    let is_json = all.iter().all(|done| done.after.json_values.is_some());
    let is_many = |done: &&&Done| done.after.json_values.is_some_and(|values| values > 1);
    if !is_json && let Some(many) = all.iter().find(is_many) {
        anyhow::bail!(
            "{} holds several JSON values, which can't stand in one stream with YAML: rewrite the JSON files by \
             themselves",
            shown(&many.path)
        );
    }
    let is_stream = all.len() > 1;
    let mut out = io::BufWriter::new(terminal::plain_stdout());
    let (mut before, mut has_document) = ("", false);
    for (number, Done { after, .. }) in all.into_iter().enumerate() {
        // Without a separator this would begin a stream of JSON.
        let looks_like_json = !is_json && is_stream && manifests::begins_as_json(&after.text);
        let is_first = number == 0;
        // A mark is one only where a stream begins.
        let text = match after.text.strip_prefix('\u{feff}') {
            Some(text) if !is_first || looks_like_json => text,
            _ => &after.text,
        };
        if !is_first && !before.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        let first = first_of_a_document(text);
        let separator = match text {
            // What reads values of JSON one after the other may not know the separator.
            _ if is_json => "",
            _ if is_first && looks_like_json => "---\n",
            _ if is_first || begins_a_document(text) => "",
            // Directives need the end of the document before them, if there is one. So do comments alone, which
            // might run into its last text, and would make an empty document of a separator.
            _ if first.is_none_or(|line| line.starts_with('%')) => match has_document {
                true => "...\n",
                false => "",
            },
            _ => "---\n",
        };
        out.write_all(separator.as_bytes())?;
        out.write_all(text.as_bytes())?;
        before = text;
        has_document = first.is_some();
    }
    out.flush()?;
    Ok(())
}

/// Whether its first line separates it from what is before.
fn begins_a_document(yaml: &str) -> bool {
    let behind = yaml.strip_prefix("---");
    behind.is_some_and(|text| text.is_empty() || text.starts_with([' ', '\t', '\r', '\n']))
}

/// The first line that is no comment.
fn first_of_a_document(yaml: &str) -> Option<&str> {
    let is_comment = |line: &&str| line.trim_start().starts_with('#') || line.trim().is_empty();
    let yaml = yaml.strip_prefix('\u{feff}').unwrap_or(yaml);
    yaml.split(manifests::LINE_BREAKS)
        .find(|line| !is_comment(line))
}

fn print_diffs(done: &[Done]) -> anyhow::Result<()> {
    let has_colour = terminal::stdout_has_colour();
    // As it is: what drops colour drops control characters, too, and no patch applies without them.
    let mut out = io::BufWriter::new(terminal::plain_stdout());
    for Done {
        path,
        before,
        after,
    } in done
    {
        let (before, after) = (lines_in_diff(before), lines_in_diff(&after.text));
        let (before, after): (Vec<_>, Vec<_>) = (
            before.iter().map(AsRef::as_ref).collect(),
            after.iter().map(AsRef::as_ref).collect(),
        );
        let diff = TextDiff::configure().diff_slices(&before, &after);
        let (old, new) = (name_in_diff("a", path), name_in_diff("b", path));
        let text = diff.unified_diff().header(&old, &new).to_string();
        let text = if has_colour { coloured(&text) } else { text };
        out.write_all(text.as_bytes())?;
    }
    out.flush()?;
    Ok(())
}

/// The lines of a text, each without its end, but with a note if it has none. Nothing else than `\n` ends a line
/// for who applies a patch, and `similar` takes a `\r` at the end of a text for one.
fn lines_in_diff(text: &str) -> Vec<Cow<'_, str>> {
    let lines = text.split_inclusive('\n');
    lines
        .map(|line| match line.strip_suffix('\n') {
            Some(line) => Cow::Borrowed(line),
            None => Cow::Owned(format!("{line}\n\\ No newline at end of file")),
        })
        .collect()
}

/// What is applied in this directory names its files from there, and without detours.
fn name_in_diff(side: &str, path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(here).unwrap_or(path);
    let mut parts: Vec<Component<'_>> = Vec::new();
    for part in path.components() {
        match part {
            Component::ParentDir if matches!(parts.last(), Some(Component::Normal(_))) => {
                parts.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            part => parts.push(part),
        }
    }
    let name = Path::new(side).join(parts.iter().collect::<PathBuf>());
    let name = quoted(name.as_os_str().as_bytes());
    // Behind a tab stands a date, or nothing: else a name ends at the first blank.
    match name.contains(' ') {
        true => name + "\t",
        false => name,
    }
}

/// A name with quotes and escapes, as git has them, where it has what it can't have without.
fn quoted(name: &[u8]) -> String {
    let is_special = |c: char| c.is_ascii_control() || matches!(c, '"' | '\\');
    if let Ok(name) = std::str::from_utf8(name)
        && !name.contains(is_special)
    {
        return name.to_owned();
    }
    let mut quoted = String::from('"');
    for b in name {
        match b {
            b'"' | b'\\' => quoted.extend(['\\', char::from(*b)]),
            b' '..=b'~' => quoted.push(char::from(*b)),
            b => quoted.push_str(&format!("\\{b:03o}")),
        }
    }
    quoted + "\""
}

/// A unified diff with its lines in colour.
fn coloured(diff: &str) -> String {
    let mut text = String::with_capacity(diff.len() * 2);
    for line in diff.split_inclusive('\n') {
        let (body, end) = match line.strip_suffix('\n') {
            Some(body) => (body, "\n"),
            None => (line, ""),
        };
        let style = match body.get(..1) {
            _ if body.starts_with("---") || body.starts_with("+++") => BOLD,
            Some("-") => ERROR,
            Some("+") => GOOD,
            Some("@") => BOLD,
            _ => {
                text.push_str(line);
                continue;
            }
        };
        // Writing to a String can't fail.
        let _ = write!(text, "{style}{body}{style:#}{end}");
    }
    text
}

/// All of them are written beside, each under a name that nobody has, before the first is renamed: a full disk
/// leaves every file as it was.
fn write_back(done: &[Done]) -> anyhow::Result<()> {
    let mut written = Vec::new();
    for Done {
        path,
        before,
        after,
    } in done
    {
        if *before == after.text {
            continue;
        }
        let beside = Beside::write(path, &after.text);
        let beside = beside.with_context(|| unwritten(path, &[]))?;
        written.push((path, beside));
    }
    let mut changed = Vec::new();
    for (path, beside) in written {
        beside
            .take_its_place()
            .with_context(|| unwritten(path, &changed))?;
        changed.push(path.display().to_string());
    }
    Ok(())
}

fn unwritten(path: &Path, changed: &[String]) -> String {
    let path = path.display();
    match changed {
        [] => format!("can't write {path}; no file is changed"),
        changed => format!("can't write {path}; only {} is changed", changed.join(", ")),
    }
}

/// What a file is to hold, beside it, with its owner and its permissions as far as they can be kept.
struct Beside {
    written: TempPath,
    target: PathBuf,
}

impl Beside {
    fn write(path: &Path, text: &str) -> io::Result<Self> {
        // A link stays a link: what it points to is replaced.
        let target = fs::canonicalize(path)?;
        let dir = target.parent().unwrap_or_else(|| Path::new("."));
        let mut file = NamedTempFile::new_in(dir)?;
        file.write_all(text.as_bytes())?;
        let known = fs::metadata(&target)?;
        if !hand_over(file.as_file(), &known)? {
            terminal::hint(&format!(
                "{}: its group can't be kept; the group that it has now may do no more with it than everybody may",
                path.display()
            ));
        }
        file.as_file().sync_all()?;
        // Closed, for there may be more files than may be open.
        let written = file.into_temp_path();
        Ok(Self { written, target })
    }

    fn take_its_place(self) -> io::Result<()> {
        self.written.persist(&self.target)?;
        Ok(())
    }
}

/// Gives a new file the owner, the group and the permissions of the old one; says whether its group is the same. Only
/// root may give a file to another user. Whoever else may write here may still be in its group; if not, what that
/// group may do is not for another group.
fn hand_over(new: &File, known: &Metadata) -> io::Result<bool> {
    let (uid, gid) = (Some(known.uid()), Some(known.gid()));
    let has_group = fchown(new, uid, gid)
        .or_else(|_| fchown(new, None, gid))
        .is_ok();
    let mode = known.mode();
    let mode = match has_group {
        true => mode,
        false => mode & (!0o070 | ((mode & 0o007) << 3)),
    };
    new.set_permissions(Permissions::from_mode(mode))?;
    Ok(has_group)
}
