//! Input and output, side by side. The swap in use here puts `m/` before an image that has none.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::string_slice, clippy::panic)]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::tree::MAX_DEPTH;
use super::*;

const SKIP: &str = "skip.me/please";

fn mirrored(found: &Found<'_>) -> Option<String> {
    (!found.image.starts_with("m/")).then(|| format!("m/{}", found.image))
}

fn run(text: &str) -> Result<Rewritten, Error> {
    rewrite(text, SKIP, &mut mirrored)
}

/// All that `swap` is told, as "kind name list entry image line".
fn told(text: &str) -> Vec<String> {
    let mut told = Vec::new();
    rewrite(text, SKIP, &mut |found| {
        let (list, line) = (found.list.key(), found.line);
        let Found {
            kind,
            name,
            entry,
            image,
            ..
        } = found;
        told.push(format!("{kind} {name} {list} {entry} {image} {line}"));
        None
    })
    .unwrap();
    told
}

/// Checks the text, and that a second pass finds nothing to do.
#[track_caller]
fn becomes(input: &str, output: &str) {
    let got = run(input).unwrap_or_else(|error| panic!("{error}\n{input}"));
    assert_eq!(got.text, output);
    assert_eq!(got.swapped > 0, input != output);
    let again = run(&got.text).unwrap();
    assert_eq!((again.text.as_str(), again.swapped), (output, 0));
}

#[track_caller]
fn stays(input: &str) {
    becomes(input, input);
}

/// A pod whose containers start with this one.
fn pod(container: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - {container}\n")
}

#[track_caller]
fn container_becomes(input: &str, output: &str) {
    becomes(&pod(input), &pod(output));
}

#[test]
fn all_but_the_image_stays() {
    let text = |image: &str| {
        format!(
            "# head\napiVersion: v1\nkind: Pod   # kind\nspec:\n    containers:\n    # first\n    \
             -   image:   {image}:1   # why\n        name: 'a'\n\n\n    \
             -   {{name: b, image: \"{image}\"}}\n# end"
        )
    };
    becomes(&text("nginx"), &text("m/nginx"));
}

#[test]
fn line_endings_stay() {
    let unix = pod("image: nginx # c\n    name: a\n  - image: |-\n      b\n    name: b");
    let done = pod("image: m/nginx # c\n    name: a\n  - image: m/b\n    name: b");
    becomes(&unix.replace('\n', "\r\n"), &done.replace('\n', "\r\n"));
    becomes(&unix.replace('\n', "\r"), &done.replace('\n', "\r"));
    becomes(unix.trim_end(), done.trim_end());
}

/// YAML 1.2 has dropped these, Kubernetes' parser has not.
#[test]
fn line_breaks_of_yaml_1_1_are_line_breaks() {
    #[rustfmt::skip]
    let table = [
        ("name: b # c^    image: a^    args: []", "name: b # c^    image: m/a^    args: []"),
        ("image: a^  - image: b", "image: m/a^  - image: m/b"),
        ("image: # c^      &x # c^      !!str # c^      a^    name: *x", "image: # c^      &x # c^      !!str # c^      m/a^    name: !!str a"),
        ("image: # c^      |- # c^      a^^    name: b", "image: # c^      m/a # c^^    name: b"),
        ("image: >-^      é^      b^    # c^    name: c", "image: \"m/é b\"^    # c^    name: c"),
        ("image: 'a'^    name: \"é\\^      b\"", "image: 'm/a'^    name: \"é\\^      b\""),
        ("image: &x a^      b^    name: *x", "image: &x \"m/a b\"^    name: \"a b\""),
        ("args: [^\"b^c\",^]^    image: \"a\\^    b\"", "args: [^\"b^c\",^]^    image: \"m/ab\""),
        ("{ # c^    image: a^    }", "{ # c^    image: m/a^    }"),
    ];
    for line_break in ["\u{85}", "\u{2028}", "\u{2029}"] {
        let broken = |text: &str| text.replace('^', line_break);
        for (input, output) in table {
            container_becomes(&broken(input), &broken(output));
        }
        let disabled = format!(
            "kind: Pod\nmetadata: # c^  labels: {{{SKIP}: disabled}}\nspec: {{containers: [image: a]}}\n"
        );
        stays(&broken(&disabled));
        // Behind a carriage return, and before a line feed, they are one of their own.
        let breaks = |breaks: &str| {
            let found = told(&pod(&format!("image: |-\n      a{breaks}      b\n")));
            found.concat().matches('\n').count()
        };
        for (before, behind, count) in [
            ("\r", "", 2),
            ("\r", "\n", 3),
            ("\r\n", "\r\n", 3),
            ("\r\r", "\r", 4),
        ] {
            assert_eq!(
                breaks(&[before, line_break, behind].concat()),
                count,
                "{before:?} {behind:?}"
            );
        }
        // What they end is not in the block any longer, and that is no YAML.
        let error = run(&pod(&broken("name: |\n      b^c\n    image: a"))).unwrap_err();
        assert!(matches!(error, Error::Yaml { .. }), "{error}");
    }
}

#[test]
fn styles_stay() {
    #[rustfmt::skip]
    let table = [
        ("image: a", "image: m/a"),
        ("image: 'a'", "image: 'm/a'"),
        ("image: \"a\"", "image: \"m/a\""),
        ("image: 'a'   # c: 'd'", "image: 'm/a'   # c: 'd'"),
        ("image: \"a\" # c \"d\"", "image: \"m/a\" # c \"d\""),
        ("image: 'it''s'", "image: 'm/it''s'"),
        ("image: \"\\u0061\\x62\\/c\"", "image: \"m/ab/c\""),
        ("image: \"\\\\\\\"\"", "image: \"m/\\\\\\\"\""),
        ("image: \"a\\\n      b\"", "image: \"m/ab\""),
        ("image:\n      a", "image:\n      m/a"),
        ("image:\n      # c\n      a\n    name: b", "image:\n      # c\n      m/a\n    name: b"),
        ("image: a\n      b\n    name: c", "image: \"m/a b\"\n    name: c"),
        ("image: 1.2", "image: m/1.2"),
        ("image: a#b", "image: \"m/a#b\""),
        ("\"image\": a", "\"image\": m/a"),
        ("? image\n    : a", "? image\n    : m/a"),
        ("? |-\n      image\n    : |-\n      a", "? |-\n      image\n    : m/a"),
        ("image: !!str a", "image: !!str m/a"),
        ("image: !!str null", "image: !!str m/null"),
        ("image: ! a", "image: ! m/a"),
        ("image: &x !!str 'a' # c", "image: &x !!str 'm/a' # c"),
        ("image: !<tag:yaml.org,2002:str> &x\n      # c\n      a", "image: !<tag:yaml.org,2002:str> &x\n      # c\n      m/a"),
    ];
    for (input, output) in table {
        container_becomes(input, output);
    }
}

