//! Swaps the images in the text of Kubernetes manifests and leaves every other byte as it is.
//!
//! The text is parsed only to learn where each image stands; the new one is then spliced in, so
//! comments, key order, quotes, indentation, line endings and anchors stay. Afterwards the result
//! is parsed again and compared: if more than the images would have changed, the caller gets an
//! error and no text.
//!
//! Which objects are looked into, and where their images are, is [`slots`](crate::admission::slots)'
//! to say. Left alone are:
//!
//! - objects whose skip label, or whose pod template's, is `disabled`, and mirror pods;
//! - objects with a map that repeats a key, in any map that is passed on the way to an image or to
//!   a label: parsers do not agree on which one counts;
//! - the items of an object whose kind does not end in `List`, though kubectl takes it for a list;
//! - images that are missing, null, no string, or tagged with a tag of one's own.
//!
//! YAML's anchors, aliases and merge keys are followed to the scalar that holds the image, and that
//! one is edited, once. An alias elsewhere that names an edited scalar gets its old text instead.
//! A key of a map's own wins over a merged one, as YAML has it. Where it stands before the `<<`,
//! Kubernetes' parser takes the merged one: such a map counts as one that repeats a key.

mod json;
mod scalar;
mod survey;
mod tree;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::admission::slots::List;

use scalar::Site;
use survey::{Slot, Survey};
use tree::{Id, Node, Style, Tree, Value};

/// What ends a line in YAML 1.1, and so for Kubernetes' parser.
pub const LINE_BREAKS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];

/// An image in a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'a> {
    /// The kind of the object it is in.
    pub kind: &'a str,
    /// The object's name, or its `generateName`, or "".
    pub name: &'a str,
    /// The list it is in.
    pub list: List,
    /// The container's or volume's name, "" if it has none.
    pub entry: &'a str,
    /// The image, as a YAML or JSON parser reads it.
    pub image: &'a str,
    /// The line of the image, from 1.
    pub line: usize,
}

/// The manifests with other images in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The whole text.
    pub text: String,
    /// How many values it holds if it is JSON, and not YAML.
    pub json_values: Option<usize>,
    /// How many images were swapped. An image that several objects share by an alias counts once.
    pub swapped: usize,
    /// How many objects hold pods, those that were left alone included.
    pub objects: usize,
    /// The lines of maps and lists that stand where an image should.
    pub odd: Vec<usize>,
    /// Objects that were left alone because a map in them repeats a key, or gives one before a merge key that
    /// gives it, too.
    pub ambiguous: Vec<Ambiguous>,
}

/// An object in which parsers do not agree what a key says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ambiguous {
    /// The line where the object begins.
    pub line: usize,
    /// The key.
    pub key: String,
    /// The line of the key: where it is given again, or before the merge key.
    pub key_line: usize,
}

/// Why manifests cannot be rewritten. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is no YAML, nor JSON.
    #[error("line {line}, column {column}: {message}")]
    Yaml {
        /// Where the parser gave up.
        line: usize,
        /// In characters.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// The text begins as JSON and is none, nor YAML.
    #[error("line {line}, column {column}: {message}")]
    Json {
        /// Where the parser gave up.
        line: usize,
        /// In bytes; 0 at the end of a line.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// Maps, lists or merge keys nest deeper than any manifest does.
    #[error("line {line}: nested too deep")]
    TooDeep {
        /// Where the limit was passed.
        line: usize,
    },
    /// By an alias an image is also in something that must stay as it is: an object that is left alone, or an
    /// annotation.
    #[error(
        "line {line}: this image is shared by an alias with what is not to be rewritten (an object that is left \
         alone, or metadata): write it out in one of the two"
    )]
    Shared {
        /// The line of the image.
        line: usize,
    },
    /// With the new image in its place, the text would not say what it should.
    #[error(
        "line {line}: cannot swap this image without changing more than the image: write it as a plain text on one line"
    )]
    Spoiled {
        /// The line of the image.
        line: usize,
    },
}

