//! The documents are held against the tree: every path that they name exists, the top level is the agreed one, and every
//! folder of sources has a README. `unsafe_code.rs` does the same for unsafe code and its inventory.

mod unsafe_code;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("runtime/ is in the repository").to_owned()
}

#[test]
fn every_path_that_a_document_names_exists() {
    for (document, base) in [
        ("ARCHITECTURE.md", ""),
        ("README.md", ""),
        ("engine/README.md", "engine"),
        ("protocol/README.md", "protocol"),
        ("runtime/README.md", "runtime"),
        ("bench/README.md", "bench"),
    ] {
        let text = fs::read_to_string(root().join(document)).expect(document);
        // What stands between backquotes and looks like a path from the root or from the document's folder.
        for name in text.split('`').skip(1).step_by(2) {
            let first = name.split('/').next().unwrap_or_default();
            let from_root = ["protocol", "engine", "runtime", "bench", "deploy"].contains(&first) && name.contains('/');
            let from_here = name.starts_with("src/") || name.starts_with("tests/");
            let plain = !name.contains([' ', '*', '<', '{', ':']);
            if plain && (from_root || from_here) {
                let path = root().join(if from_root { "" } else { base }).join(name);
                assert!(path.exists(), "{document} names `{name}`, which is not there");
            }
        }
    }
}

#[test]
fn the_top_level_is_the_agreed_one() {
    const AGREED: [&str; 10] = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "ARCHITECTURE.md",
        "README.md",
        "engine",
        "protocol",
        "runtime",
        "bench",
        "deploy",
    ];
    for entry in fs::read_dir(root()).expect("the repository can be read") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        assert!(
            AGREED.contains(&&*name) || name.starts_with('.') || name == "target" || name == "torc-data",
            "{name} has no place here"
        );
    }
    for folder in ["engine", "engine/sim", "protocol", "runtime", "bench", "deploy"] {
        assert!(root().join(folder).join("README.md").exists(), "{folder} has no README");
    }
}
