//! Unsafe code is held against its inventory, `engine/UNSAFE.md`: whatever is unsafe has a row there, each row says what it
//! relies on, and the test that it names exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use syn::buffer::{Cursor, TokenBuffer};
use syn::visit::{self, Visit};

use super::root;

/// File and function to how often `unsafe` stands there.
type Found = BTreeMap<(String, String), usize>;

#[test]
fn all_that_is_unsafe_is_in_the_inventory() {
    let found = found();
    assert!(found.len() > 50, "the search finds what there is");
    let rows = rows();
    let mut wrong = Vec::new();
    for ((file, function), count) in &found {
        match rows.get(&(file.clone(), function.clone())) {
            None => wrong.push(format!("{file}: `{function}` is unsafe ({count}) and has no row")),
            Some(row) if row.count != *count => {
                wrong.push(format!("{file}: `{function}` is unsafe in {count} places, its row says {}", row.count));
            }
            Some(_) => {}
        }
    }
    let gone = rows.keys().filter(|place| !found.contains_key(place));
    wrong.extend(gone.map(|(file, function)| format!("{file}: `{function}` has a row and nothing unsafe")));
    assert!(wrong.is_empty(), "engine/UNSAFE.md is not what there is:\n{}", wrong.join("\n"));
}

#[test]
fn what_the_inventory_names_exists() {
    for ((file, function), row) in rows() {
        assert!(!row.claim.is_empty(), "{file}: `{function}` does not say what it relies on");
        assert!(!row.tests.is_empty());
        row.tests.iter().for_each(|test| assert_is_test(test, &format!("{file}: `{function}`")));
    }
}

/// `path::name` is a test, or else `place` is told not to name it.
fn assert_is_test(test: &str, place: &str) {
    let Some((path, name)) = test.split_once("::") else { panic!("{place}: `{test}` is no test") };
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{place}: {test}: {error}"));
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declared = |line: &&str| line.split_once("fn ").is_some_and(|(_, rest)| rest.starts_with(&format!("{name}(")));
    let at = lines.iter().position(declared).unwrap_or_else(|| panic!("{place}: there is no `{test}`"));
    let is_test = lines[..at].iter().rev().take_while(|line| line.starts_with("#[")).any(|line| *line == "#[test]");
    assert!(is_test, "{place}: `{test}` is no test");
}

/// A line of the inventory.
struct Row {
    count: usize,
    claim: String,
    tests: Vec<String>,
}

/// Tables with the file in the heading before them: `| function | count | claim | test, ... |`.
fn rows() -> BTreeMap<(String, String), Row> {
    let text = fs::read_to_string(root().join("engine/UNSAFE.md")).expect("the inventory");
    let (mut file, mut rows) = (String::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("### `") {
            heading.trim_end_matches('`').clone_into(&mut file);
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, function, count, claim, tests, _] = cells[..] else { continue };
        let Ok(count) = count.parse() else { continue };
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        let row = Row { count, claim: claim.to_owned(), tests: tests.split(", ").map(plain).collect() };
        let before = rows.insert((file.clone(), plain(function)), row);
        assert!(before.is_none(), "{file}: {function} has two rows");
    }
    rows
}

/// All that is unsafe in the sources and tests of the server's crates.
fn found() -> Found {
    let mut found = Found::new();
    for room in ["protocol", "engine", "runtime"] {
        let mut folders = vec![PathBuf::from(room)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(root().join(&folder)).expect("a folder") {
                let path = folder.join(entry.expect("an entry").file_name());
                if root().join(&path).is_dir() {
                    if !["target", "corpus", "benches"].iter().any(|name| path.ends_with(name)) {
                        folders.push(path);
                    }
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    search(&path, &mut found);
                }
            }
        }
    }
    found
}

fn search(path: &Path, found: &mut Found) {
    let text = fs::read_to_string(root().join(path)).expect("UTF-8");
    let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut search = Search { file: path.display().to_string(), types: Vec::new(), functions: Vec::new(), found };
    search.visit_file(&file);
}