/// Gives each image in `text` that is a string to `swap`, and puts what it returns in its place.
///
/// `text` is YAML with any number of documents, or JSON with any number of values. `swap` is called
/// once for each place in the text that holds an image; where it returns `None`, or the image as it
/// is, the text stays byte for byte. Objects labelled `skip_label: disabled` are left alone.
///
/// # Errors
/// [`Error::Yaml`], [`Error::Json`] and [`Error::TooDeep`] if the text cannot be read;
/// [`Error::Shared`] and [`Error::Spoiled`] if an image cannot be swapped by itself.
pub fn rewrite(
    text: &str,
    skip_label: &str,
    swap: &mut dyn FnMut(&Found<'_>) -> Option<String>,
) -> Result<Rewritten, Error> {
    let (format, tree) = read(text)?;
    let lines = Lines::new(text);
    let survey = survey::survey(&tree, skip_label).map_err(|map| Error::TooDeep {
        line: lines.of(tree.node(map).at.start),
    })?;
    let editor = Editor {
        text,
        format,
        tree: &tree,
        lines,
        slots: survey.slots.iter().map(|slot| slot.node).collect(),
        survey: &survey,
    };
    let line = |id| editor.lines.of(tree.node(id).at.start);
    let odd = survey.odd.iter().map(|id| line(*id)).collect();
    let ambiguous = survey.ambiguous.iter();
    let ambiguous = ambiguous
        .map(|(object, key)| Ambiguous {
            line: line(*object),
            key: tree.text(*key).unwrap_or_default().to_owned(),
            key_line: line(*key),
        })
        .collect();
    let swaps = editor.swaps(swap)?;
    let swapped = swaps.len();
    let edits = editor.with_aliases(swaps)?;
    Ok(Rewritten {
        odd,
        ambiguous,
        text: editor.apply(&edits)?,
        json_values: (format == Format::Json).then_some(tree.size().1),
        swapped,
        objects: survey.objects,
    })
}

/// Whether a text begins as JSON does, which YAML may, too: who reads a stream takes all of it for JSON then.
pub fn begins_as_json(text: &str) -> bool {
    json::begins(text)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Yaml,
    Json,
}

/// Reads JSON if the text is JSON, else YAML. If it is neither, the parser that got further is the
/// one to ask why.
fn read(text: &str) -> Result<(Format, Tree), Error> {
    if !json::begins(text) {
        return Ok((Format::Yaml, yaml::read(text)?));
    }
    let json = match json::read(text) {
        Ok(tree) => return Ok((Format::Json, tree)),
        Err(refusal) if refusal.is_final => return Err(refusal.error),
        Err(refusal) => refusal.error,
    };
    match yaml::read(text) {
        Ok(tree) => Ok((Format::Yaml, tree)),
        Err(yaml) if yaml.place() > json.place() => Err(yaml),
        Err(_) => Err(json),
    }
}

impl Error {
    fn place(&self) -> (usize, usize) {
        match self {
            Self::Yaml { line, column, .. } | Self::Json { line, column, .. } => (*line, *column),
            Self::TooDeep { line } | Self::Shared { line } | Self::Spoiled { line } => (*line, 0),
        }
    }
}

impl Format {
    fn read(self, text: &str) -> Result<Tree, Error> {
        match self {
            Self::Yaml => yaml::read(text),
            Self::Json => json::read(text).map_err(|refusal| refusal.error),
        }
    }

    fn locate(self, text: &str, node: &Node) -> Option<Site> {
        match self {
            Self::Yaml => scalar::locate(text, node),
            Self::Json => Some(Site {
                token: node.at.clone(),
                ..Site::default()
            }),
        }
    }

    fn write(self, text: &str, style: Style) -> String {
        match self {
            Self::Yaml => scalar::write(text, style),
            Self::Json => json::write(text),
        }
    }
}

/// A node to be replaced by a scalar.
#[derive(Debug)]
struct Edit<'t> {
    node: Id,
    line: usize,
    /// What the node is to mean.
    value: String,
    tag: Option<&'t str>,
    /// What is to be written instead of these bytes.
    patches: Vec<(Range<usize>, String)>,
}

