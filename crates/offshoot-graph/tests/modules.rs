//! Which modules name which: no two at the top of a crate use each other, directly or by way of others, and one alone chooses
//! what runs a graph. What two modules need of each other belongs into a third.

#![allow(clippy::unwrap_used)] // a test's panic is its failure

mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree};

/// Graphs, operators and shape rules are defined by each other.
const MUTUAL: &str = "offshoot-graph";

/// Names and, by name, the modules that they come from.
type Exports = BTreeMap<String, String>;

/// The names after `crate::` in a file, without its tests. What stands in macros is not seen.
#[derive(Default)]
struct Uses(BTreeSet<String>);

impl<'a> Visit<'a> for Uses {
    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        if let UseTree::Path(path) = &item.tree
            && path.ident == "crate"
            && !is_test(&item.attrs)
        {
            self.0.extend(heads(&path.tree));
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let mut names = path.segments.iter().map(|segment| segment.ident.to_string());
        if names.next().is_some_and(|first| first == "crate") {
            self.0.extend(names.next());
        }
        visit::visit_path(self, path);
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|p| p.is_ident("test"))
    })
}

/// The first names of a tree.
fn heads(tree: &UseTree) -> Vec<String> {
    match tree {
        UseTree::Path(path) => vec![path.ident.to_string()],
        UseTree::Name(name) => vec![name.ident.to_string()],
        UseTree::Rename(rename) => vec![rename.ident.to_string()],
        UseTree::Group(group) => group.items.iter().flat_map(heads).collect(),
        UseTree::Glob(_) => Vec::new(),
    }
}

/// The last names of a tree, as they are called from then on.
fn leaves(tree: &UseTree) -> Vec<String> {
    match tree {
        UseTree::Path(path) => leaves(&path.tree),
        UseTree::Name(name) => vec![name.ident.to_string()],
        UseTree::Rename(rename) => vec![rename.rename.to_string()],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
        UseTree::Glob(_) => Vec::new(),
    }
}

/// What the root of a crate exports of its modules.
fn exports(items: &[Item], found: &mut Exports) {
    for item in items {
        match item {
            Item::Use(ItemUse { tree: UseTree::Path(path), .. }) => {
                let of_crate = (path.ident == "crate").then(|| heads(&path.tree));
                let module = of_crate.and_then(|heads| heads.into_iter().next());
                let module = module.unwrap_or_else(|| path.ident.to_string());
                found.extend(leaves(&path.tree).into_iter().map(|name| (name, module.clone())));
            }
            Item::Mod(ItemMod { content: Some((_, items)), .. }) => exports(items, found),
            _ => {}
        }
    }
}

/// The modules at the top of the crate in the folder `src`, and those that each of them uses.
fn modules(src: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut exported = Exports::new();
    for file in sources::below(src) {
        let below = file.strip_prefix(src).unwrap();
        let first = Path::new(below.components().next().unwrap().as_os_str());
        let module = first.file_stem().unwrap().to_str().unwrap().to_owned();
        let parsed = syn::parse_file(&std::fs::read_to_string(&file).unwrap()).unwrap();
        if ["lib", "main"].contains(&&*module) {
            exports(&parsed.items, &mut exported);
        } else if !file.ends_with("tests.rs") {
            let mut names = Uses::default();
            names.visit_file(&parsed);
            uses.entry(module).or_default().extend(names.0);
        }
    }
    let known: BTreeSet<String> = uses.keys().cloned().collect();
    for (module, names) in &mut uses {
        let of = |name: &String| {
            if known.contains(name) { Some(name.clone()) } else { exported.get(name).cloned() }
        };
        *names = names.iter().filter_map(of).filter(|used| used != module).collect();
    }
    uses
}

/// What is left of modules once those are gone, again and again, that use no other one or that no other one uses.
fn circles(mut uses: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    loop {
        let count = uses.len();
        let left: BTreeSet<String> = uses.keys().cloned().collect();
        let used: BTreeSet<String> = uses.values().flatten().cloned().collect();
        uses.retain(|module, others| {
            others.retain(|other| left.contains(other));
            !others.is_empty() && used.contains(module)
        });
        if uses.len() == count {
            let arrows =
                uses.iter().flat_map(|(a, others)| others.iter().map(move |b| format!("{a} -> {b}")));
            return arrows.collect();
        }
    }
}

#[test]
fn no_modules_use_each_other() {
    let crates: Vec<_> =
        sources::all().into_iter().filter(|src| !src.parent().unwrap().ends_with(MUTUAL)).collect();
    assert!(crates.len() > 10, "{} crates", crates.len());
    for src in crates {
        let found = circles(modules(&src));
        assert!(found.is_empty(), "{}: modules that use each other:\n{}", src.display(), found.join("\n"));
    }
}

#[test]
fn circles_are_found() {
    let uses = |all: &[(&str, &[&str])]| {
        let owned = |(module, others): &(&str, &[&str])| {
            ((*module).to_owned(), others.iter().map(|&other| other.to_owned()).collect())
        };
        all.iter().map(owned).collect()
    };
    assert!(circles(uses(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])).is_empty());
    let round = uses(&[("a", &["b"]), ("b", &["c"]), ("c", &["b", "d"]), ("d", &[])]);
    assert_eq!(circles(round), ["b -> c", "c -> b"]);
    let mut names = Uses::default();
    let text = "use crate::{a::X, b}; fn f(x: crate::c::Y) {} #[cfg(test)] mod tests { use crate::d; }";
    names.visit_file(&syn::parse_file(text).unwrap());
    assert_eq!(names.0.into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
}

/// A processor or a GPU is chosen in `device.rs` of the library; all else takes an executor.
#[test]
fn one_module_names_the_executor_of_the_processor() {
    let mut named: Vec<String> = Vec::new();
    for file in sources::all().iter().flat_map(|src| sources::below(src)) {
        let below = file.strip_prefix(sources::crates()).unwrap();
        if !below.starts_with("offshoot-cpu")
            && std::fs::read_to_string(&file).unwrap().contains("CpuExecutor")
        {
            named.push(below.display().to_string());
        }
    }
    assert_eq!(named, ["offshoot/src/device.rs"]);
}
