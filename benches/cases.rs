//! What is measured: each case builds its input, sees that the answer is right, and then does one thing
//! as often as it is told.
//!
//! `benches/parts.rs` times the cases, and lets their instructions be counted; `tests/benches.rs` runs
//! each of them once, so that none can rot; `tests/allocations.rs` borrows the reviews.

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::{fs, io};

use imageswap::admission::{self, Reply};
use imageswap::image::Reference;
use imageswap::maps::{Legacy, Maps, Rules};
use serde_json::Value;

/// The label that keeps ImageSwap away.
const LABEL: &str = "k8s.twr.io/imageswap";

/// What the reviews are answered by.
const MAPS: &str = "\
default::mirror.example.com
docker.io::hub.example.com
registry.k8s.io::
";

/// One thing to do.
pub type Run = Box<dyn Fn()>;

/// Something to measure.
pub struct Case {
    /// What it is about: `reference`, `swap`, `review` or `load`.
    pub group: &'static str,
    /// What it is, within its group.
    pub name: String,
    /// How much is read by it, where that is what it is about.
    pub size: Option<Size>,
    /// Whether its instructions are counted.
    pub is_counted: bool,
    build: Box<dyn Fn() -> Run>,
}

/// What a case reads.
#[derive(Debug, Clone, Copy)]
pub enum Size {
    Bytes(u64),
    Lines(u64),
}

impl Case {
    fn new(
        group: &'static str,
        name: impl Into<String>,
        build: impl Fn() -> Run + 'static,
    ) -> Self {
        Self {
            group,
            name: name.into(),
            size: None,
            is_counted: false,
            build: Box::new(build),
        }
    }

    fn of(self, size: Size) -> Self {
        let size = Some(size);
        Self { size, ..self }
    }

    fn counted(self) -> Self {
        Self {
            is_counted: true,
            ..self
        }
    }

    /// Both names.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    /// What does it, once a call, after the answer was seen to be right.
    pub fn build(&self) -> Run {
        (self.build)()
    }
}

/// All of them.
pub fn all() -> Vec<Case> {
    let mut cases = references();
    cases.extend(swaps());
    cases.extend(reviews());
    cases.extend(loads());
    cases
}

// === reference ===

fn references() -> Vec<Case> {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let whole = format!("registry.example.com:5000/team/project/app:v1.2.3@{digest}");
    [
        ("nginx", "nginx".to_owned()),
        (
            "host, path and tag",
            "quay.io/prometheus/node-exporter:v1.8.2".to_owned(),
        ),
        ("all parts", whole),
    ]
    .into_iter()
    .map(|(name, image)| {
        let case = Case::new("reference", name, move || {
            let image = image.clone();
            assert_eq!(Reference::parse(&image).unwrap().to_string(), image);
            Box::new(move || {
                let _ = black_box(Reference::parse(black_box(&image)));
            })
        });
        case.counted()
    })
    .collect()
}

// === swap ===

/// A map file of so many lines of a kind, the image that is looked up in it, and what that becomes.
struct Swap {
    kind: &'static str,
    lines: usize,
    line: fn(usize) -> String,
    /// What stands before all.
    head: &'static str,
    image: String,
    result: Option<String>,
}

fn registry(n: usize) -> String {
    format!("r{n}.example.com::mirror.example.com/r{n}")
}

fn exact(n: usize) -> String {
    format!("[EXACT]r{n}.example.com/team/app:1::mirror.example.com/x{n}:1")
}

/// Such that are a text at the start.
fn plain_pattern(n: usize) -> String {
    format!("[REPLACE]r{n}.example.com/*::mirror.example.com/p{n}")
}

/// Such with more wildcards.
fn pattern(n: usize) -> String {
    format!("[REPLACE]r{n}.example.com/*/app:[0-9]*::mirror.example.com/p{n}")
}