/// What is known when edits are made.
struct Editor<'t> {
    text: &'t str,
    format: Format,
    tree: &'t Tree,
    lines: Lines,
    survey: &'t Survey<'t>,
    slots: HashSet<Id>,
}

impl<'t> Editor<'t> {
    /// Asks `swap` about each image.
    fn swaps(
        &self,
        swap: &mut dyn FnMut(&Found<'_>) -> Option<String>,
    ) -> Result<Vec<Edit<'t>>, Error> {
        let (mut edits, mut seen) = (Vec::new(), HashSet::new());
        for slot in &self.survey.slots {
            // Several containers may have their image from the same merge key.
            if !self.follows(slot.node) && seen.insert(slot.node) {
                edits.extend(self.swap(slot, swap)?);
            }
        }
        Ok(edits)
    }

    /// Whether this is an alias to an image that is itself one of the images to swap.
    fn follows(&self, id: Id) -> bool {
        let target = self.tree.target(id);
        target != id && self.slots.contains(&target)
    }

    fn swap(
        &self,
        slot: &Slot<'t>,
        swap: &mut dyn FnMut(&Found<'_>) -> Option<String>,
    ) -> Result<Option<Edit<'t>>, Error> {
        let image = self.tree.text(slot.node).unwrap_or_default();
        let (site, line) = self.site(slot.node)?;
        let found = Found {
            kind: slot.object.kind,
            name: slot.object.name,
            list: slot.list,
            entry: slot.entry,
            image,
            line,
        };
        let Some(value) = swap(&found).filter(|new| new != image) else {
            return Ok(None);
        };
        self.may_change(slot.node, line)?;
        let (tag, style) = self.writing(slot.node);
        let patches = vec![
            (site.token, self.format.write(&value, style)),
            (site.body, String::new()),
        ];
        Ok(Some(Edit {
            node: slot.node,
            line,
            value,
            tag,
            patches,
        }))
    }

    /// Tag and style of a scalar; an alias becomes as plain a scalar as can be.
    fn writing(&self, id: Id) -> (Option<&'t str>, Style) {
        let node = self.tree.node(id);
        let style = match node.value {
            Value::Text(_, style) => style,
            _ => Style::Plain,
        };
        (node.tag.as_deref(), style)
    }

    fn site(&self, id: Id) -> Result<(Site, usize), Error> {
        let node = self.tree.node(id);
        let line = self.lines.of(node.at.start);
        let site = self.format.locate(self.text, node);
        let site = site.ok_or(Error::Spoiled { line })?;
        let line = self.lines.of(site.token.start);
        Ok((site, line))
    }

    fn may_change(&self, id: Id, line: usize) -> Result<(), Error> {
        match self.survey.held.contains(&id) {
            true => Err(Error::Shared { line }),
            false => Ok(()),
        }
    }

    /// Adds what must be done about aliases to the scalars that change.
    fn with_aliases(&self, mut edits: Vec<Edit<'t>>) -> Result<Vec<Edit<'t>>, Error> {
        let changed: HashMap<_, _> = edits.iter().map(|edit| (edit.node, edit.line)).collect();
        for (id, node) in self.tree.nodes() {
            let Value::Alias(target) = node.value else {
                continue;
            };
            let Some(line) = changed.get(&target) else {
                continue;
            };
            match self.slots.contains(&id) {
                true => self.may_change(id, *line)?,
                false => edits.push(self.keep(id, target)?),
            }
        }
        Ok(edits)
    }

    /// Puts in an alias' place what its target says now.
    fn keep(&self, alias: Id, target: Id) -> Result<Edit<'t>, Error> {
        let (site, line) = self.site(target)?;
        let node = self.tree.node(target);
        let place = self.tree.node(alias).at.clone();
        Ok(Edit {
            node: alias,
            line,
            value: self.tree.text(target).unwrap_or_default().to_owned(),
            tag: node.tag.as_deref(),
            patches: vec![(place, scalar::copy(self.text, node, &site))],
        })
    }