#[test]
fn images_in_flow_style_are_swapped() {
    #[rustfmt::skip]
    let table = [
        ("{image: a}", "{image: m/a}"),
        ("{image: a,name: b}", "{image: m/a,name: b}"),
        ("{\"image\":\"a\",\"name\":\"b\"}", "{\"image\":\"m/a\",\"name\":\"b\"}"),
        ("{\n    image: a # c\n  ,\n  }", "{\n    image: m/a # c\n  ,\n  }"),
        ("{image: !!str a}", "{image: !!str m/a}"),
        ("{image: &x a, name: *x}", "{image: &x m/a, name: a}"),
    ];
    for (input, output) in table {
        container_becomes(input, output);
    }
    becomes(
        "{kind: Pod, spec: {containers: [{image: a}, {image: b}]}} # c\n",
        "{kind: Pod, spec: {containers: [{image: m/a}, {image: m/b}]}} # c\n",
    );
}

#[test]
fn what_kubernetes_reads_is_read() {
    #[rustfmt::skip]
    let table = [
        // Flow style, indented less than YAML wants it.
        ("image: a\n    args: [\n      b\n    ]", "image: m/a\n    args: [\n      b\n    ]"),
        ("args: [\n\"é\",\nb,\n]\n    image: 'a' # é", "args: [\n\"é\",\nb,\n]\n    image: 'm/a' # é"),
        ("{\nimage: a,\nargs: [\n]\n}", "{\nimage: m/a,\nargs: [\n]\n}"),
        ("args: {\r\n    }\r\n    image: a", "args: {\r\n    }\r\n    image: m/a"),
        // Quotes, too.
        ("name: \"é\nb\\\n\n c\"\n    image: a", "name: \"é\nb\\\n\n c\"\n    image: m/a"),
        ("name: 'b\r\n---c'\r\n    image: 'a'", "name: 'b\r\n---c'\r\n    image: 'm/a'"),
        ("args: [\n'b\n']\n    image: \"\na\"", "args: [\n'b\n']\n    image: \"m/ a\""),
        ("image: \"a\r\nb\"", "image: \"m/a b\""),
        // A dash that is text, where a list or map in flow style goes on or ends.
        ("args: [tar, xf, -]\n    image: a", "args: [tar, xf, -]\n    image: m/a"),
        ("{args: [-, é -,\n-, b - -], image: a}", "{args: [-, é -,\n-, b - -], image: m/a}"),
        ("{image: a, name: -}", "{image: m/a, name: -}"),
        ("{-, image: a}", "{-, image: m/a}"),
        ("{image: &x -, name: *x}", "{image: &x m/-, name: -}"),
        // A tab after a key.
        ("name:\tb\n    image:\t\ta", "name:\tb\n    image:\t\tm/a"),
        // Tabs where lines start, in quotes and in flow style.
        ("name: '{\n\t\"b\": c\n  }'\n    image: a", "name: '{\n\t\"b\": c\n  }'\n    image: m/a"),
        ("image: \"a\n\tb\"", "image: \"m/a b\""),
        ("image: \"a\\\n  \tb\"", "image: \"m/ab\""),
        ("image: a\n    name: \"b\n\t\n \tc\"", "image: m/a\n    name: \"b\n\t\n \tc\""),
        ("args: [b,\n\tc]\n    image: a", "args: [b,\n\tc]\n    image: m/a"),
        ("{\r\n\timage: a,\r\n \t\"args\": [\r\n\t\t\"b\"\r\n\t],\r\n\t# c\r\n\t}", "{\r\n\timage: m/a,\r\n \t\"args\": [\r\n\t\t\"b\"\r\n\t],\r\n\t# c\r\n\t}"),
    ];
    for (input, output) in table {
        container_becomes(input, output);
        let documents = |text| format!("# é\n{}---\n{0}...\n{0}", pod(text));
        becomes(&documents(input), &documents(output));
    }
    // But not elsewhere.
    for refused in [
        "env:\n\t- b",
        "env: [\n\tb]\n    args:\n\t- c\n",
        "env: [\n\tb]\n\tname: c",
    ] {
        let error = run(&pod(&format!("image: a\n    {refused}"))).unwrap_err();
        assert!(error.to_string().contains("tabs disallowed"), "{error}");
    }
    // And a document's end is one.
    let error = run(&pod("name: 'b\nc\n--- d'")).unwrap_err();
    assert!(error.to_string().contains("document indicator"), "{error}");
    let deep = |image: &str| {
        format!(
            "{}key: [\n]\nkind: Pod\nspec: {{containers: [image: {image}]}}\n",
            "# é\n".repeat(9)
        )
    };
    becomes(&deep("a"), &deep("m/a"));
    stays(&format!("- {}b: [\n]\n", "- ".repeat(MAX_DEPTH - 3)));
    // What the one document needs does not reach into the next.
    let next = |image: &str| {
        format!("a:\n   b: [\n]\n---\nkind: Pod\nspec: {{containers: [image: {image}]}}\nb: [\n]\n")
    };
    becomes(&next("a"), &next("m/a"));
    let error = run(&pod("args: [\n    ]\n    é: a: b")).unwrap_err();
    assert!(
        error.to_string().starts_with("line 7, column 9: "),
        "{error}"
    );
}

/// With a pass for each, patience ended at some 1,700.
#[test]
fn dashes_that_are_text_are_read_however_many_there_are() {
    let text = |image: &str| {
        let line = format!("  - {{image: {image}, args: [tar, xf, -]}}\n");
        let pod = format!("kind: Pod\nspec:\n  containers:\n{}", line.repeat(2_000));
        format!("{pod}---\n{pod}")
    };
    becomes(&text("a"), &text("m/a"));
    // Such as the parser takes for text by itself, or as are in none, stay what they are.
    for other in [
        "args:\n    - - -,\n    - -[a]\n    - -\n    -\n      -{}\n    image: a",
        "args: ['a -,', \"\\ -]\", a\n    -,]\n    image: a # -,",
        "-,: -,\n    -[]: &-  -]\n    b: *-\n    c: |\n     -,\n    image: a",
        "image: a\n    args: {\"a\":-, 'b':-}",
    ] {
        let text = |image: &str| pod(&format!("args: [-]\n  - {other}").replace(": a", image));
        becomes(&text(": a"), &text(": m/a"));
    }
    let found = told(&pod(
        "args: [-]\n    image: 'a -,'\n  - image: -,\n    name: -[b",
    ));
    assert_eq!(found.len(), 2);
    assert!(found[0].ends_with(" a -, 6"), "{found:?}");
    assert!(found[1].contains(" -[b -, 7"), "{found:?}");
}