/// Walks through a file; knows where it is.
struct Search<'a> {
    file: String,
    /// The types of the `impl` blocks around.
    types: Vec<String>,
    functions: Vec<String>,
    found: &'a mut Found,
}

impl Search<'_> {
    fn note(&mut self, what: Option<String>) {
        let function = self.functions.last().cloned();
        let place = what.or(function).unwrap_or_else(|| "outside functions".to_owned());
        *self.found.entry((self.file.clone(), place)).or_default() += 1;
    }

    fn enter(&mut self, signature: &syn::Signature) {
        let name = signature.ident.to_string();
        self.functions.push(self.types.last().map_or(name.clone(), |of| format!("{of}::{name}")));
        if matches!(signature.safety, syn::Safety::Unsafe(_)) {
            self.note(None);
        }
    }
}

impl<'ast> Visit<'ast> for Search<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let types = std::mem::take(&mut self.types);
        self.enter(&item.sig);
        visit::visit_item_fn(self, item);
        self.functions.pop();
        self.types = types;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.enter(&item.sig);
        visit::visit_impl_item_fn(self, item);
        self.functions.pop();
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.enter(&item.sig);
        visit::visit_trait_item_fn(self, item);
        self.functions.pop();
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        if item.unsafety.is_some() {
            self.note(Some(format!("trait {}", item.ident)));
        }
        self.types.push(item.ident.to_string());
        visit::visit_item_trait(self, item);
        self.types.pop();
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let of = name_of(&item.self_ty);
        if let (Some(_), Some((.., path, _))) = (&item.unsafety, &item.trait_) {
            let name = path.segments.last().expect("a name").ident.to_string();
            self.note(Some(format!("impl {name} for {of}")));
        }
        self.types.push(of);
        visit::visit_item_impl(self, item);
        self.types.pop();
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.note(None);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("unsafe") {
            self.note(None);
        }
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
        self.note(Some("extern".to_owned()));
        visit::visit_item_foreign_mod(self, item);
    }

    /// What a macro is given is not parsed; the word is enough.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let tokens = TokenBuffer::new2(call.tokens.clone());
        (0..unsafe_words(tokens.begin())).for_each(|_| self.note(None));
    }
}

fn unsafe_words(mut rest: Cursor<'_>) -> usize {
    let mut count = 0;
    loop {
        rest = if let Some((word, rest)) = rest.ident() {
            count += usize::from(word == "unsafe");
            rest
        } else if let Some((inside, .., rest)) = rest.any_group() {
            count += unsafe_words(inside);
            rest
        } else if let Some((_, rest)) = rest.token_tree() {
            rest
        } else {
            return count;
        };
    }
}

/// The last name of a type's path.
fn name_of(of: &syn::Type) -> String {
    match of {
        syn::Type::Path(path) => path.path.segments.last().map_or_else(String::new, |last| last.ident.to_string()),
        syn::Type::Reference(reference) => name_of(&reference.elem),
        _ => "?".to_owned(),
    }
}

/// The check itself: what it must see.
#[test]
fn the_search_sees_every_form() {
    let text = r#"
        unsafe impl Send for A {}
        unsafe trait T { unsafe fn t(); }
        impl<'a> A<'a> { fn f() { unsafe { g() }; vec![unsafe { h() }]; println!("unsafe"); fn inner() { unsafe { i() } } } }
        #[unsafe(no_mangle)] fn out() { let unsafe_looking = 1; }
        macro_rules! m { () => { unsafe { j() } } }
    "#;
    let mut found = Found::new();
    let file = syn::parse_file(text).expect("it is Rust");
    Search { file: "x".into(), types: vec![], functions: vec![], found: &mut found }.visit_file(&file);
    let found: Vec<(&str, usize)> = found.iter().map(|((_, function), count)| (&**function, *count)).collect();
    let want = [
        ("A::f", 2),
        ("T::t", 1),
        ("impl Send for A", 1),
        ("inner", 1),
        ("out", 1),
        ("outside functions", 1),
        ("trait T", 1),
    ];
    assert_eq!(found, want);
}
