//! The images of an object, read from its JSON in one pass that skips all else.
//!
//! What has another shape than Kubernetes gives it is passed over, not refused: the server will
//! say so itself. A key on the way to an image that appears twice is noted.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::slots::{DISABLED, List, MIRROR};
use crate::text::shortened;

/// The most containers and volumes with an image that are looked at. kube-apiserver stores objects of up to 1.5 MiB,
/// in which with its managed fields a volume with an image takes 130 bytes: twelve thousand do not fit.
pub const MAX_ENTRIES: usize = 20_000;

/// So many entries a list has room for at first, and for how many more at once where it gets longer.
const FEW: usize = 4;
const MANY: usize = 28;

/// A string, borrowed unless it holds escapes.
#[derive(Debug)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

/// Derived it would go through two more calls, for each key that is read.
impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    #[inline]
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

/// What is read of an object that holds a pod.
#[derive(Debug, Default)]
pub struct Workload<'a> {
    /// All places for an image, in the object's order.
    pub entries: Vec<Entry<'a>>,
    /// The object, or its pod template, carries the label that disables ImageSwap.
    pub is_disabled: bool,
    /// The object mirrors a static pod.
    pub is_mirror: bool,
    /// A controller owns the object. Asked of objects with a template only: who owns a Pod does not matter.
    pub is_controlled: bool,
    /// There are more than [`MAX_ENTRIES`], and `entries` has only the first.
    pub is_too_long: bool,
    /// A key on the way to an image, or in what decides about it, that appears twice.
    pub duplicate: Option<String>,
}

/// A container or a volume with an image.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The list it stands in.
    pub list: List,
    /// Its place in that list, counted from 0 over everything that stands there.
    pub index: usize,
    /// Its name, if that is a text.
    pub name: Option<Cow<'a, str>>,
    /// Its image.
    pub image: Image<'a>,
}

/// The value of an image slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Image<'a> {
    /// Absent or null.
    #[default]
    Missing,
    /// A number, a list, …
    NotText,
    /// A text, perhaps empty.
    Text(Cow<'a, str>),
}

impl<'a> Workload<'a> {
    /// Reads an object whose pod lies at `path`.
    ///
    /// # Errors
    /// The text is not JSON.
    pub fn read(
        json: &'a str,
        path: &[&str],
        disable_label: &str,
    ) -> Result<Self, serde_json::Error> {
        let mut workload = Self::default();
        let node = Node::root(path, disable_label, &mut workload);
        IfMap(node).deserialize(&mut serde_json::Deserializer::from_str(json))?;
        Ok(workload)
    }

    /// As [`Workload::read`], from another reader of JSON; what is no map is an error.
    pub(super) fn read_map<D: Deserializer<'a>>(
        json: D,
        path: &[&str],
        disable_label: &str,
    ) -> Result<Self, D::Error> {
        let mut workload = Self::default();
        let node = Node::root(path, disable_label, &mut workload);
        json.deserialize_map(IfMap(node))?;
        Ok(workload)
    }

    /// Notes keys that appear twice.
    fn see(&mut self, seen: &mut bool, key: &str) {
        if std::mem::replace(seen, true) {
            self.duplicate.get_or_insert_with(|| key.to_owned());
        }
    }
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.list.key(), self.index)?;
        match &self.name {
            Some(name) => write!(f, " {:?}", shortened(name, 63)),
            None => Ok(()),
        }
    }
}

// === the shapes ===

/// A map on the way from the object's root to its pod, or the pod itself (an empty path).
struct Node<'w, 'de> {
    path: &'w [&'w str],
    is_root: bool,
    disable_label: &'w str,
    workload: &'w mut Workload<'de>,
}

impl<'w, 'de> Node<'w, 'de> {
    fn root(path: &'w [&'w str], disable_label: &'w str, workload: &'w mut Workload<'de>) -> Self {
        Self {
            path,
            is_root: true,
            disable_label,
            workload,
        }
    }
}

