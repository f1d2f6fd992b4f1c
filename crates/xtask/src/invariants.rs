//! Tests of the repository itself: which crate may use which, and what its files must not hold.
//!
//! They read `cargo metadata`, `Cargo.lock` and the files; they change nothing.

mod licences;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use crate::run::{Job, Runner};

/// Which crates of ours each crate may use. A new crate needs a line here: that is the moment to think about direction.
const MAY_USE: &[(&str, &[&str])] = &[
    ("gander-domain", &[]),
    ("gander-process", &[]),
    ("gander-proto", &[]),
    ("gander-store", &["gander-domain"]),
    ("gander-model", &["gander-domain", "gander-process"]),
    // The API's messages only, for the adapters.
    ("gander-formats", &["gander-domain", "gander-proto"]),
    ("gander-config", &["gander-domain", "gander-formats"]),
    ("gander-mcp", &["gander-domain", "gander-process"]),
    ("gander-builtin", &["gander-domain", "gander-process"]),
    (
        "gander-engine",
        &[
            "gander-config",
            "gander-domain",
            "gander-formats",
            "gander-mcp",
            "gander-model",
            "gander-process",
            "gander-store",
        ],
    ),
    ("gander-agents", &["gander-domain", "gander-model", "gander-process"]),
    ("gander-service", &["gander-domain", "gander-engine", "gander-proto"]),
    ("gander-listen", &["gander-process", "gander-proto"]),
    ("gander-client", &["gander-proto"]),
    ("gander-goose", ADAPTER),
    ("gander-acp", ADAPTER),
    ("xtask", &[]),
];

/// What an adapter may use: nothing that a client in another language does not have as well.
const ADAPTER: &[&str] = &["gander-client", "gander-formats", "gander-proto"];

/// Crates that only some of ours may name, so that what they stand for stays behind one port.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("rmcp", &["gander-builtin", "gander-mcp"]),
    ("rusqlite", &["gander-store"]),
    ("rig-core", &["gander-model"]),
    ("rig-reqwest", &["gander-model"]),
    ("zbus", &["gander-config"]),
];

/// What a crate must not name, with a `*` at the end for all that begin so.
const MUST_NOT_USE: &[(&str, &[&str])] = &[
    (
        "gander-domain",
        &[
            "async-*",
            "axum",
            "fs4",
            "futures*",
            "hyper*",
            "ignore",
            "mio",
            "nix",
            "process-wrap",
            "prost*",
            "reqwest",
            "rmcp",
            "rusqlite",
            "rustix",
            "tempfile",
            "tokio*",
            "tonic*",
            "tower*",
        ],
    ),
    ("gander-engine", &["axum", "hyper*", "prost*", "rmcp", "rusqlite", "sqlx*", "tokio-postgres", "tonic*"]),
    ("gander-formats", &["async-*", "axum", "futures*", "hyper*", "reqwest", "tokio*", "tonic*"]),
];

/// Crates that must be nowhere, on any platform: a second TLS stack, or programs in packages.
const BANNED: &[&str] =
    &["aws-lc-rs", "aws-lc-sys", "native-tls", "openssl", "openssl-sys", "protoc-bin-vendored"];

/// Most lines of a source file. Files should be shorter than that by a quarter.
const MAX_LINES: usize = 800;

/// Text that no file may hold: names of package hosts, and of notes that are not in the repository.
const FORBIDDEN: &[&str] = &[
    concat!("registry.npm", "js.org"),
    concat!("registry.yarn", "pkg.com"),
    concat!("py", "pi.org"),
    concat!("python", "hosted.org"),
    concat!("static.cra", "tes.io"),
    concat!("index.cra", "tes.io"),
    concat!("proxy.go", "lang.org"),
    concat!("repo.maven.", "apache.org"),
    concat!("repo1.", "maven.org"),
    concat!("deb.", "debian.org"),
    concat!("map", "ping.md"),
    concat!("feasi", "bility.md"),
    concat!("shared/", "contracts"),
    concat!("shared/", "architecture"),
];

/// Folders of the machines that it was made on; only at the start of a path.
const FORBIDDEN_ROOTS: &[&str] = &[concat!("/ro", "ot/"), concat!("/wo", "rk/")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let logs = tempfile::tempdir().unwrap();
    let runner = Runner::new(logs.path().join("logs"), Arc::default()).unwrap();
    let finished =
        runner.run(Job::new(program, program, &root(), Duration::from_secs(300)).args(arguments)).ok()?;
    finished.succeeded().then_some(finished.output)
}

fn metadata(arguments: &[&str]) -> Value {
    let mut all = vec!["metadata", "--format-version", "1"];
    all.extend(arguments);
    let output = output_of(env!("CARGO"), &all).expect("cargo metadata failed");
    let line = output.lines().find(|line| line.starts_with('{')).expect("no JSON from cargo metadata");
    serde_json::from_str(line).unwrap()
}

/// What each workspace member needs to be built, tests left aside, by name.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata(&["--no-deps"]);
    let members = metadata["packages"].as_array().unwrap();
    let needed = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        let built = all.filter(|dependency| dependency["kind"] != "dev");
        built.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect()
    };
    members.iter().map(|package| (package["name"].as_str().unwrap().to_owned(), needed(package))).collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

