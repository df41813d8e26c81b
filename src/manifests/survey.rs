//! Finds the objects of a manifest and the images in them.
//!
//! The graph may have cycles, and by its aliases few bytes may stand for endlessly many objects.
//! So every object, list and look-up is done once and remembered: the time is in proportion to the
//! text, whatever it says.

use std::collections::{HashMap, HashSet};

use crate::admission::slots::{DISABLED, List, MIRROR, is_compared_by_its_owner, pod_path};

use super::tree::{Id, MAX_DEPTH, Style, Tree, Value};

/// What there is to rewrite.
#[derive(Debug, Default)]
pub(super) struct Survey<'t> {
    /// Objects that hold pods, those that are left alone included.
    pub(super) objects: usize,
    pub(super) slots: Vec<Slot<'t>>,
    /// Nodes of objects that must stay as they are. An alias to a scalar is among them, but not the
    /// scalar: in the alias' place its text can be written.
    pub(super) held: HashSet<Id>,
    /// What stands where an image should, and is no scalar: a template that was not rendered, perhaps.
    pub(super) odd: Vec<Id>,
    /// Objects that stay as they are because a map in them repeats a key, and that key.
    pub(super) ambiguous: Vec<(Id, Id)>,
}

/// A string that is an image.
#[derive(Debug)]
pub(super) struct Slot<'t> {
    pub(super) object: Object<'t>,
    pub(super) list: List,
    pub(super) entry: &'t str,
    /// The scalar, or an alias to one.
    pub(super) node: Id,
}

/// What an object is called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'t> {
    pub(super) kind: &'t str,
    pub(super) name: &'t str,
}

/// Why an object cannot be understood.
#[derive(Debug, Clone, Copy)]
enum Stop {
    /// A map repeats this key, or gives it before a merge key that gives it, too. Which one counts, parsers do
    /// not agree.
    Duplicate(Id),
    /// Merge keys lead on for too long from this map.
    TooDeep(Id),
}

/// What items of a typed list may leave to the list.
#[derive(Debug, Clone, Copy, Default)]
struct Inherited<'t> {
    api_version: Option<&'t str>,
    kind: Option<&'t str>,
}

/// The images of a list, each with its entry's name, and what else stands in their place.
type Images<'t> = Vec<(&'t str, Id)>;

/// Looks at all objects.
///
/// # Errors
/// The map from which merge keys lead on for too long.
pub(super) fn survey<'t>(tree: &'t Tree, skip_label: &'t str) -> Result<Survey<'t>, Id> {
    let mut surveyor = Surveyor {
        tree,
        skip_label,
        fields: Fields::new(tree),
        todo: Vec::new(),
        seen: HashSet::new(),
        lists: HashMap::new(),
        survey: Survey::default(),
    };
    surveyor.push(&tree.roots, Inherited::default());
    while let Some((id, inherited)) = surveyor.todo.pop() {
        surveyor.visit(id, inherited)?;
    }
    Ok(surveyor.survey)
}

struct Surveyor<'t> {
    tree: &'t Tree,
    skip_label: &'t str,
    fields: Fields<'t>,
    todo: Vec<(Id, Inherited<'t>)>,
    seen: HashSet<Id>,
    /// The images of the lists seen; those of an object that is rewritten are taken out.
    lists: HashMap<(Id, List), Result<Images<'t>, Stop>>,
    survey: Survey<'t>,
}

impl<'t> Surveyor<'t> {
    /// Puts objects on the pile, the first on top.
    fn push(&mut self, items: &[Id], inherited: Inherited<'t>) {
        let items = items.iter().rev().map(|id| (*id, inherited));
        self.todo.extend(items);
    }

