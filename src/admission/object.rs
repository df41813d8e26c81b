//! The images of an object, read from its JSON in one pass that skips all else.
//!
//! What has another shape than Kubernetes gives it is passed over, not refused: the server will
//! say so itself. A key on the way to an image that appears twice is noted.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::shapes::{
    ReadList, ReadMap, Shape, Text, if_list, if_map, if_true, pass_over_list, pass_over_map,
};
use super::slots::{DISABLED, List, MIRROR};
use crate::text::shortened;

/// The most containers and volumes with an image that are looked at. kube-apiserver stores objects of up to 1.5 MiB,
/// in which with its managed fields a volume with an image takes 130 bytes: twelve thousand do not fit.
pub const MAX_ENTRIES: usize = 20_000;

/// So many entries a list has room for at first, and for how many more at once where it gets longer.
const FEW: usize = 4;
const MANY: usize = 28;

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
        if_map(node).deserialize(&mut serde_json::Deserializer::from_str(json))?;
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
        json.deserialize_map(if_map(node).0)?;
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
                map.next_value_seed(if_map(Meta {
                    disable_label: self.disable_label,
                    reads_owners: rest.is_some(),
                    workload: self.workload,
                }))?;
            } else if key == step {
                self.workload.see(&mut next, &key);
                match rest {
                    Some(path) => map.next_value_seed(if_map(Node {
                        path,
                        is_root: false,
                        disable_label: self.disable_label,
                        workload: self.workload,
                    }))?,
                    None => map.next_value_seed(if_map(Spec(self.workload)))?,
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
                    map.next_value_seed(if_map(Labels {
                        wanted: self.disable_label,
                        workload: self.workload,
                    }))?;
                }
                "annotations" => {
                    self.workload.see(&mut annotations, &key);
                    map.next_value_seed(if_map(Annotations(self.workload)))?;
                }
                "ownerReferences" if self.reads_owners => {
                    self.workload.see(&mut owners, &key);
                    map.next_value_seed(if_list(Owners(self.workload)))?;
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
                map.next_value_seed(text_of(&mut value))?;
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
        while owners.next_element_seed(if_map(Owner(self.0)))?.is_some() {}
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
                map.next_value_seed(if_true(&mut self.0.is_controlled))?;
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
                    map.next_value_seed(if_list(Entries { list, workload }))?;
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
            if entries.next_element_seed(if_map(entry))?.is_none() {
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
                    map.next_value_seed(text_of(&mut name))?;
                }
                "image" => {
                    self.workload.see(&mut images, &key);
                    match self.list {
                        List::Volumes => map.next_value_seed(if_map(VolumeImage {
                            image: &mut image,
                            workload: self.workload,
                        }))?,
                        _ => map.next_value_seed(text_of(image.get_or_insert_default()))?,
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
                map.next_value_seed(text_of(image))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Puts a text, or that it is none, where it is wanted.
fn text_of<'w, 'de>(image: &'w mut Image<'de>) -> Shape<Value<'w, 'de>> {
    Shape(Value(image))
}

struct Value<'w, 'de>(&'w mut Image<'de>);

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
