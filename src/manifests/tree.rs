//! A manifest as a graph of nodes that know where in the text they stand.
//!
//! YAML and JSON have the same shape here. An alias stays an edge of the graph and is never
//! expanded, so a "billion laughs" text is as small here as it is on disk.

use std::ops::Range;

/// How deep maps and lists may nest. Schemas of real custom resources reach about sixty.
pub(super) const MAX_DEPTH: usize = 128;

/// A node's number. Nodes are numbered in the order of the text, a map or list before its content,
/// so an edited text gives its nodes the numbers they had before.
pub(super) type Id = usize;

/// All documents of one text.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// The top node of each document.
    pub(super) roots: Vec<Id>,
}

/// A scalar, list, map or alias.
#[derive(Debug)]
pub(super) struct Node {
    /// The node's bytes, as the reader knows them: see [`super::scalar`].
    pub(super) at: Range<usize>,
    /// Where the scalar or alias before it ends; for a map's value that is its key.
    pub(super) after: usize,
    /// The YAML tag, resolved.
    pub(super) tag: Option<Box<str>>,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A YAML scalar of any type, or a JSON string.
    Text(Box<str>, Style),
    /// A JSON value that is neither string, list nor map, as written.
    Other(Box<str>),
    List(Vec<Id>),
    /// Keys and values, in the order of the text; keys may repeat.
    Map(Vec<(Id, Id)>),
    /// Another name for a node that is no alias itself.
    Alias(Id),
}

/// How a scalar is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Single,
    Double,
    /// `|` or `>`
    Block,
    Json,
}

/// Stands in for a node that does not exist.
static NOTHING: Node = Node {
    at: 0..0,
    after: 0,
    tag: None,
    value: Value::List(Vec::new()),
};

impl Tree {
    /// How many nodes and documents there are.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.nodes.len(), self.roots.len())
    }

    /// Forgets all but the first documents, which had this [`size`](Self::size).
    pub(super) fn truncate(&mut self, (nodes, roots): (usize, usize)) {
        self.nodes.truncate(nodes);
        self.roots.truncate(roots);
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        self.nodes.get(id).unwrap_or(&NOTHING)
    }

    /// The nodes and their numbers.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (Id, &Node)> {
        self.nodes.iter().enumerate()
    }

    /// The node an alias stands for; any other node is its own.
    pub(super) fn target(&self, id: Id) -> Id {
        match self.node(id).value {
            Value::Alias(target) => target,
            _ => id,
        }
    }

    /// The text of a scalar, also through an alias.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match &self.node(self.target(id)).value {
            Value::Text(text, _) => Some(text),
            _ => None,
        }
    }

    /// The text of a scalar that Kubernetes reads as a string.
    ///
    /// Numbers count, as nobody who writes `image: 1.2` means a number. Truth values do not: nobody means an image
    /// by one. Nor does a text with a tag of one's own: only its inventor knows what it makes of the text.
    pub(super) fn string(&self, id: Id) -> Option<&str> {
        let node = self.node(self.target(id));
        let Value::Text(text, _) = &node.value else {
            return None;
        };
        let is_tagged = !matches!(
            node.tag.as_deref(),
            None | Some("!" | "tag:yaml.org,2002:str")
        );
        let is_other = self.is_null(id) || self.truth(id).is_some();
        (!is_tagged && !is_other).then_some(text)
    }

    /// What it says if it is a truth value, for those who read YAML 1.2 or 1.1.
    pub(super) fn truth(&self, id: Id) -> Option<bool> {
        let node = self.node(self.target(id));
        let text = match (&node.value, node.tag.as_deref()) {
            (Value::Text(text, Style::Plain), None) | (Value::Other(text), _) => text,
            (Value::Text(text, _), Some("tag:yaml.org,2002:bool")) => text,
            _ => return None,
        };
        match &**text {
            "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
            "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        }
    }

    /// Whether it says that nothing is there.
    pub(super) fn is_null(&self, id: Id) -> bool {
        let node = self.node(self.target(id));
        match (&node.value, node.tag.as_deref()) {
            (Value::Text(text, Style::Plain), None) => {
                matches!(&**text, "" | "~" | "null" | "Null" | "NULL")
            }
            (Value::Text(text, Style::Plain), Some("!" | "tag:yaml.org,2002:str")) => {
                text.is_empty()
            }
            (Value::Text(..), Some("tag:yaml.org,2002:null")) => true,
            (Value::Other(text), _) => &**text == "null",
            _ => false,
        }
    }

    /// Adds a node to the list or map `parent`, or as the top of a document. A map's `key` says
    /// under which; without one the node is a key whose value is still to come.
    pub(super) fn add(&mut self, node: Node, parent: Option<(Id, Option<Id>)>) -> Id {
        let id = self.nodes.len();
        self.nodes.push(node);
        let Some((parent, key)) = parent else {
            self.roots.push(id);
            return id;
        };
        match self.nodes.get_mut(parent).map(|node| &mut node.value) {
            Some(Value::List(items)) => items.push(id),
            Some(Value::Map(pairs)) => pairs.extend(key.map(|key| (key, id))),
            _ => {}
        }
        id
    }
}

impl Node {
    pub(super) fn new(at: Range<usize>, value: Value, tag: Option<Box<str>>) -> Self {
        let after = at.start;
        Self {
            at,
            after,
            tag,
            value,
        }
    }

    /// Whether both mean the same, wherever they stand.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.tag == other.tag && self.value == other.value
    }
}