/// With a pass for each, patience ended at a thousand of them or so.
#[test]
fn lines_indented_too_little_are_read_however_many_there_are() {
    let pods = |image: &str| {
        let pod = format!(
            "- kind: Pod # it's\n  spec:\n    containers:\n    - image: {image}\n      args: [\n    \
             \"x [\n   y\", é,\n    [ # ]\n], {{a: b, # }}\n}}, # c\n    ]\n      name: |\n       '[\n"
        );
        format!("kind: List\nitems:\n{}", pod.repeat(2_000))
    };
    let data = |end: &str| {
        let keys =
            (0..3_000).map(|key| format!("  a{key}: \"b\n  c\"\n  d{key}: 'b\n\n c'{end}\n"));
        format!("data:\n{}", keys.collect::<String>())
    };
    let text = |image: &str| format!("{0}---\n{1}---\n{0}", pods(image), data(""));
    becomes(&text("a"), &text("m/a"));
    let error = run(&data(" d")).unwrap_err().to_string();
    assert!(
        error.starts_with("line 6, column 5: invalid trailing"),
        "{error}"
    );
}

/// The places for spaces are guessed by looks, and these are not what they look like.
#[test]
fn what_looks_like_quotes_and_brackets_is_read_as_what_it_is() {
    let bracket = "args: [\n    ]";
    for other in [
        "name: b\n      [c\n    env: {\n    }",
        "name: b\n      'c\n    env: {\n    }\n    d: e'",
        "name: b\n      \"c\n    env: {\n    }",
        "&n name: |\n      [\n      b",
        "name: \"b\n    c\" # '\n    env: d [ ' {",
    ] {
        let container = |image: &str| format!("{bracket}\n    {other}\n    image: {image}");
        container_becomes(&container("a"), &container("m/a"));
    }
    let found = told(&pod(&format!(
        "&n image: |\n      'b\n      c'\n    {bracket}"
    )));
    assert_eq!(found, ["Pod  containers  'b\nc'\n 5"]);
}

#[test]
fn who_loses_patience_says_so() {
    let keys = (0..9_000).map(|key| format!("a{key}:\tb\n"));
    let error = run(&keys.collect::<String>()).unwrap_err().to_string();
    assert!(error.contains("mend them, or split it"), "{error}");
}

#[test]
fn what_stands_for_a_dash_is_no_character_of_the_text() {
    // As it is, or as an escape.
    for taken in [
        "\u{e000}",
        r"\ue000",
        r"\uE000",
        r"\U0000e000",
        "\u{e000}\u{e001}",
        r"\uE000\uE001",
    ] {
        let container = |image: &str| format!("args: [-]\n    image: \"{image}{taken}b\"");
        let shown = taken.replace(r"\U0000", r"\u").to_lowercase();
        let shown = shown
            .replace(r"\ue000", "\u{e000}")
            .replace(r"\ue001", "\u{e001}");
        let found = told(&pod(&container("a")));
        assert_eq!(found, [format!("Pod  containers  a{shown}b 6")], "{taken}");
    }
    let all: String = ('\u{e000}'..='\u{f8ff}').collect();
    let error = run(&format!("# {all}\n{}", pod("args: [-]\n    image: a"))).unwrap_err();
    assert!(error.to_string().contains("'-' followed by"), "{error}");
}

/// So it is in a stream of files as Windows writes them.
#[test]
fn a_byte_order_mark_behind_a_separator_is_none_of_the_text() {
    let flow = |image: &str| format!("{{kind: Pod, spec: {{containers: [{{image: {image}}}]}}}}\n");
    for between in [
        "---\n^",
        "---\r\n^",
        "--- # c\n^",
        "...\n---\n^",
        "---\n^# c\n",
        "---\n^---\n",
    ] {
        let between = between.replace('^', "\u{feff}");
        for pod in [&flow as &dyn Fn(&str) -> String, &|image| {
            pod(&format!("image: {image}"))
        }] {
            let text = |image: &str| format!("# é\n{0}{between}{0}{between}{0}", pod(image));
            becomes(&text("a"), &text("m/a"));
        }
    }
    let text = |image: &str| format!("\u{feff}---\n\u{feff}{}", flow(image));
    becomes(&text("a"), &text("m/a"));
    // There it would be a part of the first key.
    for between in ["---\n\n^", "---\n# c\n^", "---\n ^", "---\n^^", "\n^"] {
        let text = format!("{}{between}{}", flow("a"), pod("image: a"));
        let error = run(&text.replace('^', "\u{feff}")).unwrap_err();
        assert!(error.to_string().contains("byte order mark"), "{error}");
    }
}

/// Kubernetes' parser takes it for a character like any other.
#[test]
fn a_byte_order_mark_elsewhere_is_text() {
    let marked = |text: &str| text.replace('^', "\u{feff}");
    for container in [
        "name: |\n      ^b\n    image: 0",
        "name: >-\n      b\n      ^c^\n    image: 0",
        "name: ^b\n    image: 0 # ^",
        "name: b^c\n      ^d\n    image: 0",
        "# ^ c ^\n    image: 0\n    name: ^\"b\"",
        "{name: ^b^, image: 0, args: [-, ^ , -] }",
    ] {
        let text = |image: &str| {
            let pod = pod(&container.replace('0', image));
            let config = "kind: ConfigMap\ndata:\n  a: |\n    ^é\n";
            marked(&format!("^{config}---\n{pod}---\n^{pod}---\n{pod}"))
        };
        becomes(&text("a"), &text("m/a"));
    }
    let found = told(&marked(&pod("image: b^c^ # ^\n    name: ^d")));
    assert_eq!(found, [marked("Pod  containers ^d b^c^ 5")]);
    let error = run(&marked(&pod("image: a\n    ^name: b"))).unwrap_err();
    assert!(error.to_string().contains("byte order mark"), "{error}");
    let many = "    x: ^y\n".repeat(10_000);
    stays(&marked(&format!("- {many}").replace("-     x", "-   x")));
}

#[test]
fn new_text_is_quoted_where_it_must_be() {
    #[rustfmt::skip]
    let table = [
        ("a", "[::1]:5000/x", "\"[::1]:5000/x\""),
        ("'a'", "[::1]:5000/x", "'[::1]:5000/x'"),
        ("a", "r.io/x:1@sha256:0a", "r.io/x:1@sha256:0a"),
        ("a", "10.0.0.1:5000/x", "10.0.0.1:5000/x"),
        ("a", "1.2", "\"1.2\""),
        ("a", "10:20", "\"10:20\""),
        ("a", "1e3", "\"1e3\""),
        ("a", "2020-01-01T00:00:00Z", "\"2020-01-01T00:00:00Z\""),
        ("a", "true", "\"true\""),
        ("a", "Null", "\"Null\""),
        ("a", "", "\"\""),
        ("'a'", "", "''"),
        ("a", "x:", "\"x:\""),
        ("a", "x #y", "\"x #y\""),
        ("a", "x,y", "\"x,y\""),
        ("'a'", "it's", "'it''s'"),
        ("'a'", "x\ny", "\"x\\ny\""),
        ("\"a\"", "x\"\\\n\u{1}é\u{85}", "\"x\\\"\\\\\\n\\u0001é\\u0085\""),
        ("|-\n      a", "x\n", "\"x\\n\""),
        ("&x a", "é", "&x \"é\""),
    ];
    for (old, new, written) in table {
        let text = pod(&format!("image: {old}"));
        let got = rewrite(&text, SKIP, &mut |_| Some(new.to_owned())).unwrap();
        assert_eq!(got.text, pod(&format!("image: {written}")));
    }
}