#[test]
fn crates_use_only_what_is_below_them() {
    let mut found = Vec::new();
    for (name, needed) in dependencies() {
        // The binary composes everything; tests and examples stand outside.
        if name == "gander" || name.starts_with("gander-example") || name == "gander-bridge-tests" {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == name) else {
            found.push(format!("{name} is not in MAY_USE: say there which crates it may use"));
            continue;
        };
        for used in needed {
            let ours = used == "gander" || used == "xtask" || used.starts_with("gander-");
            if ours && !allowed.contains(&used.as_str()) {
                found.push(format!("{name} must not use {used}"));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn adapters_use_nothing_that_other_languages_do_not_have() {
    let dependencies = dependencies();
    for adapter in ["gander-goose", "gander-acp"] {
        let used = dependencies.get(adapter).into_iter().flatten();
        let ours: Vec<&String> =
            used.filter(|name| name.starts_with("gander") && !ADAPTER.contains(&name.as_str())).collect();
        assert!(ours.is_empty(), "{adapter} uses {ours:?}; whatever it needs must be in the API");
    }
}

#[test]
fn ports_hide_what_is_behind_them() {
    let mut found = Vec::new();
    for (name, needed) in dependencies().iter().filter(|(name, _)| !name.ends_with("-tests")) {
        for used in needed {
            let only = ONLY_IN.iter().find(|(hidden, _)| hidden == used);
            if only.is_some_and(|(_, allowed)| !allowed.contains(&name.as_str())) {
                found.push(format!("{name} must not name {used}"));
            }
            for (_, patterns) in MUST_NOT_USE.iter().filter(|(limited, _)| limited == name) {
                if patterns.iter().any(|pattern| matches(pattern, used)) {
                    found.push(format!("{name} must not name {used}"));
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_domain_does_no_input_or_output() {
    let words = ["async fn", "async move", "std::env", "std::fs", "std::net", "std::process", "std::thread"];
    let mut found = Vec::new();
    for path in files().iter().filter(|path| path.starts_with("crates/gander-domain/src")) {
        let Ok(text) = fs::read_to_string(root().join(path)) else { continue };
        for (index, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn there_is_one_tls_stack_and_no_packaged_program() {
    // Cargo.lock knows the dependencies of all platforms.
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let names: BTreeSet<&str> =
        lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    assert!(names.contains("gander-domain"), "Cargo.lock was not understood");
    let banned: Vec<&&str> = BANNED.iter().filter(|name| names.contains(**name)).collect();
    assert!(
        banned.is_empty(),
        "{banned:?}: `cargo tree --invert NAME --target all` shows where it comes from"
    );
    let deny = fs::read_to_string(root().join("deny.toml")).unwrap();
    for name in BANNED {
        assert!(deny.contains(&format!("crate = \"{name}\"")), "deny.toml does not ban {name}");
    }
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let deny = fs::read_to_string(root().join("deny.toml")).unwrap();
    let allowed = licences::allowed(&deny);
    assert!(allowed.contains("Apache-2.0"), "the allow list of deny.toml was not understood");
    let version = output_of("rustc", &["-vV"]).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let metadata = metadata(&["--filter-platform", host]);
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let licence = package["license"].as_str().unwrap_or("none");
        if !licences::is_allowed(licence, &allowed) {
            found.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let metadata = metadata(&["--no-deps"]);
    for package in metadata["packages"].as_array().unwrap() {
        let manifest = fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} has its own lints", package["name"]);
        assert_eq!(package["license"], "Apache-2.0", "{}", package["name"]);
    }
}

/// The files of the repository, relative to its root: those that git knows or would add, or else all that are there.
fn files() -> Vec<PathBuf> {
    let listed = output_of(
        "git",
        &["-c", "core.quotepath=off", "ls-files", "--cached", "--others", "--exclude-standard"],
    );
    let mut files: Vec<PathBuf> = match listed {
        Some(names) => names.lines().map(PathBuf::from).collect(),
        None => walk(&root(), Path::new("")),
    };
    files.retain(|path| root().join(path).is_file());
    assert!(files.iter().any(|path| path == Path::new("Cargo.toml")), "the files were not found");
    files
}

fn walk(root: &Path, folder: &Path) -> Vec<PathBuf> {
    const LEFT_OUT: &[&str] = &[".git", "__pycache__", "gen", "node_modules", "target", ".venv"];
    let mut files = Vec::new();
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
            files.extend(walk(root, &path));
        } else if kind.is_file() {
            files.push(path);
        }
    }
    files
}

#[test]
fn source_files_stay_readable() {
    let mut found = Vec::new();
    for path in files() {
        let source = path.starts_with("crates") && path.extension().is_some_and(|end| end == "rs");
        if source && !path.components().any(|part| part.as_os_str() == "generated") {
            let lines = fs::read_to_string(root().join(&path)).unwrap().lines().count();
            if lines > MAX_LINES {
                found.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "split these: {found:#?}");
}

/// What must not be in `line`, if anything.
fn forbidden(line: &str) -> Option<&'static str> {
    let word = FORBIDDEN.iter().find(|word| line.contains(**word));
    word.or_else(|| FORBIDDEN_ROOTS.iter().find(|folder| starts_a_path(line, folder))).copied()
}

fn starts_a_path(line: &str, folder: &str) -> bool {
    let inner = |before: char| before.is_alphanumeric() || "._-~}$/*".contains(before);
    line.match_indices(folder).any(|(at, _)| !line[..at].ends_with(inner))
}

#[test]
fn forbidden_words_are_found() {
    let folder = FORBIDDEN_ROOTS[1];
    assert!(forbidden(&format!("path = \"{folder}main\"")).is_some());
    assert!(forbidden(&format!("see https://{}/x", FORBIDDEN[0])).is_some());
    assert!(forbidden(&format!("/home/me{folder}main")).is_none());
    assert!(forbidden("a line about the network of networks").is_none());
}

#[test]
fn no_file_names_package_hosts_or_somebodys_folders() {
    let mut found = Vec::new();
    for path in files() {
        // What is not text has no words.
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (index, line) in text.lines().enumerate() {
            if let Some(word) = forbidden(line) {
                found.push(format!("{}:{}: {word}", path.display(), index + 1));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
