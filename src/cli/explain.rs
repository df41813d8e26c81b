//! `imageswap explain`: what becomes of images, by which rule, and why not by another.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use super::args::{Output, OutputArgs, RulesArgs, stdin_once};
use super::terminal::{self, BOLD, DIM, GOOD, WARNING};
use crate::image::MAX_REFERENCE;
use crate::maps::{RuleRef, Rules, Tried, Verdict};
use crate::text::visible;

/// Show what becomes of images, and by which rule
#[derive(Debug, clap::Args)]
#[command(after_help = "\
    Prints the result, the rule and its line, and the rules that were tried before it. Exits with 0 whatever \
    becomes of the images, and with 2 if the rules can't be read.")]
pub(super) struct Args {
    /// The images; `-` reads them from standard input, one a line
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    #[command(flatten)]
    rules: RulesArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// So much of a line is kept, in bytes: twice as much as the longest image has.
const LONGEST: usize = 2 * MAX_REFERENCE;

/// One line of `-o json`.
#[derive(Serialize)]
struct Record<'a> {
    image: &'a str,
    result: &'a str,
    changed: bool,
    /// Why it stays as it is.
    reason: Option<String>,
    rule: RecordRule<'a>,
    /// What was tried before that rule, in vain.
    tried: Vec<String>,
}

#[derive(Serialize)]
struct RecordRule<'a> {
    kind: &'static str,
    line: Option<usize>,
    text: Option<&'a str>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    stdin_once(&args.images)?;
    let rules = args.rules.load()?;
    let mut out = terminal::stdout();
    for image in &args.images {
        if image == "-" {
            explain_lines(&mut out, &rules, args.output.form)?;
        } else {
            explain(&mut out, &rules, image, args.output.form)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn explain_lines(out: &mut impl Write, rules: &Rules, output: Output) -> anyhow::Result<()> {
    let mut input = io::BufReader::with_capacity(64 << 10, io::stdin());
    let mut line = Vec::new();
    loop {
        line.clear();
        let is_there = read_line(&mut input, &mut line);
        if !is_there.context("can't read standard input")? {
            return Ok(());
        }
        let image = line.strip_suffix(b"\r").unwrap_or(&line);
        // What is not UTF-8 is no image, before or after.
        explain(out, rules, &String::from_utf8_lossy(image), output)?;
        if !input.buffer().contains(&b'\n') {
            // Whoever types, or waits for an answer, gets it now.
            out.flush()?;
        }
    }
}

/// Reads a line without its end, and of a long one the begin: it is no image. `false` at the end of the input.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    let mut is_there = false;
    loop {
        let found = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            found => found?,
        };
        if found.is_empty() {
            return Ok(is_there);
        }
        is_there = true;
        let end = memchr::memchr(b'\n', found);
        let text = found.get(..end.unwrap_or(found.len())).unwrap_or_default();
        let room = LONGEST.saturating_sub(line.len()).min(text.len());
        line.extend_from_slice(text.get(..room).unwrap_or_default());
        let taken = end.map_or(found.len(), |end| end + 1);
        input.consume(taken);
        if end.is_some() {
            return Ok(true);
        }
    }
}

fn explain(out: &mut impl Write, rules: &Rules, image: &str, output: Output) -> anyhow::Result<()> {
    let mut tried = Vec::new();
    let verdict = rules.swap_observed(image, &mut |vain| tried.push(sentence(vain)));
    match output {
        Output::Json => {
            serde_json::to_writer(&mut *out, &Record::of(image, &verdict, tried))?;
            out.write_all(b"\n")?;
        }
        Output::Text => print(out, image, &verdict, &tried)?,
    }
    Ok(())
}

impl<'a> Record<'a> {
    fn of(image: &'a str, verdict: &'a Verdict<'_>, tried: Vec<String>) -> Self {
        Self {
            image,
            result: verdict.image().unwrap_or(image),
            changed: verdict.image().is_some(),
            reason: verdict.outcome.as_ref().err().map(ToString::to_string),
            tried,
            rule: RecordRule {
                kind: verdict.kind(),
                line: verdict.rule.and_then(|rule| rule.line),
                text: verdict.rule.map(|rule| rule.text),
            },
        }
    }
}

fn print(
    out: &mut impl Write,
    image: &str,
    verdict: &Verdict<'_>,
    tried: &[String],
) -> io::Result<()> {
    writeln!(out, "{BOLD}{}{BOLD:#}", image.escape_debug())?;
    match &verdict.outcome {
        Ok(result) => writeln!(out, "  becomes {GOOD}{result}{GOOD:#}")?,
        Err(why) => writeln!(out, "  {WARNING}stays as it is{WARNING:#}: {why}")?,
    }
    match verdict.rule {
        Some(RuleRef {
            line: Some(line),
            text,
            ..
        }) => writeln!(out, "  by line {line}: {BOLD}{}{BOLD:#}", visible(text))?,
        Some(RuleRef { text, .. }) => writeln!(out, "  by the prefix {BOLD}{text:?}{BOLD:#}")?,
        None => {}
    }
    for vain in tried {
        writeln!(out, "  {DIM}before that: {vain}{DIM:#}")?;
    }
    Ok(())
}

fn sentence(tried: Tried<'_>) -> String {
    match tried {
        Tried::Exact => "no [EXACT] line names this image".to_owned(),
        // Those that can match nothing, or are left out, do not count.
        Tried::Replace(0) => "there is no [REPLACE] pattern that can match".to_owned(),
        Tried::Replace(1) => "the one [REPLACE] pattern that can match does not".to_owned(),
        Tried::Replace(patterns) => format!("none of {patterns} [REPLACE] patterns matches"),
        Tried::Registry(key) => format!("there is no key {}", visible(key)),
        Tried::Noswap(items) => match items {
            [] => "noswap_wildcards has no item".to_owned(),
            [item] => format!(
                "the image does not contain {} (noswap_wildcards)",
                visible(item)
            ),
            items => format!(
                "the image contains none of {} noswap_wildcards",
                items.len()
            ),
        },
    }
}