#[test]
fn images_in_block_scalars_are_swapped() {
    #[rustfmt::skip]
    let table = [
        ("image: |-\n      a\n    name: b", "image: m/a\n    name: b"),
        ("image: >-\n      a\n    name: b", "image: m/a\n    name: b"),
        ("image: |- # c | d\n      a\n    name: b", "image: m/a # c | d\n    name: b"),
        ("image: |2-\n      a\n    name: b", "image: m/a\n    name: b"),
        ("image: |-2\n      a  \n    name: b", "image: \"m/a  \"\n    name: b"),
        ("image: |\n      a\n    name: b", "image: \"m/a\\n\"\n    name: b"),
        ("image: >-\n      a\n      b", "image: \"m/a b\""),
        ("image: |-\n\n      a\n\n    # c\n    name: b", "image: \"m/\\na\"\n\n    # c\n    name: b"),
        ("image: |+\n      a\n\n\n    name: b", "image: \"m/a\\n\\n\\n\"\n\n\n    name: b"),
        ("image:\n      |-\n      a", "image:\n      m/a"),
        ("image: &x !!str # c\n      |-\n      a\n    name: b", "image: &x !!str # c\n      m/a\n    name: b"),
        ("image: |-\n      é é\n    name: b", "image: \"m/é é\"\n    name: b"),
    ];
    for (input, output) in table {
        container_becomes(input, output);
    }
}

#[test]
fn text_before_the_image_does_not_shift_it() {
    for before in [
        "# é 你好 🦀\n",
        "\u{feff}",
        "\u{feff}# é\n---\n",
        "%YAML 1.2\n---\n",
        "%RESERVED é 你好\n---\n",
        "# a\ttab\n",
        "--- # é\n",
        "---\nnote: \"é\\\n  🦀\"\n---\n",
        "é: |\n  你好\n\n  好\n---\n",
    ] {
        let text = |image: &str| format!("{before}{}", pod(image));
        becomes(
            &text("image: a\n    name: é"),
            &text("image: m/a\n    name: é"),
        );
    }
    container_becomes(
        "name: é\n    image: \"é\" # é",
        "name: é\n    image: \"m/é\" # é",
    );
}

#[test]
fn tabs_are_kept_but_none_may_indent() {
    #[rustfmt::skip]
    let table = [
        ("image: \ta\t# c\t", "image: \tm/a\t# c\t"),
        ("image: \"a\"\t\n    name:  \tb", "image: \"m/a\"\t\n    name:  \tb"),
        ("{\n    \timage: a,\n    \tname: b\n    \t}", "{\n    \timage: m/a,\n    \tname: b\n    \t}"),
        ("image: |-\n      a\tb\n    name: c", "image: \"m/a\\u0009b\"\n    name: c"),
    ];
    for (input, output) in table {
        container_becomes(input, output);
    }
    let error = run("kind: Pod\nspec:\n\tcontainers: []\n").unwrap_err();
    assert!(
        error.to_string().starts_with("line 3, column 2: tabs"),
        "{error}"
    );
}

#[test]
fn documents_are_kept_apart() {
    let foreign = "apiVersion: foo.io/v1\nkind: Pod\nspec: {containers: [{image: a}]}\n";
    let text = |image: &str| {
        let pod = pod(&format!("image: {image}"));
        format!("---\n{pod}---\n# nothing\n---\n{foreign}...\n%YAML 1.2\n--- # c\n{pod}...\n")
    };
    becomes(&text("a"), &text("m/a"));
    assert_eq!(run(&text("a")).unwrap().objects, 2);
}

#[test]
fn nothing_in_it() {
    for text in [
        "",
        "\n",
        "\u{feff}",
        "# c\n",
        "---\n",
        "---\n---\n...\n",
        "null\n",
        "42",
        "[]",
        "{}",
        " [ ] { } ",
    ] {
        stays(text);
        assert_eq!(run(text).unwrap().objects, 0);
    }
}

#[test]
fn every_kind() {
    for (head, way, end) in [
        ("apiVersion: v1\nkind: Pod", "spec: ", ""),
        ("kind: Pod", "spec: ", ""),
        (
            "apiVersion: v1\nkind: PodTemplate",
            "template: {spec: ",
            "}",
        ),
        (
            "apiVersion: apps/v1\nkind: StatefulSet",
            "spec: {template: {spec: ",
            "}}",
        ),
        (
            "apiVersion: batch/v1\nkind: CronJob",
            "spec: {jobTemplate: {spec: {template: {spec: ",
            "}}}}",
        ),
    ] {
        let text =
            |image: &str| format!("{head}\n{way}{{containers: [{{image: {image}}}]}}{end}\n");
        becomes(&text("a"), &text("m/a"));
        assert_eq!(run(&text("a")).unwrap().objects, 1);
    }
}

#[test]
fn every_list() {
    let text = "\
apiVersion: v1
kind: Pod
metadata: {generateName: p-}
spec:
  volumes:
  - {name: v, image: {reference: d}}
  - {name: w, emptyDir: {}}
  containers:
  - {name: c, image: a}
  - name: nameless
  - image: c
  ephemeralContainers:
  - {name: e, image: e}
  initContainers:
  - {name: i, image: b}
  other:
  - image: z
";
    assert_eq!(
        told(text),
        [
            "Pod p- initContainers i b 15",
            "Pod p- containers c a 9",
            "Pod p- containers  c 11",
            "Pod p- ephemeralContainers e e 13",
            "Pod p- volumes v d 6",
        ]
    );
    let got = run(text).unwrap();
    assert_eq!((got.swapped, got.objects), (5, 1));
}

#[test]
fn lines_are_those_of_the_scalar() {
    let text = "# c\r\nkind: Pod\r\nspec:\n  containers:\r  - image: &x !!str\n      # c\n      'a'\n  - image: |-\n\n      b\n";
    assert_eq!(
        told(text),
        ["Pod  containers  a 7", "Pod  containers  \nb 8"]
    );
}

