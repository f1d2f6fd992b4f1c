//! Which rights are granted where: turns a [`Plan`] into a list of directories and files.
//!
//! Landlock can only allow, and whatever is allowed for a directory holds for all below it. A denied path is therefore
//! left out by allowing, in each of its parents, every entry but the one that leads to it. Symbolic links are never
//! followed: what they lead to is allowed, or not, by its own place.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Plan;

/// Beyond this a sandbox takes too long to set up.
const MAX_GRANTS: usize = 20_000;
/// Without these no program starts, and many do not get far.
const SYSTEM: [&str; 10] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/proc", "/sys"];
/// Written by every other script, and harmless.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// What may be done with a directory and all below it, or with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// List directories.
    List,
    /// Read and execute.
    Read,
    /// Read and execute, create, change and remove.
    Write,
    /// Use as a harmless device.
    Device,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) path: PathBuf,
    pub(super) right: Right,
    /// Whether the command must not start if the path cannot be opened.
    pub(super) needed: bool,
}

/// All rules of `plan`.
pub(super) fn grants(plan: &Plan) -> Result<Vec<Grant>, String> {
    let mut found = Vec::new();
    for path in &plan.writable {
        found.push(Grant { path: path.clone(), right: Right::Write, needed: true });
    }
    for path in DEVICES {
        found.push(Grant { path: path.into(), right: Right::Device, needed: false });
    }
    match &plan.readable {
        None => {
            found.push(Grant { path: "/".into(), right: Right::List, needed: true });
            read_around(Path::new("/"), &plan.denied, &mut found)?;
        }
        Some(paths) => {
            for path in paths {
                read_around(path, &plan.denied, &mut found)?;
            }
            for path in SYSTEM {
                // On many systems some of them are links to others of them.
                if let Ok(path) = fs::canonicalize(path) {
                    read_around(&path, &plan.denied, &mut found)?;
                }
            }
        }
    }
    Ok(found)
}

/// Grants reading of `base` but for the denied paths. What vanishes or cannot be listed is left out.
fn read_around(base: &Path, denied: &[PathBuf], found: &mut Vec<Grant>) -> Result<(), String> {
    if denied.iter().any(|denied| base.starts_with(denied)) {
        return Ok(());
    }
    if !denied.iter().any(|denied| denied.starts_with(base)) {
        if found.len() >= MAX_GRANTS {
            return Err(format!(
                "there are more than {MAX_GRANTS} files beside the denied paths, the last of them {}",
                base.display()
            ));
        }
        found.push(Grant { path: base.to_owned(), right: Right::Read, needed: false });
        return Ok(());
    }
    // The recursion is as deep as the deepest denied path.
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
            read_around(&entry.path(), denied, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_path_is_left_out_and_its_neighbours_are_not() {
        let root = tempfile::tempdir().expect("a directory");
        let root = fs::canonicalize(root.path()).expect("a path");
        for directory in ["a/secret/deep", "a/open", "b"] {
            fs::create_dir_all(root.join(directory)).expect("a directory");
        }
        fs::write(root.join("a/file"), "x").expect("a file");
        std::os::unix::fs::symlink(root.join("a/secret"), root.join("a/way-in")).expect("a link");
        let list = |denied: &[&str]| {
            let denied: Vec<PathBuf> = denied.iter().map(|path| root.join(path)).collect();
            let mut found = Vec::new();
            read_around(&root, &denied, &mut found).expect("grants");
            let mut names: Vec<String> = found
                .iter()
                .map(|grant| grant.path.strip_prefix(&root).expect("below").display().to_string())
                .collect();
            names.sort_unstable();
            names
        };
        assert_eq!(list(&[]), [""]);
        assert_eq!(list(&["a/secret"]), ["a/file", "a/open", "b"]);
        assert_eq!(list(&["a/secret/deep"]), ["a/file", "a/open", "b"]);
        assert_eq!(list(&["a/secret", "b"]), ["a/file", "a/open"]);
        assert_eq!(list(&["a/not-yet"]), ["a/file", "a/open", "a/secret", "b"]);
        assert_eq!(list(&["a", "a/secret"]), ["b"]);
        assert_eq!(list(&[""]), [""; 0]);
    }

    #[test]
    fn a_list_of_readable_paths_comes_with_the_system_and_without_everything_else() {
        let plan = Plan {
            writable: vec!["/w".into()],
            readable: Some(vec!["/r".into()]),
            denied: vec!["/usr/secret".into()],
            network: false,
            require: true,
        };
        let found = grants(&plan).expect("grants");
        let has = |path: &str, right| {
            found.iter().any(|grant| grant.path == Path::new(path) && grant.right == right)
        };
        assert!(has("/w", Right::Write) && has("/r", Right::Read) && has("/dev/null", Right::Device));
        assert!(has("/etc", Right::Read) && has("/usr/bin", Right::Read));
        assert!(!has("/usr", Right::Read), "a part of it is denied");
        assert!(found.iter().all(|grant| grant.path != Path::new("/")));
    }
}