    fn visit(&mut self, id: Id, inherited: Inherited<'t>) -> Result<(), Id> {
        let id = self.tree.target(id);
        if !self.seen.insert(id) {
            return Ok(());
        }
        if let Value::List(items) = &self.tree.node(id).value {
            self.push(items, inherited);
            return Ok(());
        }
        match self.object(id, inherited) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.hold(id);
                Ok(())
            }
            Err(Stop::Duplicate(key)) => {
                self.survey.ambiguous.push((id, key));
                self.hold(id);
                Ok(())
            }
            Err(Stop::TooDeep(map)) => Err(map),
        }
    }

    /// Takes in an object's images, or a list's objects; `false` if it is to stay as it is.
    fn object(&mut self, id: Id, inherited: Inherited<'t>) -> Result<bool, Stop> {
        if !matches!(self.tree.node(id).value, Value::Map(_)) {
            return Ok(true);
        }
        let kind = self.text(id, "kind")?.or(inherited.kind);
        let api_version = self.text(id, "apiVersion")?.or(inherited.api_version);
        let Some(kind) = kind else {
            return Ok(true);
        };
        if let Some(kind) = kind.strip_suffix("List")
            && let Some(items) = self.items(id)?
        {
            let kind = Some(kind).filter(|kind| !kind.is_empty());
            self.push(items, Inherited { api_version, kind });
            return Ok(true);
        }
        let group = api_version.and_then(|text| text.split_once('/'));
        let Some(path) = pod_path(group.map_or("", |(group, _)| group), kind) else {
            return Ok(false);
        };
        self.survey.objects += 1;
        let Some(pod) = self.follow(id, path)? else {
            return Ok(true);
        };
        if self.is_skipped(id)? || self.is_skipped(pod)? || self.is_mirror(pod, path)? {
            return Ok(false);
        }
        if is_compared_by_its_owner(kind) && self.is_controlled(id)? {
            return Ok(false);
        }
        let name = self.name(id)?;
        self.pod(pod, Object { kind, name })?;
        // Of what is swapped, an annotation that a container takes its fields from stays as well.
        for length in 0..=path.len() {
            let way = path.get(..length).unwrap_or_default();
            if let Some(holder) = self.follow(id, way)?
                && let Some(metadata) = self.fields.get(holder, "metadata")?
            {
                self.hold(metadata);
            }
        }
        Ok(true)
    }

    fn items(&mut self, id: Id) -> Result<Option<&'t [Id]>, Stop> {
        let items = self.fields.get(id, "items")?;
        let items = items.map(|items| &self.tree.node(self.tree.target(items)).value);
        Ok(match items {
            Some(Value::List(items)) => Some(items),
            _ => None,
        })
    }

    /// Whether the label on this map says so.
    fn is_skipped(&mut self, id: Id) -> Result<bool, Stop> {
        let Some(labels) = self.follow(id, &["metadata", "labels"])? else {
            return Ok(false);
        };
        Ok(self.text(labels, self.skip_label)? == Some(DISABLED))
    }

    /// Whether this is the image in the API of a pod that a node runs from a file.
    fn is_mirror(&mut self, pod: Id, path: &[&str]) -> Result<bool, Stop> {
        if !path.is_empty() {
            return Ok(false);
        }
        let path = ["metadata", "annotations", MIRROR];
        Ok(self.follow(pod, &path)?.is_some())
    }

    /// Whether a controller owns this object.
    fn is_controlled(&mut self, id: Id) -> Result<bool, Stop> {
        let owners = self.follow(id, &["metadata", "ownerReferences"])?;
        let owners = owners.map(|owners| &self.tree.node(self.tree.target(owners)).value);
        let Some(Value::List(owners)) = owners else {
            return Ok(false);
        };
        for owner in owners {
            let controller = self.fields.get(*owner, "controller")?;
            if controller.and_then(|value| self.tree.truth(value)) == Some(true) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn name(&mut self, id: Id) -> Result<&'t str, Stop> {
        let Some(metadata) = self.fields.get(id, "metadata")? else {
            return Ok("");
        };
        let name = self.text(metadata, "name")?;
        let prefix = self.text(metadata, "generateName")?;
        Ok(name.or(prefix).unwrap_or_default())
    }

    /// Takes in the images of a pod, unless one of its lists cannot be understood.
    fn pod(&mut self, pod: Id, object: Object<'t>) -> Result<(), Stop> {
        let Some(spec) = self.fields.get(pod, "spec")? else {
            return Ok(());
        };
        let mut lists = Vec::new();
        for list in List::ALL {
            if let Some(entries) = self.fields.get(spec, list.key())? {
                let key = (self.tree.target(entries), list);
                self.list(key)?;
                lists.push(key);
            }
        }
        for key in lists {
            self.accept(key, object);
        }
        Ok(())
    }

    fn list(&mut self, key: (Id, List)) -> Result<(), Stop> {
        if !self.lists.contains_key(&key) {
            let images = self.images(key);
            self.lists.insert(key, images);
        }
        match self.lists.get(&key) {
            Some(Err(stop)) => Err(*stop),
            _ => Ok(()),
        }
    }

    fn images(&mut self, (id, list): (Id, List)) -> Result<Images<'t>, Stop> {
        let Value::List(entries) = &self.tree.node(id).value else {
            return Ok(Vec::new());
        };
        let (mut images, mut seen) = (Vec::new(), HashSet::new());
        for entry in entries.iter().map(|entry| self.tree.target(*entry)) {
            if seen.insert(entry)
                && let Some(image) = self.follow(entry, list.image_path())?
            {
                let name = self.text(entry, "name")?.unwrap_or_default();
                images.push((name, image));
            }
        }
        Ok(images)
    }

    fn accept(&mut self, key: (Id, List), object: Object<'t>) {
        let Some(Ok(images)) = self.lists.get_mut(&key) else {
            return;
        };
        for (entry, node) in std::mem::take(images) {
            if self.tree.string(node).is_some() {
                self.survey.slots.push(Slot {
                    object,
                    list: key.1,
                    entry,
                    node,
                });
            } else if !self.tree.is_null(node) {
                self.survey.odd.push(node);
            }
        }
    }

    fn text(&mut self, id: Id, key: &'t str) -> Result<Option<&'t str>, Stop> {
        let value = self.fields.get(id, key)?;
        Ok(value.and_then(|value| self.tree.string(value)))
    }

    fn follow(&mut self, id: Id, path: &[&'static str]) -> Result<Option<Id>, Stop> {
        let mut at = id;
        for key in path {
            let Some(value) = self.fields.get(at, key)? else {
                return Ok(None);
            };
            at = value;
        }
        Ok(Some(at))
    }

    fn hold(&mut self, id: Id) {
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            if !self.survey.held.insert(id) {
                continue;
            }
            match &self.tree.node(id).value {
                Value::List(items) => todo.extend(items),
                Value::Map(pairs) => {
                    todo.extend(pairs.iter().flat_map(|(key, value)| [key, value]))
                }
                Value::Alias(target) if self.tree.text(*target).is_none() => todo.push(*target),
                Value::Alias(_) | Value::Text(..) | Value::Other(_) => {}
            }
        }
    }
}