#[test]
fn lists_of_objects() {
    let text = |image: &str| {
        let spec = format!("spec: {{containers: [{{image: {image}}}]}}");
        format!(
            "\
apiVersion: v1
kind: List
items:
- {{apiVersion: v1, kind: Pod, {spec}}}
- null
- 1
- []
- {{kind: ConfigMap, data: {{image: a}}}}
- {{kind: Bundle, items: [{{kind: Pod, spec: {{containers: [{{image: a}}]}}}}]}}
- spec: {{containers: [{{image: a}}]}}
- kind: List
  items:
  - {{kind: PodList, items: [{{{spec}}}, null, 1, {{kind: Pod, {spec}}}]}}
- apiVersion: apps/v1
  kind: DeploymentList
  items:
  - spec: {{template: {{{spec}}}}}
- apiVersion: foo.io/v1
  kind: DeploymentList
  items:
  - spec: {{template: {{spec: {{containers: [{{image: a}}]}}}}}}
  - {{apiVersion: apps/v1, kind: Deployment, spec: {{template: {{{spec}}}}}}}
---
- {{kind: Pod, {spec}}}
- - {{kind: Pod, {spec}}}
"
        )
    };
    becomes(&text("a"), &text("m/a"));
    let got = run(&text("a")).unwrap();
    assert_eq!((got.swapped, got.objects), (7, 7));
}

#[test]
fn images_that_are_none() {
    for image in [
        "",
        "~",
        "null",
        "NULL",
        "!!str",
        "!!null ''",
        "!!int 5",
        "!env A",
        "[a]",
        "{a: b}",
        "&x",
    ] {
        stays(&pod(&format!("image: {image}")));
    }
    stays(&pod("image"));
    stays(&pod("- image: a"));
    stays("kind: Pod\nspec:\n  containers: {image: a}\n");
    stays("kind: Pod\nspec: [containers]\n");
    stays("kind: [Pod]\nspec: {containers: [{image: a}]}\n");
    stays("kind: Pod\nspec: {volumes: [{image: a}], containers: [{image: {reference: a}}]}\n");
}

#[test]
fn skipped_objects() {
    let text = |own: &str, template: &str, image: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {own}\nspec:\n  template:\n    \
             metadata: {template}\n    spec: {{containers: [{{image: {image}}}]}}\n"
        )
    };
    let disabled = &format!("{{labels: {{{SKIP}: disabled}}}}");
    stays(&text(disabled, "", "a"));
    stays(&text("", disabled, "a"));
    stays(&text(
        "",
        &disabled.replace("disabled", "\"disabled\""),
        "a",
    ));
    for other in [
        "{labels: {other: disabled}}",
        &disabled.replace("disabled", "[disabled]"),
        &disabled.replace("disabled", "enabled"),
        &disabled.replace("labels", "annotations"),
    ] {
        becomes(&text(other, other, "a"), &text(other, other, "m/a"));
    }
    assert_eq!(run(&text(disabled, "", "a")).unwrap().objects, 1);
}

/// As the webhook does: who owns it would not know it again.
#[test]
fn replica_sets_that_a_controller_owns() {
    let text = |kind: &str, owners: &str, image: &str| {
        format!(
            "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{ownerReferences: {owners}}}\nspec:\n  template:\n    \
             spec: {{containers: [{{image: {image}}}]}}\n"
        )
    };
    for owners in [
        "[{controller: true}]",
        "[{kind: a}, {controller: True}]",
        "[{controller: yes}]",
    ] {
        stays(&text("ReplicaSet", owners, "a"));
        stays(&text("ReplicationController", owners, "a"));
        becomes(
            &text("Deployment", owners, "a"),
            &text("Deployment", owners, "m/a"),
        );
    }
    for owners in [
        "[]",
        "a",
        "[{kind: a}]",
        "[{controller: false}]",
        "[{controller: \"true\"}]",
        "{controller: true}",
    ] {
        becomes(
            &text("ReplicaSet", owners, "a"),
            &text("ReplicaSet", owners, "m/a"),
        );
    }
    let json = r#"{"kind":"ReplicaSet","apiVersion":"apps/v1","metadata":{"ownerReferences":[{"controller":true}]},
        "spec":{"template":{"spec":{"containers":[{"image":"a"}]}}}}"#;
    stays(json);
    becomes(
        &json.replace("true", "false"),
        &json.replace("true", "false").replace(r#""a""#, r#""m/a""#),
    );
}

#[test]
fn truth_values_are_no_images() {
    for odd in ["true", "False", "no", "ON", "!!bool \"true\""] {
        let text = pod(&format!("image: {odd}"));
        let got = run(&text).unwrap();
        assert_eq!((got.text, got.odd), (text, vec![5]));
    }
    container_becomes("image: \"true\"", "image: \"m/true\"");
    container_becomes("image: !!str true", "image: !!str m/true");
    container_becomes("image: n", "image: m/n");
}

#[test]
fn mirror_pods() {
    let mirror = "metadata: {annotations: {kubernetes.io/config.mirror: x}}";
    let spec = "spec: {containers: [{image: a}]}";
    stays(&format!("kind: Pod\n{mirror}\n{spec}\n"));
    let job = format!("kind: Job\nspec: {{template: {{{mirror}, {spec}}}}}\n");
    becomes(&job, &job.replace("image: a", "image: m/a"));
}

#[test]
fn aliases_to_scalars() {
    #[rustfmt::skip]
    let table = [
        // The alias follows the image it names.
        ("image: &x a\n  - image: *x", "image: &x m/a\n  - image: *x"),
        // The alias alone is an image.
        ("name: &x a\n    image: *x # c", "name: &x a\n    image: m/a # c"),
        ("name: &x a\n    image: *x\n  - image: *x", "name: &x a\n    image: m/a\n  - image: m/a"),
        ("name: &x 'a b'\n    image: *x", "name: &x 'a b'\n    image: \"m/a b\""),
        // The alias alone is no image.
        ("image: &x a\n    name: *x # c", "image: &x m/a\n    name: a # c"),
        ("image: &x !!str 1.2\n    name: *x", "image: &x !!str m/1.2\n    name: !!str 1.2"),
        ("image: !!str &x 1.2\n    args: [*x, *x]", "image: !!str &x m/1.2\n    args: [!!str 1.2, !!str 1.2]"),
        ("image: &x 1.2\n    args: [*x]", "image: &x m/1.2\n    args: [1.2]"),
        ("image: &x 'a'\n    name: *x", "image: &x 'm/a'\n    name: 'a'"),
        ("image: &x \"\\x61\"\n    name: *x", "image: &x \"m/a\"\n    name: \"\\x61\""),
        ("image: &x |\n      a\n    name: *x", "image: &x \"m/a\\n\"\n    name: \"a\\n\""),
        ("image: &x a\n      b\n    name: *x", "image: &x \"m/a b\"\n    name: \"a b\""),
        ("image: &x 'a\n      b'\n    name: *x", "image: &x 'm/a b'\n    name: \"a b\""),
        ("image: &x a,b\n    args: [*x]", "image: &x \"m/a,b\"\n    args: [\"a,b\"]"),
        ("image: &x a\n    env: {*x : *x}", "image: &x m/a\n    env: {a : a}"),
        // Twice the same key, once it is looked through.
        ("image: &x a\n    *x : 1\n    ? *x\n    : 2", "image: &x a\n    *x : 1\n    ? *x\n    : 2"),
        // The latest definition counts.
        ("image: &x a\n    name: &x b\n  - image: *x", "image: &x m/a\n    name: &x b\n  - image: m/b"),
        ("name: &x b\n    image: &x a\n    args: [*x]\n  - image: *x", "name: &x b\n    image: &x m/a\n    args: [a]\n  - image: *x"),
        // A key may be an alias, too.
        ("name: &x image\n    *x : a", "name: &x image\n    *x : m/a"),
    ];
    for (input, output) in table {
        container_becomes(input, output);
    }
}

