//! The other commands from outside: arguments in, text and exit code out.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn imageswap(args: &[&str], stdin: &[u8]) -> Output {
    imageswap_with(&[], args, stdin)
}

fn imageswap_with(env: &[(&str, &str)], args: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imageswap"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().to_uppercase().starts_with("IMAGE") {
            command.env_remove(name);
        }
    }
    let mut child = command
        .args(args)
        // These tests may themselves run in a Pod.
        .env_remove("KUBERNETES_SERVICE_HOST")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    let writer = std::thread::spawn(move || {
        // A command that refuses to start reads nothing.
        let _ = input.write_all(&stdin);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// As [`imageswap`], with nobody to read what it prints.
fn unread(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_imageswap"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut input = child.stdin.take().unwrap();
    let _ = input.write_all(stdin);
    drop(input);
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json_lines(output: &Output) -> Vec<Value> {
    let text = stdout(output);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A file with this text.
fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

const MAPS: &str = "\
# comment
default::mirror.example.com
docker.io::hub.example.com # ours
quay.io::
[EXACT]busybox::exact.example.com/busybox:1
[REPLACE]ghcr.io/*::replace.example.com
noswap_wildcards::internal
registry.k8s.io::https://bad
";

#[test]
fn explain_prints_one_json_object_for_each_line_of_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    let images = "nginx\nbusybox\nghcr.io/a/b:1\nquay.io/a\nx.internal/a\nother.io/a\n\
                  registry.k8s.io/pause:3\nNO\n\n nginx \nmirror.example.com/a";
    let output = imageswap(
        &["explain", "-o", "json", "--maps", &maps, "-"],
        images.as_bytes(),
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let row = |image: &str, result: &str, kind: &str, line: Option<usize>, text: Option<&str>| {
        json!({
            "image": image,
            "result": result,
            "changed": image != result,
            "rule": {"kind": kind, "line": line, "text": text},
        })
    };
    let default = Some("default::mirror.example.com");
    let mut found = json_lines(&output);
    let mut told = Vec::new();
    for record in found.iter_mut().filter_map(Value::as_object_mut) {
        told.push((
            record.remove("reason").unwrap(),
            record.remove("tried").unwrap(),
        ));
    }
    let before_docker_io = json!([
        "no [EXACT] line names this image",
        "the one [REPLACE] pattern that can match does not",
        "there is no key docker.io/library",
    ]);
    assert_eq!(told[0], (Value::Null, before_docker_io));
    assert_eq!(told[1], (Value::Null, json!([])));
    assert_eq!(told[3].0, "the rule has no value, so nothing is swapped");
    assert_eq!(
        found,
        [
            row(
                "nginx",
                "hub.example.com/nginx",
                "registry",
                Some(3),
                Some("docker.io::hub.example.com")
            ),
            row(
                "busybox",
                "exact.example.com/busybox:1",
                "exact",
                Some(5),
                Some("[EXACT]busybox::exact.example.com/busybox:1"),
            ),
            row(
                "ghcr.io/a/b:1",
                "replace.example.com/b:1",
                "replace",
                Some(6),
                Some("[REPLACE]ghcr.io/*::replace.example.com"),
            ),
            row(
                "quay.io/a",
                "quay.io/a",
                "registry",
                Some(4),
                Some("quay.io::")
            ),
            row(
                "x.internal/a",
                "x.internal/a",
                "noswap",
                Some(7),
                Some("noswap_wildcards::internal")
            ),
            row(
                "other.io/a",
                "mirror.example.com/a",
                "default",
                Some(2),
                default
            ),
            row(
                "registry.k8s.io/pause:3",
                "registry.k8s.io/pause:3",
                "invalid",
                Some(8),
                Some("registry.k8s.io::https://bad"),
            ),
            row("NO", "NO", "invalid", None, None),
            row("", "", "invalid", None, None),
            row(" nginx ", " nginx ", "invalid", None, None),
            row(
                "mirror.example.com/a",
                "mirror.example.com/a",
                "default",
                Some(2),
                default
            ),
        ]
    );
}

#[test]
fn explain_in_legacy_mode_and_without_rules() {
    let legacy = [
        "explain",
        "-o",
        "json",
        "--mode",
        "legacy",
        "--image-prefix",
        "mirror.io/",
        "a",
    ];
    let rule = |args: &[&str]| json_lines(&imageswap(args, b""))[0]["rule"].clone();
    assert_eq!(
        rule(&legacy),
        json!({"kind": "invalid", "line": null, "text": "mirror.io/"})
    );
    let legacy = [
        "explain",
        "-o",
        "json",
        "--mode",
        "LEGACY",
        "--image-prefix",
        "mirror.io",
        "a",
    ];
    assert_eq!(
        rule(&legacy),
        json!({"kind": "legacy", "line": null, "text": "mirror.io"})
    );
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", "quay.io::a.io");
    for (args, hint) in [
        (
            &["--maps", &maps, "--image-prefix", "b.io"][..],
            Some("--image-prefix"),
        ),
        (
            &[
                "--maps",
                &maps,
                "--mode",
                "Legacy",
                "--image-prefix",
                "b.io",
            ],
            Some("--maps"),
        ),
        (&["--maps", &maps], None),
        (&["--mode", "legacy", "--image-prefix", "b.io"], None),
    ] {
        let said = stderr(&imageswap(&[&["explain", "a"], args].concat(), b""));
        let found = said.lines().find(|line| line.contains("has no effect"));
        assert_eq!(found.is_some(), hint.is_some(), "{args:?}: {said}");
        assert!(
            found.is_none_or(|line| line.contains(hint.unwrap())),
            "{said}"
        );
    }
    let none = ["explain", "-o", "json", "--maps", &maps, "nginx"];
    assert_eq!(
        rule(&none),
        json!({"kind": "none", "line": null, "text": null})
    );
}

#[test]
fn explain_says_to_people_what_was_tried() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    let output = imageswap(&["explain", "--maps", &maps, "other.io:443/a"], b"");
    let text = stdout(&output);
    for part in [
        "becomes mirror.example.com/a",
        "by line 2: default::mirror.example.com",
        "no [EXACT] line names this image",
        "the one [REPLACE] pattern that can match does not",
        "there is no key other.io:443",
        "there is no key other.io\n",
        "does not contain internal",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\x1b'), "colour in a pipe: {text:?}");
    // A line whose pattern can match nothing is a line still.
    let dead = "[REPLACE]ghcr.io/é*::r.io\ndefault::x.io\n";
    let maps_with_it = file(dir.path(), "dead", dead);
    let text = stdout(&imageswap(
        &["explain", "--maps", &maps_with_it, "ghcr.io/a"],
        b"",
    ));
    let told = "before that: there is no [REPLACE] pattern that can match\n";
    assert!(text.contains(told), "{text}");
    let output = imageswap(
        &["explain", "--color", "always", "--maps", &maps, "nginx"],
        b"",
    );
    assert!(stdout(&output).contains('\x1b'));
    // A control character in an image does not reach the terminal.
    let output = imageswap(&["explain", "--maps", &maps, "a\x1b[31mb"], b"");
    assert!(!stdout(&output).contains('\x1b'));
}

#[test]
fn a_wish_of_colour_is_heard_before_all_else() {
    let coloured = |env: &[(&str, &str)], args: &[&str]| {
        let output = imageswap_with(env, args, b"");
        [output.stdout, output.stderr].concat().contains(&b'\x1b')
    };
    let forced = [("CLICOLOR_FORCE", "1")];
    // One that can't be understood, and the help.
    for wrong in [&["check"][..], &["check", "--help"]] {
        let with = |color: &[&'static str]| [color, wrong].concat();
        assert!(!coloured(&[], wrong));
        assert!(coloured(&[], &with(&["--color", "always"])));
        assert!(coloured(&[], &with(&["--color=always"])));
        assert!(coloured(&[("IMAGESWAP_COLOR", "always")], wrong));
        assert!(coloured(&forced, wrong));
        assert!(!coloured(&forced, &with(&["--color", "never"])));
        assert!(!coloured(&[("IMAGESWAP_COLOR", "never"), forced[0]], wrong));
        // The flag goes before the variable.
        let never = [("IMAGESWAP_COLOR", "never")];
        assert!(coloured(&never, &with(&["--color", "always"])));
    }
}

#[test]
fn standard_input_is_refused_where_it_can_not_be_meant() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", "default::a.io\n");
    for (args, part) in [
        (
            &["rewrite", "--maps", &maps, "--in-place"][..],
            "wants files",
        ),
        (
            &["rewrite", "--maps", &maps, "--in-place", "-"],
            "wants files",
        ),
        (&["explain", "--maps", "-", "nginx"], "wants a file"),
        (&["rewrite", "--maps", "-", &maps], "wants a file"),
    ] {
        let output = imageswap(args, b"default::b.io\n");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(part), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn what_serve_refuses_is_told_beside_json_too() {
    let output = imageswap(&["check", "-o", "json", "-"], b"<html>x</html>\n");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("`imageswap serve` takes nothing of -"),
        "{said}"
    );
    assert_eq!(json_lines(&output).len(), 1);
    let output = imageswap(&["check", "-o", "json", "-"], b"a b\ndefault::a.io\n");
    assert!(output.stderr.is_empty());
}

#[test]
fn a_key_with_a_path_is_told_what_may_have_been_meant() {
    let dir = tempfile::tempdir().unwrap();
    for (key, help) in [
        ("docker.io/nginx", "[EXACT]IMAGE::RESULT"),
        ("docker.io/library/nginx", "[EXACT]IMAGE::RESULT"),
        ("docker.io/org/nginx", "[REPLACE]REGISTRY/PATH/*::VALUE"),
        ("quay.io/org", "[REPLACE]REGISTRY/PATH/*::VALUE"),
        ("quay.io/", "write quay.io::VALUE"),
        ("docker.io/library/", "write docker.io/library::VALUE"),
        ("docker.io/bitnami/", "[REPLACE]REGISTRY/PATH/*::VALUE"),
        ("https://quay.io", "write quay.io::VALUE"),
        (
            "https://docker.io/library",
            "write docker.io/library::VALUE",
        ),
    ] {
        let path = file(dir.path(), "maps", &format!("default::\n{key}::b.io\n"));
        let found = json_lines(&imageswap(&["check", "-o", "json", &path], b""));
        let said = found[0]["help"].as_str().unwrap();
        assert!(said.contains(help), "{key}: {said}");
    }
}

#[test]
fn check_shows_each_finding_with_its_place_and_fails_on_errors() {
    let dir = tempfile::tempdir().unwrap();
    let bad = file(
        dir.path(),
        "bad",
        "default::a.io\nno rule # here\n  [WORD]x::y\nold.io:b.io\n",
    );
    let output = imageswap(&["check", &bad], b"");
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    for part in [
        "error[no-separator]",
        "bad:2:1",
        "2 | no rule # here",
        "  | ^^^^^^^\n",
        "error[unknown-prefix]",
        "bad:3:3",
        "warning[old-separator]",
        "help: write old.io::b.io",
        "is not good: 2 rules, 2 errors, 1 warning",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\x1b'), "{text:?}");

    let warned = file(dir.path(), "warned", "default:a.io");
    assert_eq!(imageswap(&["check", &warned], b"").status.code(), Some(0));
    assert_eq!(
        imageswap(&["check", "--strict", &warned], b"")
            .status
            .code(),
        Some(1)
    );
    let good = file(dir.path(), "good", "default::a.io");
    assert_eq!(
        imageswap(&["check", "--strict", &good], b"").status.code(),
        Some(0)
    );
    let none = dir.path().join("none");
    let output = imageswap(&["check", &good, none.to_str().unwrap(), &bad], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("error: can't use the map file"),
        "{output:?}"
    );
    assert!(stdout(&output).contains("not good"), "{output:?}");
}

#[test]
fn standard_input_is_read_once() {
    for command in ["check", "explain", "rewrite"] {
        let output = imageswap(&[command, "-", "other", "-"], b"nginx\n");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(
            stderr(&output).contains("`-` is named more than once"),
            "{output:?}"
        );
        assert_eq!(stdout(&output), "", "{command}");
    }
}

#[test]
fn check_says_what_serve_takes_none_of() {
    let dir = tempfile::tempdir().unwrap();
    let page = file(dir.path(), "page", "<html>\n<body>no</body>\n</html>\n");
    let some = file(dir.path(), "some", "<html>\ndefault::mirror.example.com\n");
    for (maps, is_refused) in [(page, true), (some, false)] {
        let output = imageswap(&["check", &maps], b"");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let says_so =
            stdout(&output).contains("`imageswap serve` takes none of it: not one of its");
        assert_eq!(says_so, is_refused, "{output:?}");
    }
}

#[test]
fn what_is_mostly_control_characters_is_no_map_file() {
    let text = format!("docker.io::m.io\n{}\n", "\x01".repeat(1000));
    let output = imageswap(&["check", "-"], text.as_bytes());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        stderr(&output).contains("it is a binary file"),
        "{output:?}"
    );
}

/// A pattern beyond the bounds of all is no rule.
#[test]
fn check_counts_each_line_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = "default::m.example.com\n".to_owned();
    for n in 0..600 {
        text += &format!("[REPLACE]r{n}/{}::m.example.com\n", "a*".repeat(1000));
    }
    let maps = file(dir.path(), "maps", &text);
    let output = stdout(&imageswap(&["check", &maps], b""));
    let verdict = output.lines().find(|line| line.contains(" is not good"));
    let numbers: Vec<usize> = verdict
        .and_then(|line| line.split_once(" is not good: "))
        .into_iter()
        .flat_map(|(_, counts)| counts.split(", "))
        .filter_map(|count| count.split(' ').next()?.parse().ok())
        .collect();
    assert!(numbers[1] > 0, "{verdict:?}");
    assert_eq!(numbers[0] + numbers[1], 601, "{verdict:?}");
    assert!(output.contains("shorten or join patterns"), "{verdict:?}");
}

#[test]
fn check_prints_json_for_machines() {
    let dir = tempfile::tempdir().unwrap();
    let bad = file(
        dir.path(),
        "bad",
        "default::a.io\n\u{e9} no rule\ndefault::b.io\n",
    );
    let output = imageswap(&["check", "-o", "json", &bad], b"");
    assert_eq!(output.status.code(), Some(1));
    let found = json_lines(&output);
    assert_eq!(found.len(), 2);
    assert_eq!(
        (&found[0]["severity"], &found[0]["line"]),
        (&json!("error"), &json!(2))
    );
    assert_eq!(
        (&found[1]["code"], &found[1]["line"]),
        (&json!("repeated-key"), &json!(3))
    );
    assert_eq!(found[1]["other_lines"], json!([1]));
    assert_eq!(found[1]["file"], bad);
}

/// Whoever writes a line for each name means all images by the usual one.
#[test]
fn the_other_name_of_docker_hub_does_not_take_over_the_usual_one() {
    let dir = tempfile::tempdir().unwrap();
    for [first, second] in [
        ["docker.io::a.io", "index.docker.io::"],
        ["index.docker.io::", "docker.io::a.io"],
    ] {
        let text = format!("{first}\n{second}\ndefault::d.io\n");
        let maps = file(dir.path(), "maps", &text);
        for image in ["nginx", "docker.io/b/c", "index.docker.io/b/c"] {
            let explained = imageswap(&["explain", "-o", "json", "--maps", &maps, image], b"");
            let record: Value = serde_json::from_str(&stdout(&explained)).unwrap();
            let result = record["result"].as_str().unwrap();
            assert!(result.starts_with("a.io/"), "{text}{record}");
        }
    }
}

/// One line for each thing that `check` can find.
#[test]
fn every_finding() {
    let dir = tempfile::tempdir().unwrap();
    for (text, code) in [
        ("default::a.io\nx y", "no-separator"),
        ("default::a.io\na:1:b", "single-colon"),
        ("default::a.io\na::b::c", "second-separator"),
        ("default::a.io\n::b", "empty-key"),
        ("default::a.io\n[exact]a::b", "unknown-prefix"),
        ("default::a.io\n[REPLACE:]quay.io/*::b.io", "unknown-prefix"),
        ("default:a.io", "old-separator"),
        ("default::a.io\nc.io::b. io", "inner-blank"),
        ("default::a.io\ndefault::b.io", "repeated-key"),
        (
            "index.docker.io::b.io\ndefault::\ndocker.io::c.io",
            "repeated-key",
        ),
        (
            "docker.io::c.io\ndefault::\nindex.docker.io::b.io",
            "repeated-key",
        ),
        (
            "default::a.io\n[REPLACE]x::y.io\n[REPLACE]x::z.io",
            "repeated-key",
        ),
        ("default::a.io\n[EXACT]A::b.io/a", "key-never-matches"),
        ("default::a.io\n[REPLACE]\u{e9}*::b.io", "key-never-matches"),
        ("default::a.io\nquay.io/library::b.io", "key-never-matches"),
        ("default::a.io\nquay.io/org::b.io", "key-never-matches"),
        ("default::a.io\nb\u{fc}cher.io::b.io", "key-never-matches"),
        ("default::a.io\nhttps://b.io::c.io", "key-never-matches"),
        ("default::a.io\nnginx::b.io", "key-wants-port"),
        ("default::https://a.io", "no-rule, value-never-valid"),
        // Of images of localhost alone it makes some.
        ("default::my_mirror-", "value-never-valid"),
        (
            "default::a.io\n[EXACT]a::b.io/a@sha256:0123456789abcdef0123456789abcdef",
            "value-digest",
        ),
        (
            "default::a.io\n[EXACT]a::b.io/a@md5:0123456789abcdef0123456789abcdef",
            "value-digest",
        ),
        ("default::harbor", "value-no-registry"),
        ("default::a.io\nb.io::harbor/proxy-", "value-no-registry"),
        ("default::\n[REPLACE]a.io/b/*::", "value-no-registry"),
        ("default::a.io-", "value-any-host"),
        ("default::a.io\nb.io::c.io-", "value-any-host"),
        // Of the key's own host it makes none, but any other may be behind it in an image.
        (
            "default::a.io\nlocalhost::foo-",
            "value-no-registry, value-any-host",
        ),
        ("default::a.io\n[EXACT]a::", "value-never-valid"),
        ("default::a.io\n[REPLACE]a*::b.io/c-", "value-never-valid"),
        ("docker.io::a.io", "no-default"),
        ("", "no-rule"),
        ("# default::", "no-rule"),
        (
            "404: Not Found",
            "old-separator, inner-blank, no-rule, no-default, key-wants-port",
        ),
        (
            "[EXACT]NOT A REF::x/y",
            "inner-blank, no-rule, no-default, key-never-matches",
        ),
        (
            "Error: timeout\ndefault::",
            "old-separator, value-no-registry",
        ),
        (
            "default::a.io\nnoswap_wildcards::b, c*",
            "item-never-matches",
        ),
        ("def ault::a.io", "inner-blank"),
        ("default::a.io\nnoswap_wildcards::a b, c", "inner-blank"),
        ("default::a.io\n[REPLACE]a/*::/", "value-never-valid"),
        ("default::a.io\n[REPLACE]a/*:[::1]:5000/m", "single-colon"),
        ("default::a.io\nb.io::c\0d", "value-never-valid"),
        (
            "default::\nquay.io::docker.io\nindex.docker.io::index.docker.io",
            "feeds",
        ),
        (
            "default::hub_a-\ndocker.io::q.io",
            "value-never-valid, feeds",
        ),
        ("default::\na.io::b.io\nb.io::c.io", "feeds"),
        ("default::\na.io::a.io/m", "feeds"),
        ("default::b.io\n[EXACT]b.io/x::c.io/x", "feeds"),
        ("default::b.io\n[REPLACE]*b.io/x*::c.io", "feeds"),
        (
            "default::b.io\n[REPLACE]a.io/*::",
            "value-no-registry, feeds",
        ),
    ] {
        let path = file(dir.path(), "maps", text);
        let found = json_lines(&imageswap(&["check", "-o", "json", &path], b""));
        let codes: Vec<_> = found
            .iter()
            .map(|found| found["code"].as_str().unwrap())
            .collect();
        assert_eq!(codes.join(", "), code, "{text}");
    }
    let digest = format!("default::a.io\n[EXACT]a::b.io/a@sha256:{}", "0f".repeat(32));
    for good in [
        &*digest,
        "default::a.io\ndocker.io::b.io/m-\n[::1]:5000::c.io\n[EXACT][::1]/a::d.io/a\n",
        "default::\nregistry.k8s.io::registry.k8s.io\ndocker.io::docker.io\n",
        // This default looks at no target.
        "default::\nb.io::c.io-",
        "default::a.io\n[ EXACT]a::b.io/a\n[REPLACE ] c* :: d.io",
        "default::[::1]:5000/x\nlocalhost:5000::[::1]\nlocalhost::c.io\nmyhost:80::c.io",
        "\u{feff}default::a.io\r\ndocker.io/library::a.io/library\rquay.io::\n\n# x",
    ] {
        let path = file(dir.path(), "maps", good);
        let output = imageswap(&["check", "--strict", &path], b"");
        assert_eq!(output.status.code(), Some(0), "{good}: {}", stdout(&output));
    }
    fs::write(dir.path().join("maps"), b"default::a.io\nx::\xff").unwrap();
    let path = dir.path().join("maps");
    let found = json_lines(&imageswap(
        &["check", "-o", "json", path.to_str().unwrap()],
        b"",
    ));
    assert_eq!(found[0]["code"], "not-utf8");
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = imageswap(&["completions", shell], b"");
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("rewrite"), "{shell}");
    }
}

#[test]
fn help_names_every_default_and_variable() {
    let text = stdout(&imageswap(&["serve", "--help"], b""));
    for part in [
        "[default: [::]:5000]",
        "[env: IMAGESWAP_LISTEN=]",
        "[env: IMAGE_PREFIX=]",
        "[default: 10m]",
        "[default: imageswap-tls]",
        "[env: IMAGESWAP_CLUSTER=]",
        "[env: IMAGESWAP_TLS_CERT=]",
        "[env: IMAGESWAP_TLS_KEY=]",
        "[env: IMAGESWAP_TLS_CA=]",
        "[env: IMAGESWAP_CLIENT_CA=]",
        "[env: IMAGESWAP_CLIENT_NAME=]",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let nothing = imageswap(&[], b"");
    assert_eq!(nothing.status.code(), Some(2));
    assert!(stderr(&nothing).contains("imageswap serve"), "{nothing:?}");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    // It ends before it has read all of this.
    let images = "nginx\n".repeat(100_000);
    let args = ["explain", "-o", "json", "--mode", "legacy", "-"];
    let output = unread(&args, images.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stderr(&output), "");
}

#[test]
fn check_says_when_it_gives_up() {
    let dir = tempfile::tempdir().unwrap();
    let rules = (0..2_000).map(|n| format!("[REPLACE]*/team{n}/*-v?:[0-9]*::x{n}.io\n"));
    let maps = file(dir.path(), "maps", &rules.collect::<String>());
    let found = json_lines(&imageswap(&["check", "-o", "json", &maps], b""));
    let given_up = found.iter().any(|it| it["code"] == "feeds-unknown");
    assert!(given_up, "{:?}", found.first());
}

/// A verdict is the same however much of it is read.
#[test]
fn check_fails_though_its_reader_has_enough() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", &"a::b::c\n".repeat(2_000));
    for form in ["text", "json"] {
        let output = unread(&["check", "-o", form, &maps], b"");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn a_variable_that_says_nothing_or_no_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(
        dir.path(),
        "maps",
        "docker.io::hub.example.com\ndefault::\n",
    );
    let pod = file(dir.path(), "pod.yaml", POD);
    let empty = [
        ("IMAGESWAP_OUTPUT", ""),
        ("IMAGESWAP_COLOR", ""),
        ("IMAGESWAP_STRICT", ""),
    ];
    let output = imageswap_with(&empty, &["check", &maps], b"");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for no in ["", "0", "false", "no"] {
        let output = imageswap_with(
            &[("IMAGESWAP_DIFF", no)],
            &["rewrite", "-i", "--maps", &maps, &pod],
            b"",
        );
        assert_eq!(output.status.code(), Some(0), "{no}: {output:?}");
    }
    let both = imageswap_with(
        &[("IMAGESWAP_DIFF", "1")],
        &["rewrite", "-i", "--maps", &maps, &pod],
        b"",
    );
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    assert!(stderr(&both).contains("IMAGESWAP_DIFF"), "{both:?}");
    // What it means nobody knows, and to take it for a yes would write files.
    let maybe = imageswap_with(
        &[("IMAGESWAP_IN_PLACE", "maybe")],
        &["rewrite", "--maps", &maps, &pod],
        b"",
    );
    assert_eq!(maybe.status.code(), Some(2), "{maybe:?}");
    assert!(stderr(&maybe).contains("yes or no"), "{maybe:?}");
}

#[test]
fn lines_may_end_as_on_windows() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    let args = ["explain", "--maps", &maps, "-o", "json", "-"];
    let output = imageswap(&args, b"nginx\r\nredis\r\n");
    let images: Vec<_> = json_lines(&output)
        .iter()
        .map(|line| line["result"].clone())
        .collect();
    assert_eq!(images, ["hub.example.com/nginx", "hub.example.com/redis"]);
}

#[test]
fn what_a_map_file_holds_does_nothing_to_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(
        dir.path(),
        "maps",
        "docker.io::m.example.com \u{1b}[31mX\ndefault::\n",
    );
    for args in [
        ["explain", "--color", "always", "--maps", &maps, "nginx"].as_slice(),
        &["check", "--color", "always", &maps],
    ] {
        let text = stdout(&imageswap(args, b""));
        assert!(
            !text.contains("\u{1b}[31mX") && text.contains("\\u{1b}[31mX"),
            "{text:?}"
        );
    }
}

#[test]
fn a_column_is_counted_however_long_the_line_is() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", &format!("{}:b:c\n", "a".repeat(500)));
    let output = imageswap(&["check", "-o", "json", &maps], b"");
    let columns: Vec<_> = json_lines(&output)
        .iter()
        .map(|line| line["column"].clone())
        .collect();
    assert!(columns.contains(&Value::from(503)), "{output:?}");
}

const POD: &str = "\
# a Pod
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers:
    - name: c   # the one
      image: 'nginx:1'
";

#[test]
fn rewrite_swaps_images_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    let expected = POD.replace("nginx:1", "hub.example.com/nginx:1");
    let output = imageswap(&["rewrite", "--maps", &maps], POD.as_bytes());
    assert_eq!(stdout(&output), expected, "{output:?}");
    let output = imageswap(&["rewrite", "--maps", &maps, "-"], expected.as_bytes());
    assert_eq!(stdout(&output), expected, "twice");

    let pod = file(dir.path(), "pod.yaml", POD);
    let both = imageswap(&["rewrite", "--maps", &maps, &pod, &pod], b"");
    assert_eq!(stdout(&both), format!("{expected}---\n{expected}"));

    let diff = stdout(&imageswap(
        &["rewrite", "--diff", "--maps", &maps, &pod],
        b"",
    ));
    assert!(
        diff.contains("-      image: 'nginx:1'\n+      image: 'hub.example.com/nginx:1'\n"),
        "{diff}"
    );
    assert!(
        diff.starts_with("--- a/") && !diff.contains('\x1b'),
        "{diff:?}"
    );
    let diff = imageswap(
        &[
            "rewrite", "--diff", "--color", "always", "--maps", &maps, &pod,
        ],
        b"",
    );
    assert!(stdout(&diff).contains("\x1b["), "{diff:?}");
    assert_eq!(fs::read_to_string(&pod).unwrap(), POD);

    let output = imageswap(&["rewrite", "--in-place", "--maps", &maps, &pod], b"");
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(0), String::new())
    );
    assert_eq!(fs::read_to_string(&pod).unwrap(), expected);
}

/// JSON may hold it as it is.
#[test]
fn a_diff_keeps_control_characters() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    let name = "\"name\": \"a\u{7f}b\",";
    let text = format!(
        "{{\"kind\": \"Pod\", \"apiVersion\": \"v1\", \"spec\": {{\"containers\": [{{\n{name}\n\"image\": \"nginx\"}}]}}}}\n"
    );
    let pod = file(dir.path(), "pod.json", &text);
    let args = ["rewrite", "--diff", "--maps", &maps, &pod];
    let diff = stdout(&imageswap(&args, b""));
    assert!(diff.contains(&format!("\n {name}\n")), "{diff:?}");
}

/// What is printed of several files is read as what they are.
#[test]
fn rewrite_separates_what_would_run_into_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"j"}}"#;
    let flow = "{apiVersion: v1, kind: Pod, metadata: {name: f}}";
    let yaml = "apiVersion: v1\nkind: Pod\n";
    let directive = format!("%YAML 1.2\n---\n{yaml}");
    let behind = format!("# why\n\n  # and how\n{directive}");
    let dashes = "---a: 1";
    let unusual = "# why\u{2028}a: 1";
    let files = [
        json, flow, yaml, &directive, &behind, "# why", dashes, unusual,
    ]
    .map(|text| format!("{text}\n"));
    let paths: Vec<_> = files
        .iter()
        .enumerate()
        .map(|(n, text)| file(dir.path(), &n.to_string(), text))
        .collect();
    let empty = file(dir.path(), "empty", "");
    let mark = file(dir.path(), "mark", "\u{feff}");
    for (one, two, separator) in [
        (0, 0, ""),
        (0, 1, "---\n"),
        (0, 2, "---\n"),
        (1, 0, "---\n"),
        (1, 2, "---\n"),
        (2, 0, "---\n"),
        (2, 3, "...\n"),
        (3, 2, "---\n"),
        (2, 4, "...\n"),
        (4, 4, "...\n"),
        // There is no document yet that could end.
        (5, 3, ""),
        (5, 2, "---\n"),
        (2, 5, "...\n"),
        (2, 6, "---\n"),
        (7, 3, "...\n"),
    ] {
        // Those with nothing in them change nothing.
        let (one_path, two_path) = (&paths[one], &paths[two]);
        let args = [
            "rewrite", "--maps", &maps, &mark, one_path, &empty, &mark, two_path,
        ];
        let text = stdout(&imageswap(&args, b""));
        // What begins as JSON is taken for that to its end.
        let start = if one < 2 && (one, two) != (0, 0) {
            "---\n"
        } else {
            ""
        };
        let expected = format!("{start}{}{separator}{}", files[one], files[two]);
        assert_eq!(text, expected);
        let again = imageswap(&["rewrite", "--maps", &maps], text.as_bytes());
        assert_eq!(stdout(&again), text, "{again:?}");
    }
    // Comments alone are no document, and a directive must not stand in one.
    let args = [
        "rewrite", "--maps", &maps, &paths[5], &paths[5], &paths[3], &paths[5], &paths[5],
        &paths[3],
    ];
    let text = stdout(&imageswap(&args, b""));
    let behind = format!("{0}{0}{1}", files[5], files[3]);
    assert_eq!(text, format!("{behind}...\n{behind}"));
    let again = imageswap(&["rewrite", "--maps", &maps], text.as_bytes());
    assert_eq!(stdout(&again), text, "{again:?}");
}

/// As `serve`: on a machine there is an example to try, in a Pod nothing is swapped until the map file comes.
#[test]
fn explain_without_a_map_file_says_what_serve_would_do() {
    // This is about its absence.
    assert!(!Path::new("/app/maps/imageswap-maps.conf").exists());
    let pod = [("KUBERNETES_SERVICE_HOST", "10.0.0.1")];
    for (env, result, note) in [
        (&[][..], "my-registry.example.com/nginx", "built-in example"),
        (&pod[..], "nginx", "no map file"),
    ] {
        let output = imageswap_with(env, &["explain", "-o", "json", "nginx"], b"");
        assert_eq!(json_lines(&output)[0]["result"], result, "{output:?}");
        assert!(stderr(&output).contains(note), "{output:?}");
    }
}

/// What the built-in example says is nobody's wish for real manifests, and neither is half a map file.
#[test]
fn rewrite_goes_by_no_map_that_nobody_named_or_that_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let pod = file(dir.path(), "pod.yaml", POD);
    let page = file(dir.path(), "page", "<html>\n<body>error</body>\n</html>\n");
    for maps in [&[][..], &["--maps", &page]] {
        let args = [&["rewrite", "-i", &pod][..], maps].concat();
        let output = imageswap(&args, b"");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert_eq!(fs::read_to_string(&pod).unwrap(), POD);
    }
    let some = file(dir.path(), "some", "docker.io:a.io:5000\ndefault::b.io\n");
    let none = file(dir.path(), "none", "# nothing\n");
    for (maps, note) in [(&some, "1 line in error"), (&none, "no rule")] {
        let output = imageswap(&["rewrite", "--maps", maps, &pod], b"");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(note), "{said}");
    }
}

/// In place, nothing else is touched, and the file is as much its owner's as before.
#[test]
fn rewrite_in_place_leaves_all_else_alone() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    let pod = file(dir.path(), "pod.yaml", POD);
    let beside = file(dir.path(), "pod.yaml.imageswap", "precious");
    fs::set_permissions(&pod, fs::Permissions::from_mode(0o640)).unwrap();
    let is_root = chown(&pod, Some(1_000), Some(1_001)).is_ok();
    let link = dir.path().join("link.yaml");
    symlink(&pod, &link).unwrap();
    let before: Vec<_> = names(dir.path());
    let output = imageswap(
        &["rewrite", "-i", "--maps", &maps, link.to_str().unwrap()],
        b"",
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(names(dir.path()), before);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(
        fs::read_to_string(&pod)
            .unwrap()
            .contains("hub.example.com/nginx:1")
    );
    assert_eq!(fs::read_to_string(&beside).unwrap(), "precious");
    let after = fs::metadata(&pod).unwrap();
    assert_eq!(after.mode() & 0o777, 0o640);
    if is_root {
        assert_eq!((after.uid(), after.gid()), (1_000, 1_001));
    }
}

/// Who is not root can't give a file away, may be in its group or not, and may not always replace it.
#[test]
fn rewrite_in_place_of_another_users_files() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    let dir = tempfile::tempdir().unwrap();
    if chown(dir.path(), Some(1_002), Some(1_003)).is_err() {
        // Past what a test's output is caught by: nothing is skipped in silence.
        let note = b"not root: rewriting another user's files is not tried\n";
        return std::io::stderr().write_all(note).unwrap();
    }
    // New files have this directory's group.
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o2_777);
    let program = dir.path().join("imageswap");
    // By another process: none that a test forks meanwhile may hold it open for writing when it is run.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_imageswap"))
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let maps = file(dir.path(), "maps", MAPS);
    let rewrite = |files: &[&Path]| {
        Command::new(&program)
            .args(["rewrite", "-i", "--maps", &maps])
            .args(files)
            .uid(1_001)
            .gid(1_001)
            .output()
            .unwrap()
    };
    for (owner, group, before, expected) in [
        (1_002, 1_001, 0o664, (1_001, 0o664)),
        (1_002, 1_002, 0o674, (1_003, 0o644)),
        (1_001, 1_002, 0o640, (1_003, 0o600)),
        (1_001, 1_002, 0o604, (1_003, 0o604)),
    ] {
        let pod = file(dir.path(), "pod.yaml", POD);
        let pod = Path::new(&pod);
        chown(pod, Some(owner), Some(group)).unwrap();
        mode(pod, before);
        let output = rewrite(&[pod]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let after = fs::metadata(pod).unwrap();
        assert_eq!((after.gid(), after.mode() & 0o7_777), expected);
        let is_told = stderr(&output).contains("its group can't be kept");
        assert_eq!(is_told, group != after.gid(), "{output:?}");
        fs::remove_file(pod).unwrap();
    }
    // As in /tmp, each may rename to a name of their own files alone.
    mode(dir.path(), 0o1_777);
    let [own, other] = ["own.yaml", "other.yaml"].map(|name| file(dir.path(), name, POD));
    chown(&own, Some(1_001), Some(1_001)).unwrap();
    chown(&other, Some(1_002), Some(1_002)).unwrap();
    let before = names(dir.path());
    let output = rewrite(&[Path::new(&own), Path::new(&other)]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = format!("can't write {other}; only {own} is changed: Operation not permitted");
    assert!(stderr(&output).contains(&said), "{output:?}");
    assert_ne!(fs::read_to_string(&own).unwrap(), POD);
    assert_eq!(fs::read_to_string(&other).unwrap(), POD);
    assert_eq!(names(dir.path()), before);
}

/// In the middle of a stream it is no mark but a part of a key.
#[test]
fn rewrite_prints_a_byte_order_mark_only_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    let marked = file(dir.path(), "marked.yaml", &format!("\u{feff}{POD}"));
    let args = ["rewrite", "--maps", &maps, &marked, &marked];
    let printed = stdout(&imageswap(&args, b""));
    assert_eq!(printed.matches('\u{feff}').count(), 1, "{printed}");
    assert!(printed.starts_with('\u{feff}'));
    // Nor behind the separator before JSON that comes first.
    let json = file(dir.path(), "marked.json", "\u{feff}{\"a\":1}\n");
    let yaml = file(dir.path(), "c.yaml", "c: 3\n");
    let stream = stdout(&imageswap(&["rewrite", "--maps", &maps, &json, &yaml], b""));
    assert_eq!(stream, "---\n{\"a\":1}\n---\nc: 3\n");
    let again = imageswap(&["rewrite", "--maps", &maps], printed.as_bytes());
    assert_eq!(stdout(&again), printed, "{again:?}");
}

#[test]
fn check_counts_what_it_does_not_keep() {
    let dir = tempfile::tempdir().unwrap();
    let errors: String = (0..10_007).map(|n| format!("e{n}\n")).collect();
    let repeated: String = (0..12).map(|n| format!("q.io::a{n}.io\n")).collect();
    // What is said of rules has as much room of its own.
    let doubtful: String = (0..10_003).map(|n| format!("q{n}.io::b\n")).collect();
    let doubtful = file(dir.path(), "doubtful", &format!("default::\n{doubtful}"));
    let json = imageswap(&["check", "-o", "json", &doubtful], b"");
    assert_eq!(stdout(&json).lines().count(), 10_000);
    assert!(stderr(&json).contains("has 3 more findings than are kept"));
    let printed = stdout(&imageswap(&["check", &doubtful], b""));
    assert!(
        printed.contains("10004 rules, 0 errors, 10003 warnings"),
        "{printed}"
    );

    let maps = file(
        dir.path(),
        "maps",
        &format!("{errors}{repeated}default::\n"),
    );
    let printed = stdout(&imageswap(&["check", &maps], b""));
    assert!(
        printed.contains("2 rules, 10007 errors, 11 warnings"),
        "{}",
        printed.lines().last().unwrap_or_default()
    );
    let json = imageswap(&["check", "-o", "json", &maps], b"");
    assert!(
        stderr(&json).contains("has 7 more findings than are kept"),
        "{:?}",
        json.stderr
    );
}

/// Whoever is told that a line is in error wants to know which.
#[test]
fn an_error_is_shown_behind_more_warnings_than_are() {
    let dir = tempfile::tempdir().unwrap();
    for warnings in [600, 10_050] {
        let old: String = (0..warnings).map(|n| format!("r{n}.io:m.io\n")).collect();
        let maps = file(
            dir.path(),
            "maps",
            &format!("{old}broken line\ndefault::\n"),
        );
        let output = imageswap(&["check", &maps], b"");
        let printed = stdout(&output);
        assert!(printed.contains("error[no-separator]"), "{warnings}");
        assert!(printed.contains(&format!("maps:{}:1", warnings + 1)));
        assert_eq!(printed.matches("warning[").count(), 500, "{warnings}");
        let json = json_lines(&imageswap(&["check", "-o", "json", &maps], b""));
        let errors = json.iter().filter(|found| found["severity"] == "error");
        assert_eq!(errors.count(), 1, "{warnings}");
    }
}

/// A reader takes what begins as JSON for JSON, and of JSON in YAML without a separator the first value alone.
#[test]
fn rewrite_prints_one_stream_of_json_or_of_yaml() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    let (a, b, c) = (r#"{"a":1}"#, r#"{"b":2}"#, "c: 3\n");
    let json_a = file(dir.path(), "a.json", a);
    let json_b = file(dir.path(), "b.json", &format!("{b}\n"));
    let yaml = file(dir.path(), "c.yaml", c);
    let blank = file(dir.path(), "blank.yaml", " \n\n");
    for (files, expected) in [
        (&[&json_a, &json_b][..], format!("{a}\n{b}\n")),
        (&[&json_a, &blank, &json_b], format!("{a}\n{b}\n")),
        (
            &[&yaml, &json_a, &json_b],
            format!("{c}---\n{a}\n---\n{b}\n"),
        ),
        (&[&json_b, &yaml], format!("---\n{b}\n---\n{c}")),
        (&[&yaml, &blank, &yaml], format!("{c}---\n{c}")),
        (&[&blank], " \n\n".to_owned()),
    ] {
        let args = files.iter().map(|file| file.as_str());
        let args: Vec<_> = ["rewrite", "--maps", &maps]
            .into_iter()
            .chain(args)
            .collect();
        let output = imageswap(&args, b"");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(stdout(&output), expected, "{files:?}");
    }
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let unwritten = std::process::Command::new(env!("CARGO_BIN_EXE_imageswap"))
        .args(["rewrite", "--maps", &maps, &yaml])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(unwritten.status.code(), Some(2));
    assert!(stderr(&unwritten).contains("can't write to standard output: No space"));
    let two = file(dir.path(), "two.json", &format!("{a}{b}"));
    let alone = imageswap(&["rewrite", "--maps", &maps, &two], b"");
    assert_eq!(stdout(&alone), format!("{a}{b}"));
    let output = imageswap(&["rewrite", "--maps", &maps, &two, &yaml], b"");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(stdout(&output), "");
    assert!(
        stderr(&output).contains("two.json holds several JSON values"),
        "{output:?}"
    );
}

/// What can't be written back is found out before anything is.
#[test]
fn rewrite_in_place_changes_all_files_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    let pod = file(dir.path(), "pod.yaml", POD);
    let before = names(dir.path());
    // It can be read, and its place is nowhere.
    let removed = file(dir.path(), "removed.yaml", POD);
    let stdin = fs::File::open(&removed).unwrap();
    fs::remove_file(&removed).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_imageswap"))
        .args(["rewrite", "-i", "--maps", &maps, &pod, "/dev/stdin"])
        .stdin(stdin)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        stderr(&output).contains("can't write /dev/stdin; no file is changed: No such file"),
        "{output:?}"
    );
    assert_eq!(fs::read_to_string(&pod).unwrap(), POD);
    assert_eq!(names(dir.path()), before);
}

/// A pipe, a device or a directory is found out before anything is read, for what is read from a pipe is gone.
#[test]
fn rewrite_in_place_takes_regular_files_alone() {
    use std::io::Read;
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    let pod = file(dir.path(), "pod.yaml", POD);
    let (mut pipe, mut input) = std::io::pipe().unwrap();
    input.write_all(POD.as_bytes()).unwrap();
    drop(input);
    let output = Command::new(env!("CARGO_BIN_EXE_imageswap"))
        .args(["rewrite", "-i", "--maps", &maps, &pod, "/dev/stdin"])
        .stdin(pipe.try_clone().unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = "can't write /dev/stdin; no file is changed: it is no regular file";
    assert!(stderr(&output).contains(said), "{output:?}");
    let mut left = String::new();
    pipe.read_to_string(&mut left).unwrap();
    assert_eq!(left, POD);
    assert_eq!(fs::read_to_string(&pod).unwrap(), POD);
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    names
}

#[test]
fn rewrite_prints_nothing_if_a_file_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    let pod = file(dir.path(), "pod.yaml", POD);
    let wrong = file(dir.path(), "wrong.yaml", "a: [b\nc: }");
    let not_text = dir.path().join("not-text");
    fs::write(&not_text, b"a: \xff").unwrap();
    let none = dir.path().join("none");
    for bad in [
        wrong.as_str(),
        not_text.to_str().unwrap(),
        none.to_str().unwrap(),
    ] {
        let output = imageswap(&["rewrite", "--maps", &maps, &pod, bad], b"");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert_eq!(stdout(&output), "");
        assert!(stderr(&output).contains(bad), "{output:?}");
    }
    let output = imageswap(
        &["rewrite", "--maps", &maps],
        POD.replace("nginx:1", "NO").as_bytes(),
    );
    assert_eq!(stdout(&output), POD.replace("nginx:1", "NO"));
    assert!(
        stderr(&output).contains("standard input:8: the image \"NO\" stays as it is"),
        "{output:?}"
    );
}

/// `cargo run -- serve`, as the README has it, though the workspace has two programs.
#[test]
fn cargo_run_runs_imageswap() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let defaults = packages.iter().map(|package| &package["default_run"]);
    let named: Vec<_> = defaults.filter(|name| !name.is_null()).collect();
    assert_eq!(named, ["imageswap"]);
}

#[test]
fn check_reads_standard_input() {
    let output = imageswap(&["check", "-"], MAPS.as_bytes());
    let text = stdout(&output);
    assert!(text.contains("--> -:8:"), "{text}");
    assert!(text.contains("- is usable: 7 rules"), "{text}");
    let output = imageswap(&["check", "--strict", "-"], MAPS.as_bytes());
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).contains("is not good (--strict)"),
        "{output:?}"
    );
    let output = imageswap(&["check", "-"], b"\0\0");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("standard input"), "{output:?}");
}

/// Where no line is a rule because all are in error, that is all there is to say.
#[test]
fn errors_are_not_hidden_behind_a_warning_that_there_is_no_rule() {
    let output = imageswap(&["check", "-"], b"# comment\n\nrubbish\n");
    let text = stdout(&output);
    assert!(
        text.contains("--> -:3:1") && !text.contains("no-rule"),
        "{text}"
    );
}

/// kubectl reads an image out of the first two, and `rewrite` does not.
#[test]
fn what_is_no_plain_text_in_the_place_of_an_image_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    for (image, is_told) in [
        ("!str \"nginx\"", true),
        ("!!binary bmdpbng=", true),
        ("{{ image }}", true),
        ("!!null nginx", false),
        ("~", false),
        ("", false),
    ] {
        let text = format!("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - image: {image}\n");
        let output = imageswap(&["rewrite", "--maps", &maps, "-"], text.as_bytes());
        assert_eq!(stdout(&output), text);
        let note = "standard input:5: what stands where an image should is no plain text";
        assert_eq!(
            stderr(&output).contains(note),
            is_told,
            "{image:?}: {output:?}"
        );
    }
}

/// What is longer than any image is none, and takes no memory.
#[test]
fn explain_takes_lines_of_any_length() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", MAPS);
    let long = "a".repeat(20 << 20);
    let output = imageswap(
        &["explain", "-o", "json", "--maps", &maps, "-"],
        format!("{long}\nnginx\n{long}").as_bytes(),
    );
    let found = json_lines(&output);
    let results: Vec<_> = found.iter().map(|it| it["changed"].clone()).collect();
    assert_eq!(results, [false, true, false]);
    assert!(output.stdout.len() < 100_000, "{}", output.stdout.len());
}

#[test]
fn rewrite_says_what_it_can_not_swap() {
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", "<html>\ndefault::m.example.com\n");
    let template = "kind: Pod\nspec:\n  containers:\n  - image: {{ .Values.image }}\n  - image: nginx\n  - image:\n";
    let output = imageswap(&["rewrite", "--maps", &maps], template.as_bytes());
    let swapped = template.replace("nginx", "m.example.com/nginx");
    assert_eq!(stdout(&output), swapped, "{output:?}");
    let said = stderr(&output);
    assert!(
        said.contains("standard input:4: what stands where an image should"),
        "{said}"
    );
    assert!(said.contains("1 line in error"), "{said}");
    for (args, says) in [
        (
            &["rewrite", "--strict-maps", "--maps", &maps][..],
            "lines in error",
        ),
        (&["rewrite", "--mode", "legacy"], "there is no prefix"),
        (
            &["rewrite", "--maps", &maps, "--disable-label", ""],
            "a label's key is",
        ),
    ] {
        let output = imageswap(args, template.as_bytes());
        assert_eq!(
            (output.status.code(), stdout(&output)),
            (Some(2), String::new())
        );
        assert!(stderr(&output).contains(says), "{output:?}");
    }
}

/// Whatever the file is called, and whatever ends its lines.
#[test]
fn patches_can_be_applied_where_they_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(dir.path()).unwrap();
    let maps = file(&dir, "maps", "default::m.example.com\n");
    fs::create_dir(dir.join("sub")).unwrap();
    let pod = "kind: Pod # a\r# b\nspec:\r\n  containers:\r\n  - image: nginx\r\n";
    file(&dir, "sub/p 1.yaml", pod);
    let absolute = dir.join("sub/p 1.yaml").display().to_string();
    for name in [
        "./sub/p 1.yaml",
        "sub/../sub/p 1.yaml",
        "sub/p 1.yaml",
        &absolute,
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_imageswap"))
            .current_dir(&dir)
            .args(["rewrite", "--diff", "--maps", &maps, name])
            .output()
            .unwrap();
        let patch = stdout(&output);
        assert!(
            patch.starts_with("--- a/sub/p 1.yaml\t\n+++ b/sub/p 1.yaml\t\n@@ -1,4 +1,4 @@\n"),
            "{name}: {patch:?}"
        );
        assert!(
            patch.ends_with("-  - image: nginx\r\n+  - image: m.example.com/nginx\r\n"),
            "{name}: {patch:?}"
        );
    }
}

/// Only a line feed ends a line of a patch, and a name in it may hold no line break.
#[test]
fn patches_can_be_applied_to_odd_files() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let maps = file(dir.path(), "maps", "default::m.example.com\n");
    let pod = "kind: Pod\nspec: {containers: [\nimage: nginx\n]}";
    let swapped = "-image: nginx\n+image: m.example.com/nginx\n";
    let unended = "\\ No newline at end of file\n";
    for (end, patched) in [
        ("\n", format!("{swapped} ]}}\n")),
        ("", format!("{swapped} ]}}\n{unended}")),
        ("\r", format!("{swapped} ]}}\r\n{unended}")),
        ("\r\n", format!("{swapped} ]}}\r\n")),
    ] {
        let name = file(dir.path(), "pod.yaml", &format!("{pod}{end}"));
        let patch = stdout(&imageswap(
            &["rewrite", "--diff", "--maps", &maps, &name],
            b"",
        ));
        let expected = format!("\n@@ -1,4 +1,4 @@\n kind: Pod\n spec: {{containers: [\n{patched}");
        assert!(patch.ends_with(&expected), "{end:?}: {patch:?}");
    }
    let pod = "kind: Pod\nspec: {containers: [image: nginx]}\r";
    let patched = format!(
        "\n@@ -1,2 +1,2 @@\n kind: Pod\n-spec: {{containers: [image: nginx]}}\r\n{unended}\
         +spec: {{containers: [image: m.example.com/nginx]}}\r\n{unended}"
    );
    for (name, named) in [
        (&b"\xc3\xa9"[..], "a/\u{e9}"),
        (b"a\tb", "\"a/a\\011b\""),
        (b"a\nb c", "\"a/a\\012b c\"\t"),
        (b"a\"b\\", "\"a/a\\\"b\\\\\""),
        (b"\xe9", "\"a/\\351\""),
    ] {
        let name = std::ffi::OsStr::from_bytes(name);
        fs::write(dir.path().join(name), pod).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_imageswap"))
            .current_dir(dir.path())
            .args(["rewrite", "--diff", "--maps", &maps])
            .arg(name)
            .output()
            .unwrap();
        let patch = stdout(&output);
        assert!(
            patch.starts_with(&format!("--- {named}\n+++ ")),
            "{patch:?}"
        );
        assert!(patch.ends_with(&patched), "{patch:?}");
    }
}