impl<'de> ReadMap<'de> for Node<'_, 'de> {
    fn read<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut meta, mut next) = (false, false);
        let (step, rest) = match self.path.split_first() {
            Some((step, rest)) => (*step, Some(rest)),
            None => ("spec", None),
        };
        while let Some(Text(key)) = map.next_key()? {
            if key == "metadata" && (self.is_root || rest.is_none()) {
                self.workload.see(&mut meta, &key);
                map.next_value_seed(IfMap(Meta {
                    disable_label: self.disable_label,
                    reads_owners: rest.is_some(),
                    workload: self.workload,
                }))?;
            } else if key == step {
                self.workload.see(&mut next, &key);
                match rest {
                    Some(path) => map.next_value_seed(IfMap(Node {
                        path,
                        is_root: false,
                        disable_label: self.disable_label,
                        workload: self.workload,
                    }))?,
                    None => map.next_value_seed(IfMap(Spec(self.workload)))?,
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// The metadata of an object or a pod template.
struct Meta<'w, 'de> {
    disable_label: &'w str,
    reads_owners: bool,
    workload: &'w mut Workload<'de>,
}

impl<'de> ReadMap<'de> for Meta<'_, 'de> {
    fn read<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut labels, mut annotations, mut owners) = (false, false, false);
        while let Some(Text(key)) = map.next_key()? {
            match key.as_ref() {
                "labels" => {
                    self.workload.see(&mut labels, &key);
                    map.next_value_seed(IfMap(Labels {
                        wanted: self.disable_label,
                        workload: self.workload,
                    }))?;
                }
                "annotations" => {
                    self.workload.see(&mut annotations, &key);
                    map.next_value_seed(IfMap(Annotations(self.workload)))?;
                }
                "ownerReferences" if self.reads_owners => {
                    self.workload.see(&mut owners, &key);
                    map.next_value_seed(IfList(Owners(self.workload)))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Labels<'w, 'de> {
    wanted: &'w str,
    workload: &'w mut Workload<'de>,
}

impl<'de> ReadMap<'de> for Labels<'_, 'de> {
    fn read<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut wanted = false;
        while let Some(Text(key)) = map.next_key()? {
            if key == self.wanted {
                self.workload.see(&mut wanted, &key);
                let mut value = Image::Missing;
                map.next_value_seed(Value(&mut value))?;
                self.workload.is_disabled |= value == Image::Text(Cow::Borrowed(DISABLED));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Annotations<'w, 'de>(&'w mut Workload<'de>);

impl<'de> ReadMap<'de> for Annotations<'_, 'de> {
    fn read<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key()? {
            self.0.is_mirror |= key == MIRROR;
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

struct Owners<'w, 'de>(&'w mut Workload<'de>);

impl<'de> ReadList<'de> for Owners<'_, 'de> {
    fn read<A: SeqAccess<'de>>(self, mut owners: A) -> Result<(), A::Error> {
        while owners.next_element_seed(IfMap(Owner(self.0)))?.is_some() {}
        Ok(())
    }
}

struct Owner<'w, 'de>(&'w mut Workload<'de>);

impl<'de> ReadMap<'de> for Owner<'_, 'de> {
    fn read<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut controller = false;
        while let Some(Text(key)) = map.next_key()? {
            if key == "controller" {
                self.0.see(&mut controller, &key);
                map.next_value_seed(IfTrue(&mut self.0.is_controlled))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// A pod's spec.
struct Spec<'w, 'de>(&'w mut Workload<'de>);

impl<'de> ReadMap<'de> for Spec<'_, 'de> {
    fn read<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = [false; List::ALL.len()];
        while let Some(Text(key)) = map.next_key()? {
            match List::from_key(&key) {
                Some(list) => {
                    // Numbered as they are declared.
                    if let Some(seen) = seen.get_mut(list as usize) {
                        self.0.see(seen, &key);
                    }
                    let workload = &mut *self.0;
                    map.next_value_seed(IfList(Entries { list, workload }))?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Entries<'w, 'de> {
    list: List,
    workload: &'w mut Workload<'de>,
}

impl<'de> ReadList<'de> for Entries<'_, 'de> {
    fn read<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        for index in 0.. {
            let entry = OneEntry {
                list: self.list,
                index,
                workload: self.workload,
            };
            if entries.next_element_seed(IfMap(entry))?.is_none() {
                break;
            }
        }
        Ok(())
    }
}

struct OneEntry<'w, 'de> {
    list: List,
    index: usize,
    workload: &'w mut Workload<'de>,
}

impl<'de> ReadMap<'de> for OneEntry<'_, 'de> {
    fn read<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut names, mut images) = (false, false);
        let mut name = Image::Missing;
        // Most volumes have no image, and that is no fault.
        let mut image = (self.list != List::Volumes).then_some(Image::Missing);
        while let Some(Text(key)) = map.next_key()? {
            match key.as_ref() {
                "name" => {
                    self.workload.see(&mut names, &key);
                    map.next_value_seed(Value(&mut name))?;
                }
                "image" => {
                    self.workload.see(&mut images, &key);
                    match self.list {
                        List::Volumes => map.next_value_seed(IfMap(VolumeImage {
                            image: &mut image,
                            workload: self.workload,
                        }))?,
                        _ => map.next_value_seed(Value(image.get_or_insert_default()))?,
                    }
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let Some(image) = image else {
            return Ok(());
        };
        if self.workload.entries.len() >= MAX_ENTRIES {
            self.workload.is_too_long = true;
            return Ok(());
        }
        // Behind the first few there are mostly many more.
        if self.workload.entries.len() == FEW {
            self.workload.entries.reserve(MANY);
        }
        self.workload.entries.push(Entry {
            list: self.list,
            index: self.index,
            name: match name {
                Image::Text(name) => Some(name),
                _ => None,
            },
            image,
        });
        Ok(())
    }
}

struct VolumeImage<'w, 'de> {
    image: &'w mut Option<Image<'de>>,
    workload: &'w mut Workload<'de>,
}

impl<'de> ReadMap<'de> for VolumeImage<'_, 'de> {
    fn read<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut references = false;
        let image = self.image.insert(Image::Missing);
        while let Some(Text(key)) = map.next_key()? {
            if key == "reference" {
                self.workload.see(&mut references, &key);
                map.next_value_seed(Value(image))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// A text, or something else, put where it is wanted.
struct Value<'w, 'de>(&'w mut Image<'de>);

impl<'de> DeserializeSeed<'de> for Value<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        *self.0 = Image::Missing;
        Ok(())
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<(), E> {
        *self.0 = Image::Text(Cow::Borrowed(text));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        *self.0 = Image::Text(Cow::Owned(text.to_owned()));
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        *self.0 = Image::NotText;
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        *self.0 = Image::NotText;
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        *self.0 = Image::NotText;
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        *self.0 = Image::NotText;
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        *self.0 = Image::NotText;
        pass_over_list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        *self.0 = Image::NotText;
        pass_over_map(map)
    }
}

// === reading one shape and passing over all others ===

/// Reads a map.
trait ReadMap<'de>: Sized {
    fn read<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error>;
}

/// Reads a list.
trait ReadList<'de>: Sized {
    fn read<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error>;
}

/// Lets a reader read if what comes is a map.
struct IfMap<R>(R);

/// Lets a reader read if what comes is a list.
struct IfList<R>(R);

/// Notes that something is true.
struct IfTrue<'w>(&'w mut bool);

/// All that is neither a map nor a list.
macro_rules! pass_over_scalars {
    () => {
        pass_over_numbers_and_texts!();
        fn visit_bool<E>(self, _: bool) -> Result<(), E> {
            Ok(())
        }
    };
}

/// And no truth value.
macro_rules! pass_over_numbers_and_texts {
    () => {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any JSON")
        }
        fn visit_i64<E>(self, _: i64) -> Result<(), E> {
            Ok(())
        }
        fn visit_u64<E>(self, _: u64) -> Result<(), E> {
            Ok(())
        }
        fn visit_f64<E>(self, _: f64) -> Result<(), E> {
            Ok(())
        }
        fn visit_str<E>(self, _: &str) -> Result<(), E> {
            Ok(())
        }
        fn visit_unit<E>(self) -> Result<(), E> {
            Ok(())
        }
    };
}

impl<'de, R: ReadMap<'de>> Visitor<'de> for IfMap<R> {
    pass_over_scalars!();

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.0.read(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        pass_over_list(list)
    }
}

impl<'de, R: ReadList<'de>> Visitor<'de> for IfList<R> {
    pass_over_scalars!();

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        pass_over_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        self.0.read(list)
    }
}

impl<'de> Visitor<'de> for IfTrue<'_> {
    pass_over_numbers_and_texts!();

    fn visit_bool<E>(self, is_true: bool) -> Result<(), E> {
        *self.0 |= is_true;
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        pass_over_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        pass_over_list(list)
    }
}

impl<'de> DeserializeSeed<'de> for IfTrue<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, R: ReadMap<'de>> DeserializeSeed<'de> for IfMap<R> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, R: ReadList<'de>> DeserializeSeed<'de> for IfList<R> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

fn pass_over_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    // Not by `IgnoredAny`: serde_json looks at the escapes of keys, and not at those of what is ignored.
    while map.next_key::<Text<'_>>()?.is_some() {
        map.next_value::<IgnoredAny>()?;
    }
    Ok(())
}

fn pass_over_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<(), A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}