#[test]
fn aliases_to_maps_and_lists() {
    for text in [
        "kind: Pod\nspec: {containers: [&c {image: A}, *c, *c]}\n",
        "kind: Pod\nspec:\n  containers:\n  - &c\n    image: A\n  initContainers:\n  - *c\n",
        "kind: Pod\nspec: {initContainers: &i [image: A], containers: *i}\n",
        "kind: Pod\nspec: {containers: [&c {image: A, self: *c}]}\n",
        "x: &l [&c {image: A}]\nkind: Pod\nspec: {containers: *l, initContainers: [*c]}\n",
        "- &p {kind: Pod, spec: &s {containers: [image: A]}}\n- *p\n- {kind: Pod, spec: *s}\n",
        "kind: List\nitems: [x: &c {image: A}, {kind: Pod, spec: {containers: [*c]}}]\n",
        "kind: Pod\nspec: {volumes: [image: &i {reference: A}, image: *i]}\n",
    ] {
        becomes(&text.replace('A', "a"), &text.replace('A', "m/a"));
        assert_eq!(run(text).unwrap().swapped, 1);
    }
}

#[test]
fn merge_keys() {
    for container in [
        "<<: *x",
        "{<<: *x, name: c}",
        "{name: c, <<: *x}",
        "{<<: [*x, *y]}",
        "{<<: [{name: c}, *x, *y]}",
        "{<<: *z}",
        "{<<: [*z, *y]}",
    ] {
        let text = |image: &str| {
            format!(
                "x: &x {{image: {image}}}\ny: &y {{image: b, name: y}}\nz: &z {{<<: [*x, *y]}}\n\
                 kind: Pod\nspec: {{containers: [{container}, {container}]}}\n"
            )
        };
        becomes(&text("a"), &text("m/a"));
        assert_eq!(told(&text("a")).len(), 1);
    }
    let text = |tail: &str| {
        format!("x: &x {{image: a, name: x}}\nkind: Pod\nspec: {{containers: [{tail}]}}\n")
    };
    becomes(&text("{<<: *x, image: b}"), &text("{<<: *x, image: m/b}"));
    becomes(&text("{<<: {image: b}}"), &text("{<<: {image: m/b}}"));
    assert_eq!(told(&text("{<<: *x}")), ["Pod  containers x a 1"]);
    stays(&text("{\"<<\": *x}, {<<: x}, {<<: [x]}, {<<: }"));
    stays("kind: Pod\nspec: {containers: [&a {<<: *a}, &b {<<: [*b, *a]}]}\n");
}

/// kubectl takes the merged one, YAML and most other parsers the map's own.
#[test]
fn a_key_before_the_merge_key_that_gives_it_too_is_ambiguous() {
    let text = |container: &str| {
        format!(
            "x: &x {{image: a, name: x}}\ny: &y {{<<: *x}}\nkind: Pod\nspec: {{containers: [&c {container}]}}\n"
        )
    };
    for container in [
        "{image: b, <<: *x}",
        "{image: b, <<: *y}",
        "{image: b, <<: [{name: z}, *y]}",
        "{name: b, <<: *x}",
        "{image: b, <<: {image: b}}",
    ] {
        let done = run(&text(container)).unwrap();
        assert_eq!(done.text, text(container));
        assert_eq!(done.ambiguous.len(), 1, "{container}");
    }
    for container in [
        "{image: b, <<: {name: x}}",
        "{image: b, <<: *c}",
        "{image: b, \"<<\": {image: c}}",
        "{<<: *x, image: b}",
    ] {
        let swapped = container.replace("image: b", "image: m/b");
        becomes(&text(container), &text(&swapped));
    }
}

#[test]
fn anchors_do_not_cross_documents() {
    let unknown = |text: &str| match run(text) {
        Err(Error::Yaml {
            line,
            column,
            message,
        }) => (line, column, message.contains("unknown anchor")),
        other => panic!("{other:?}"),
    };
    assert_eq!(unknown("a: &x 1\n---\nb: *x\n"), (3, 4, true));
    assert_eq!(unknown("a: *x\n"), (1, 4, true));
}

#[test]
fn what_must_stay_is_not_changed_by_an_alias() {
    let list = |first: &str, second: &str| format!("kind: List\nitems:\n- {first}\n- {second}\n");
    let labels = format!("metadata: {{labels: {{{SKIP}: disabled}}}}");
    let skipped = format!("{{kind: Pod, {labels}, spec: &s {{containers: [image: &i a]}}}}");
    for (first, second) in [
        (skipped.as_str(), "{kind: Pod, spec: *s}"),
        (
            "{kind: Other, spec: &s {containers: [image: a]}}",
            "{kind: Pod, spec: *s}",
        ),
        (
            "{kind: Pod, spec: &s {containers: [image: a]}}",
            "{kind: Pod, kind: Pod, spec: *s}",
        ),
    ] {
        let text = list(first, second);
        assert_eq!(run(&text), Err(Error::Shared { line: 3 }));
        assert_eq!(rewrite(&text, SKIP, &mut |_| None).unwrap().text, text);
    }
    let text = list(
        "{kind: Pod, spec: {containers: [image: &i a]}}",
        "{kind: Other, spec: &s {containers: [image: *i]}}",
    );
    assert_eq!(run(&text).unwrap().swapped, 1);
    assert_eq!(
        run(&format!("{text}- {{kind: Pod, spec: *s}}\n")),
        Err(Error::Shared { line: 3 })
    );
    // Nor is metadata, of whatever on the way to the Pod.
    let merged = "spec: {containers: [{<<: *c}]}";
    let aliased = "spec: {containers: [*c]}";
    let meta = "metadata: {annotations: &c {image: a}}";
    for text in [
        format!("{{kind: Pod, {meta}, {merged}}}\n"),
        format!("{{kind: Pod, {meta}, {aliased}}}\n"),
        format!("{{kind: Job, apiVersion: batch/v1, spec: {{template: {{{meta}, {merged}}}}}}}\n"),
        format!(
            "{{kind: CronJob, apiVersion: batch/v1, spec: {{jobTemplate: {{{meta}, spec: {{template: {{{merged}}}}}}}}}}}\n"
        ),
    ] {
        assert_eq!(run(&text), Err(Error::Shared { line: 1 }), "{text}");
    }
    becomes(
        "{kind: Pod, metadata: {labels: {image: &l a}}, spec: {containers: [image: *l]}}\n",
        "{kind: Pod, metadata: {labels: {image: &l a}}, spec: {containers: [image: m/a]}}\n",
    );
    // A scalar can be shared no longer.
    let pod = |image: &str| format!("{{kind: Pod, spec: {{containers: [image: {image}]}}}}");
    becomes(&list(&skipped, &pod("*i")), &list(&skipped, &pod("m/a")));
    let skipped =
        |image: &str| format!("{{kind: Pod, {labels}, spec: {{containers: [image: {image}]}}}}");
    becomes(
        &list(&pod("&i a"), &skipped("*i")),
        &list(&pod("&i m/a"), &skipped("a")),
    );
}