    /// The text with all edits made, if it then says what it should.
    fn apply(&self, edits: &[Edit<'t>]) -> Result<String, Error> {
        if edits.is_empty() {
            return Ok(self.text.to_owned());
        }
        let spoiled = |near: Option<&Edit<'t>>| Error::Spoiled {
            line: near.or(edits.first()).map_or(0, |edit| edit.line),
        };
        let text = splice(self.text, edits).ok_or_else(|| spoiled(None))?;
        let tree = self.format.read(&text).map_err(|error| {
            let before = |edit: &&Edit<'t>| edit.line <= error.place().0;
            spoiled(edits.iter().filter(before).max_by_key(|edit| edit.line))
        })?;
        self.compare(&tree, edits).map_err(|differs| {
            let before = |edit: &&Edit<'t>| edit.node <= differs;
            spoiled(edits.iter().filter(before).max_by_key(|edit| edit.node))
        })?;
        Ok(text)
    }

    /// Whether `new` is the old tree with the edits made; if not, from which node on.
    fn compare(&self, new: &Tree, edits: &[Edit<'t>]) -> Result<(), Id> {
        let edits: HashMap<_, _> = edits.iter().map(|edit| (edit.node, edit)).collect();
        for (id, node) in self.tree.nodes() {
            let (there, is_text) = (new.node(id), new.target(id) == id);
            let right = match edits.get(&id) {
                Some(edit) => {
                    is_text && new.text(id) == Some(&edit.value) && there.tag.as_deref() == edit.tag
                }
                None => node.same(there),
            };
            if !right {
                return Err(id);
            }
        }
        match self.tree.size() == new.size() && self.tree.roots == new.roots {
            true => Ok(()),
            false => Err(new.size().0),
        }
    }
}

/// Makes all edits; `None` if two of them are in each other's way.
fn splice(text: &str, edits: &[Edit<'_>]) -> Option<String> {
    let patches = edits.iter().flat_map(|edit| &edit.patches);
    let mut patches: Vec<_> = patches
        .filter(|(at, new)| !at.is_empty() || !new.is_empty())
        .collect();
    patches.sort_by_key(|(at, _)| at.start);
    let (mut spliced, mut done) = (String::with_capacity(text.len()), 0);
    for (at, new) in patches {
        spliced.push_str(text.get(done..at.start)?);
        spliced.push_str(new);
        done = at.end;
    }
    spliced.push_str(text.get(done..)?);
    Some(spliced)
}

/// Where the lines of a text start.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let ends = bytes.iter().enumerate().filter(|(at, byte)| match byte {
            b'\n' => true,
            // YAML knows this line break too, if no `\n` comes after it.
            b'\r' => bytes.get(at + 1) != Some(&b'\n'),
            _ => false,
        });
        Self(ends.map(|(at, _)| at + 1).collect())
    }

    /// The line of this byte, from 1.
    fn of(&self, byte: usize) -> usize {
        self.0.partition_point(|start| *start <= byte) + 1
    }

    /// The line of this byte, and its column in characters, from 1.
    fn place(&self, text: &str, byte: usize) -> (usize, usize) {
        let line = self.of(byte);
        let start = line.checked_sub(2).and_then(|line| self.0.get(line));
        let before = text.get(start.copied().unwrap_or_default()..byte);
        (line, before.unwrap_or_default().chars().count() + 1)
    }
}