fn swaps() -> Vec<Case> {
    let mut swaps = Vec::new();
    for lines in [10, 1_000, 100_000] {
        let last = lines - 1;
        let swap = |kind, line, head, image: String, result: Option<String>| Swap {
            kind,
            lines,
            line,
            head,
            image,
            result,
        };
        let known = format!("r{last}.example.com/team/app:1");
        let unknown = "quay.io/team/app:1".to_owned();
        let placed = |path: &str| Some(format!("mirror.example.com/{path}"));
        let default = "default::mirror.example.com/other\n";
        swaps.extend([
            swap(
                "exact",
                exact,
                "",
                known.clone(),
                placed(&format!("x{last}:1")),
            ),
            swap(
                "registry",
                registry,
                "",
                known.clone(),
                placed(&format!("r{last}/team/app:1")),
            ),
            swap(
                "default",
                registry,
                default,
                unknown.clone(),
                placed("other/team/app:1"),
            ),
        ]);
        if lines > 1_000 {
            continue;
        }
        let last_pattern = placed(&format!("p{last}/app:1"));
        swaps.extend([
            swap(
                "replace by a text",
                plain_pattern,
                "",
                known.clone(),
                last_pattern.clone(),
            ),
            swap("replace by a pattern", pattern, "", known, last_pattern),
            swap(
                "no pattern of these",
                pattern,
                default,
                unknown,
                placed("other/team/app:1"),
            ),
        ]);
    }
    let mut cases: Vec<_> = swaps.into_iter().map(swap_of_many).collect();
    cases.extend(swaps_of_few());
    cases
}

fn swap_of_many(swap: Swap) -> Case {
    let name = format!("{} ({})", swap.kind, swap.lines);
    let is_counted = swap.lines == 10;
    let case = Case::new("swap", name, move || {
        let lines = (0..swap.lines).map(swap.line);
        let text = lines.fold(swap.head.to_owned(), |text, line| text + &line + "\n");
        swapping(maps(&text), &swap.image, swap.result.as_deref())
    });
    Case { is_counted, ..case }
}

/// Each other way to decide.
fn swaps_of_few() -> Vec<Case> {
    const FILE: &str = "\
docker.io::mirror.example.com
docker.io/library::mirror.example.com/official
quay.io::quay.mirror.example.com
ghcr.io::mirror.example.com/from-
registry.k8s.io::
noswap_wildcards::internal,private
default::mirror.example.com/other
";
    let rows: [(&str, &str, Option<&str>); 8] = [
        (
            "library image",
            "nginx:1.25",
            Some("mirror.example.com/official/nginx:1.25"),
        ),
        (
            "port kept",
            "quay.io:443/a/b:1",
            Some("quay.mirror.example.com:443/a/b:1"),
        ),
        (
            "dash",
            "ghcr.io/a/b:1",
            Some("mirror.example.com/from-ghcr.io/a/b:1"),
        ),
        ("key without value", "registry.k8s.io/pause:3.9", None),
        ("noswap", "registry.internal.example.com/a:1", None),
        ("at its target", "mirror.example.com/other/a:1", None),
        ("no reference", "No Reference", None),
        ("legacy", "docker.io/a/b:1", Some("mirror.example.com/b:1")),
    ];
    rows.into_iter()
        .map(|(name, image, result)| {
            let case = Case::new("swap", name, move || {
                let rules = match name {
                    "legacy" => Rules::Legacy(Legacy {
                        prefix: "mirror.example.com".to_owned(),
                    }),
                    _ => maps(FILE),
                };
                swapping(rules, image, result)
            });
            case.counted()
        })
        .collect()
}

fn swapping(rules: Rules, image: &str, result: Option<&str>) -> Run {
    assert_eq!(rules.swap(image).image(), result, "{image}");
    let image = image.to_owned();
    Box::new(move || {
        black_box(rules.swap(black_box(&image)));
    })
}

fn maps(text: &str) -> Rules {
    let (maps, diagnostics) = Maps::parse(text.as_bytes()).unwrap();
    assert!(diagnostics.listed().is_empty(), "{diagnostics:?}");
    Rules::Maps(Box::new(maps))
}

// === review ===

type Answer = fn(&[u8], &Rules, &str) -> Result<Reply, admission::BadReview>;