/// Looks up keys in maps, also through aliases and merge keys, and remembers what it found.
struct Fields<'t> {
    tree: &'t Tree,
    found: HashMap<(Id, &'t str), Result<Option<Id>, Stop>>,
    /// The first key that a map gives again, if it does.
    repeated: HashMap<Id, Option<Id>>,
}

impl<'t> Fields<'t> {
    fn new(tree: &'t Tree) -> Self {
        Self {
            tree,
            found: HashMap::new(),
            repeated: HashMap::new(),
        }
    }

    /// The value under `key`, an alias if it is one.
    fn get(&mut self, id: Id, key: &'t str) -> Result<Option<Id>, Stop> {
        self.find(id, key, 0)
    }

    fn find(&mut self, id: Id, key: &'t str, depth: usize) -> Result<Option<Id>, Stop> {
        let id = self.tree.target(id);
        let Value::Map(pairs) = &self.tree.node(id).value else {
            return Ok(None);
        };
        if let Some(found) = self.found.get(&(id, key)) {
            return *found;
        }
        if depth >= MAX_DEPTH {
            return Err(Stop::TooDeep(id));
        }
        // A map merged into itself adds nothing.
        self.found.insert((id, key), Ok(None));
        let found = match self.repeated(id, pairs) {
            Some(again) => Err(Stop::Duplicate(again)),
            None => self.search(pairs, key, depth),
        };
        self.found.insert((id, key), found);
        found
    }

    fn search(
        &mut self,
        pairs: &'t [(Id, Id)],
        key: &'t str,
        depth: usize,
    ) -> Result<Option<Id>, Stop> {
        let own = pairs
            .iter()
            .position(|(name, _)| self.tree.text(*name) == Some(key));
        let merge = pairs
            .iter()
            .position(|(name, _)| is_merge(self.tree, *name));
        // Behind a merge an own key wins for every parser.
        let is_settled = own.is_some() && merge < own;
        let merged = match merge.and_then(|at| pairs.get(at)) {
            Some((_, merged)) if !is_settled => self.merged(*merged, key, depth)?,
            _ => None,
        };
        match (own.and_then(|at| pairs.get(at)), merged) {
            (Some((name, _)), Some(_)) => Err(Stop::Duplicate(*name)),
            (Some((_, value)), None) => Ok(Some(*value)),
            (None, merged) => Ok(merged),
        }
    }

    /// What a merge key gives.
    fn merged(&mut self, merged: Id, key: &'t str, depth: usize) -> Result<Option<Id>, Stop> {
        let merged = self.tree.target(merged);
        let sources = match &self.tree.node(merged).value {
            Value::List(sources) => sources.as_slice(),
            _ => std::slice::from_ref(&merged),
        };
        for source in sources {
            if let Some(value) = self.find(*source, key, depth + 1)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    fn repeated(&mut self, id: Id, pairs: &[(Id, Id)]) -> Option<Id> {
        let tree = self.tree;
        *self.repeated.entry(id).or_insert_with(|| {
            let mut keys = HashSet::new();
            let mut names = pairs.iter().map(|(name, _)| *name);
            names.find(|name| tree.text(*name).is_some_and(|text| !keys.insert(text)))
        })
    }
}

fn is_merge(tree: &Tree, key: Id) -> bool {
    matches!(&tree.node(key).value, Value::Text(text, Style::Plain) if &**text == "<<")
}