#[test]
fn repeated_keys_leave_an_object_alone() {
    for other in [
        &pod("image: a\n    image: b"),
        &pod("image: a\n    \"image\": b"),
        &pod("image: a\n  - env: 1\n    env: 2"),
        &pod("image: a\n  initContainers: []\n  initContainers:"),
        &pod("image: a\n    <<: {}\n    <<: {}"),
        &pod("image: a\n    name: &x env\n    env: 1\n    *x : 2"),
        "kind: Pod\nkind: Pod\nspec: {containers: [image: a]}\n",
        "kind: List\nkind: List\nitems: [{kind: Pod, spec: {containers: [image: a]}}]\n",
        "x: &x {a: 1, a: 2}\nkind: Pod\nspec: {containers: [{<<: *x, name: b}, image: a]}\n",
        "kind: Pod\nmetadata: {labels: {a: b, a: c}}\nspec: {containers: [image: a]}\n",
    ] {
        let text = |image: &str| format!("{other}---\n{}", pod(image));
        becomes(&text("image: a"), &text("image: m/a"));
    }
    let twice = format!("# c\n{}", pod("image: a\n    env: 1\n    env: 2"));
    let found = &run(&twice).unwrap().ambiguous[0];
    let again = twice.lines().position(|line| line.ends_with("env: 2"));
    assert_eq!((found.line, &*found.key), (2, "env"));
    assert_eq!(found.key_line, again.unwrap() + 1);
    // Off the way they do no harm here.
    container_becomes(
        "image: a\n    env: {a: 1, a: 2}",
        "image: m/a\n    env: {a: 1, a: 2}",
    );
    let json =
        |entry: &str| format!(r#"{{"kind": "Pod", "spec": {{"containers": [{{{entry}}}]}}}}"#);
    stays(&json(r#""image": "a", "\u0069mage": "b""#));
    becomes(
        &json(r#""image": "a", "<<": 1, "env": {"a": 1, "a": 1}"#),
        &json(r#""image": "m/a", "<<": 1, "env": {"a": 1, "a": 1}"#),
    );
}

const POD: &str =
    r#"{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":"c","image":"a"}]}}"#;

const PRETTY: &str = "{\r
\t\"kind\" : \"Pod\",\r
\t\"spec\" : {\r
\t\t\"containers\" : [ {\r
\t\t\t\"image\" :\r
\t\t\t\t\"a\" } ]\r
}\t}\r
";

#[test]
fn json() {
    for text in [
        POD,
        PRETTY,
        &format!("\u{feff} \n{POD}\n"),
        &format!("[{POD}, {POD}]"),
        &format!("{POD}{POD}\n{POD}"),
        &format!("{POD}\n[]\n\n{PRETTY} 1 \"x\""),
        &format!(r#"{{"kind":"List","items":[{POD}]}}"#),
        // JSON by its looks, YAML by its comma, comment or document mark.
        &format!("[{POD},]"),
        &format!("{POD} # c"),
        &format!("{POD}\n---\n{POD}\n"),
    ] {
        becomes(text, &text.replace("\"a\"", "\"m/a\""));
    }
    assert_eq!(told(PRETTY), ["Pod  containers  a 6"]);
    assert_eq!(told(&format!("{PRETTY}{POD}"))[1], "Pod  containers c a 8");
}

#[test]
fn json_escapes() {
    for (input, output) in [
        (r#"a\/b"#, r#"m/a/b"#),
        (r#"\u0061\u0064\u00e9"#, r#"m/adé"#),
        (r#"a\\\"\n"#, r#"m/a\\\"\n"#),
        (r#"\ud83e\udd80"#, "m/🦀"),
        // Nobody can tell what that is.
        (r#"\ud83e"#, r#"\ud83e"#),
    ] {
        let text = |image: &str| {
            format!(
                r#"{{"note":"é\/","ki\u006ed":"P\u006fd","n":1e999,"spec":{{"containers":[{{"im\u0061ge":"{image}"}}]}}}}"#
            )
        };
        becomes(&text(input), &text(output));
    }
    let note = "\u{feff}{\"note\":\"\\ud83e\",\"kind\":\"Pod\",\"spec\":{\"containers\":[{\"image\":\"a\"}]}}";
    becomes(note, &note.replace("\"a\"", "\"m/a\""));
    stays(r#"{"kind":"Pod","\ud83e":1,"spec":{"containers":[{"image":"a"}]}}"#);
    stays(
        r#"{"kind":"Pod","spec":{"containers":[{"image":null},{"image":1},{"image":["a"]},{}]}}"#,
    );
}

#[test]
fn broken_texts() {
    #[rustfmt::skip]
    let table = [
        ("kind: Pod\nspec:\n  {{- toYaml .Values.spec | nindent 2 }}\n", "line 3, column 5: "),
        ("{{- if .Values.on }}\nkind: Pod\n{{- end }}\n", "line 1, column 3: "),
        ("kind: Pod\nspec: a: b\n", "line 2, column 8: "),
        ("é: 'a\n", "line 1, column 4: "),
        ("# c\n---\né: \"\\é\"\n", "line 3, column 4: "),
        ("{\"kind\": \"Pod\",\n \"spec\": {\"containers\": [}\n", "line 2, column 26: expected value"),
        ("{\"kind\": \"Pod\",\n", "line 2, column 0: EOF"),
        ("{\"kind\": \"Pod\"}}", "line 1, column 16: "),
        ("{a: b}\nkind: Pod\n", "line 2, column 1: "),
        ("a: \0", "line 1, column 4: "),
    ];
    for (text, start) in table {
        let error = run(text).unwrap_err().to_string();
        assert!(error.starts_with(start), "{text}: {error}");
        assert_eq!(error.contains("template"), text.contains("{{"));
    }
}

#[test]
fn deep_nesting() {
    let json = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let lists = |depth: usize| "- ".repeat(depth);
    let map = |level: usize| format!("{}a:\n", " ".repeat(level));
    let maps = |depth: usize| (0..depth).map(map).collect::<String>();
    for deep in [&json as &dyn Fn(usize) -> String, &lists, &maps] {
        stays(&deep(MAX_DEPTH));
        for depth in [MAX_DEPTH + 1, 3000] {
            assert!(matches!(run(&deep(depth)), Err(Error::TooDeep { .. })));
        }
    }
    for open in ["[", "{", "{a: ", "{\"a\":", "[{"] {
        assert!(run(&open.repeat(100_000)).is_err());
    }
}

#[test]
fn deep_merging() {
    let mut chain = "x:\n- &a0 {image: a}\n".to_owned();
    for level in 0..1000 {
        writeln!(chain, "- &a{} {{<<: *a{level}}}", level + 1).unwrap();
    }
    let end = |level: usize| format!("{chain}kind: Pod\nspec: {{containers: [*a{level}]}}\n");
    assert_eq!(run(&end(MAX_DEPTH - 1)).unwrap().swapped, 1);
    let merges_from = 2 + 1000 - MAX_DEPTH;
    assert_eq!(run(&end(1000)), Err(Error::TooDeep { line: merges_from }));
}

/// Every line doubles what the one before stands for, or more.
#[test]
fn alias_bombs_are_fast() {
    let start = Instant::now();
    let mut bomb =
        "kind: List\nitems:\n- &a0 {kind: Pod, spec: {containers: [image: a]}}\n".to_owned();
    for level in 0..100 {
        let again = format!("*a{level}, ").repeat(100);
        writeln!(bomb, "- &a{} {{kind: List, items: [{again}]}}", level + 1).unwrap();
    }
    assert_eq!(run(&bomb).unwrap().swapped, 1);
    let many = 20_000;
    let wide: String = (0..many).map(|key| format!("k{key}: 1, ")).collect();
    let (merges, again) = ("*w, ".repeat(many), "*c, ".repeat(many));
    let pods = "- {kind: Pod, spec: {containers: *l, initContainers: *l}}\n".repeat(many);
    let cross = format!(
        "- x: [&w {{{wide}}}, &m {{<<: [{merges}]}}]\n\
         - {{kind: Pod, spec: {{containers: &l [&c {{<<: *m, image: a}}, {again}]}}}}\n{pods}"
    );
    assert_eq!(run(&cross).unwrap().swapped, 1);
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn more_than_the_image_never_changes() {
    // As a key, the text that the alias stands for would be too long.
    let long = "a".repeat(1100);
    let text = pod(&format!("image: &x {long}\n    env:\n      *x : b"));
    assert_eq!(run(&text), Err(Error::Spoiled { line: 5 }));
    assert_eq!(rewrite(&text, SKIP, &mut |_| None).unwrap().text, text);
}

#[test]
fn every_other_node_is_compared() {
    let text = "a: &x 1\nb: [*x, 'c']\n";
    let tree = yaml::read(text).unwrap();
    let editor = Editor {
        text,
        format: Format::Yaml,
        tree: &tree,
        lines: Lines::new(text),
        survey: &Survey::default(),
        slots: HashSet::new(),
    };
    let compare = |other: &str| editor.compare(&yaml::read(other).unwrap(), &[]);
    assert_eq!(compare("a:   &y 1 # c\nb: [ *y,'c' ]"), Ok(()));
    for (other, differs) in [
        ("a: &x 2\nb: [*x, 'c']\n", 2),
        ("a: &x !!str 1\nb: [*x, 'c']\n", 2),
        ("a: &x 1\nb: [1, 'c']\n", 5),
        ("a: &x 1\nb: [*x, c]\n", 6),
        ("a: &x 1\nb: [*x, 'c']\nd:\n", 0),
        ("a: &x 1\nb: [*x, 'c']\n---\nd\n", 8),
    ] {
        assert_eq!(compare(other), Err(differs), "{other}");
    }
}

/// What manifests are made of.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    "kind: Pod\n", "kind: List\n", "items:\n", "spec:\n", "containers:\n", "image: ", "image: a\n", "a", "b:", ": ",
    "- ", "  ", " ", "\n", "\r\n", "\r", "\t", "&x ", "*x ", "*x", "<<: ", "{", "}", "[", "]", ", ", "'", "\"", "\\",
    "|-\n", ">\n", "# c\n", "---\n", "...\n", "!!str ", "!x ", "? ", "é", "\u{feff}", "~", "%A é\n", "\u{85}", "\u{2028}", POD,
    "spec: {containers: [image: &x a, image: *x]}\n", "  containers:\n  - image: ", "\n    name: ", "\n  - image: ",
    "args: [\n]\n", ":\ta", "\"a\nb\"", "apiVersion: v1\n",
    "args: [\n\t", "\n\t}", "\n\t\"a\n \tb\"", "\n- &x b: |\n  [\n", "\u{feff}a", "|\n  \u{feff}b\n",
];

fn manifest_like() -> impl Strategy<Value = String> {
    let pieces = prop::collection::vec(prop::sample::select(PIECES), 0..40);
    pieces.prop_map(|pieces| pieces.concat())
}

fn check_any(text: &str) {
    if let Ok(same) = rewrite(text, SKIP, &mut |_| None) {
        assert_eq!((same.text.as_str(), same.swapped), (text, 0));
    }
    if let Ok(once) = run(text) {
        let again = run(&once.text).unwrap();
        assert_eq!((again.text, again.swapped), (once.text, 0));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_any(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        check_any(&text);
    }

    #[test]
    fn no_manifest_makes_it_panic(text in manifest_like()) {
        check_any(&text);
        check_any(&format!("kind: Pod\nspec:\n  containers:\n  - image: {text}"));
    }

    #[test]
    fn any_new_text_reads_back(new in any::<String>(), style in 0..5usize) {
        let text = match ["a", "'a'", "\"a\"", "|-\n      a", "json"][style] {
            "json" => POD.to_owned(),
            old => pod(&format!("image: {old}\n    name: b")),
        };
        let swapped = rewrite(&text, SKIP, &mut |_| Some(new.clone())).unwrap();
        let mut found = Vec::new();
        rewrite(&swapped.text, SKIP, &mut |image| {
            found.push(image.image.to_owned());
            None
        })
        .unwrap();
        prop_assert_eq!(found, [new]);
    }
}