fn reviews() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, body) in bodies().unwrap() {
        let ways: [(&str, Answer); 2] = [
            ("", admission::review),
            (" by serde_json alone", admission::review_by_serde),
        ];
        let is_counted = ["typical", "large"].contains(&&*name);
        for (way, answer) in ways.into_iter().take(if is_counted { 2 } else { 1 }) {
            let size = Size::Bytes(body.len() as u64);
            let body = body.clone();
            let case = Case::new("review", format!("{name}{way}"), move || {
                reviewing(body.clone(), answer)
            });
            let is_counted = is_counted && way.is_empty();
            cases.push(Case {
                is_counted,
                ..case.of(size)
            });
        }
    }
    cases
}

/// What is measured for `review`, ready to be answered.
pub fn reviewing(body: Vec<u8>, answer: Answer) -> Run {
    let rules = maps(MAPS);
    check(&body, &rules, &answer(&body, &rules, LABEL).unwrap());
    Box::new(move || {
        let _ = black_box(answer(black_box(&body), &rules, LABEL));
    })
}

/// The recorded reviews, and the two of this folder, by name.
pub fn bodies() -> io::Result<Vec<(String, Vec<u8>)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut bodies = Vec::new();
    for folder in ["benches/bodies", "tests/reviews"] {
        for entry in fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let name = path.file_stem().unwrap_or_default().to_string_lossy();
                bodies.push((name.into_owned(), fs::read(&path)?));
            }
        }
    }
    bodies.sort();
    assert!(bodies.len() > 20);
    Ok(bodies)
}

/// Whether each image of the object is answered as the rules have it, and nothing else is.
fn check(body: &[u8], rules: &Rules, reply: &Reply) {
    let request = &serde_json::from_slice::<Value>(body).unwrap()["request"];
    let answer: Value = serde_json::from_slice(&reply.body).unwrap();
    let response = &answer["response"];
    assert_eq!(response["uid"], request["uid"]);
    assert_eq!(response["allowed"], true);
    let patch = match response["patch"].as_str() {
        Some(patch) => serde_json::from_slice(&base64(patch)).unwrap(),
        None => Value::Array(Vec::new()),
    };
    let operations = patch.as_array().unwrap();
    for operation in operations {
        assert_eq!(operation["op"], "replace");
        let path = operation["path"].as_str().unwrap();
        let image = request["object"].pointer(path).unwrap().as_str().unwrap();
        assert_eq!(rules.swap(image).image(), operation["value"].as_str());
    }
    if request["operation"] == "CREATE" {
        let mut images = Vec::new();
        gather(&request["object"], &mut images);
        images.retain(|image| rules.swap(image).image().is_some());
        let is_mirror = |text: &str| text.contains("kubernetes.io/config.mirror");
        let is_mirror = is_mirror(&request["object"]["metadata"].to_string());
        let expected = if is_mirror { 0 } else { images.len() };
        assert_eq!(operations.len(), expected, "{images:?}");
    }
}

/// All texts that stand where an image may.
fn gather(value: &Value, images: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "image" || key == "reference" => {
                        images.push(text.clone());
                    }
                    _ => gather(value, images),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| gather(value, images)),
        _ => {}
    }
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}

// === load ===

fn loads() -> Vec<Case> {
    [10, 1_000, 100_000]
        .into_iter()
        .map(|lines| {
            let case = Case::new("load", format!("{lines} lines"), move || {
                let text = mixed(lines);
                let (maps, diagnostics) = Maps::parse(text.as_bytes()).unwrap();
                assert_eq!((maps.len(), diagnostics.listed().len()), (lines, 0));
                let last = maps.swap(&format!("r{}.example.com/a:1", lines - 1));
                let expected = format!("mirror.example.com/r{}/a:1", lines - 1);
                assert_eq!(last.image(), Some(&*expected));
                Box::new(move || {
                    let _ = black_box(Maps::parse(black_box(text.as_bytes())));
                })
            });
            case.of(Size::Lines(lines as u64))
        })
        .collect()
}

/// As people write them: registries, half as many exact images, and a hundred patterns at most.
fn mixed(lines: usize) -> String {
    let mut text = "default::mirror.example.com/other\n".to_owned();
    for n in 1..lines {
        let line = match n % 3 {
            0 if n < 300 && n + 1 < lines => pattern(n),
            1 if n + 1 < lines => exact(n),
            _ => registry(n),
        };
        let _ = writeln!(text, "{line}");
    }
    text
}
