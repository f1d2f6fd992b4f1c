//! A sandbox whose paths have been resolved and checked by the daemon, as it is handed to the supervisor.
//!
//! Paths in it are free of symbolic links. A tool that could replace a folder by a link would otherwise choose what
//! the next sandbox opens; the supervisor therefore follows no link when it opens them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::SandboxSpec;
use crate::SpawnError;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    pub(crate) writable: Vec<PathBuf>,
    pub(crate) readable: Option<Vec<PathBuf>>,
    pub(crate) denied: Vec<PathBuf>,
    pub(crate) network: bool,
    pub(crate) require: bool,
}

impl Plan {
    /// Resolves and checks the paths of `spec`, and makes its private directory.
    pub(crate) fn new(spec: &SandboxSpec) -> Result<Self, SpawnError> {
        let denied = spec.denied.iter().map(|path| intended(path)).collect::<Result<Vec<_>, _>>()?;
        let mut writable = Vec::new();
        for path in &spec.writable {
            let resolved = resolve("writable", path)?;
            outside("writable", path, &resolved, &denied)?;
            writable.push(resolved);
        }
        for (path, resolved) in spec.writable.iter().zip(&writable) {
            contained("writable", path, resolved, &writable)?;
        }
        if let Some(path) = &spec.private_tmp {
            let resolved = private(path)?;
            apart("private_tmp", path, &resolved, &denied)?;
            writable.push(resolved);
        }
        let readable = spec.readable.as_ref().map(|paths| {
            let resolve = |path: &PathBuf| {
                let resolved = resolve("readable", path)?;
                not_within("readable", path, &resolved, &denied)?;
                contained("readable", path, &resolved, &writable)?;
                Ok(resolved)
            };
            paths.iter().map(resolve).collect::<Result<Vec<_>, SpawnError>>()
        });
        let readable = readable.transpose()?;
        Ok(Self { writable, readable, denied, network: spec.network, require: spec.require })
    }
}

fn refused(field: &'static str, path: &Path, problem: impl Into<String>) -> SpawnError {
    SpawnError::SandboxPath { field, path: path.to_owned(), problem: problem.into() }
}

/// Absolute, without `..`, and fit for the supervisor's command line.
fn well_formed(field: &'static str, path: &Path) -> Result<(), SpawnError> {
    if !path.is_absolute() {
        return Err(refused(field, path, "is not an absolute path"));
    }
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(refused(field, path, "contains `..`"));
    }
    if path.to_str().is_none_or(|text| text.contains('\0')) {
        return Err(refused(field, path, "is not UTF-8"));
    }
    Ok(())
}

fn canonical(field: &'static str, path: &Path) -> Result<PathBuf, SpawnError> {
    let resolved = fs::canonicalize(path).map_err(|error| refused(field, path, error.to_string()))?;
    well_formed(field, &resolved)?;
    Ok(resolved)
}

fn resolve(field: &'static str, path: &Path) -> Result<PathBuf, SpawnError> {
    well_formed(field, path)?;
    canonical(field, path)
}

/// What is denied need not exist: the part that does is resolved.
fn intended(path: &Path) -> Result<PathBuf, SpawnError> {
    well_formed("denied", path)?;
    for ancestor in path.ancestors() {
        match fs::canonicalize(ancestor) {
            Ok(resolved) => {
                let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
                // Joining an empty path would add a slash.
                let whole = if rest.as_os_str().is_empty() { resolved } else { resolved.join(rest) };
                well_formed("denied", &whole)?;
                return Ok(whole);
            }
            // A link to nowhere may lead somewhere by the time the command runs.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !ancestor.is_symlink() => {}
            Err(error) => return Err(refused("denied", path, error.to_string())),
        }
    }
    Err(refused("denied", path, "cannot be resolved"))
}

/// The private directory, made if it is missing. Others must not be able to plant anything in it.
fn private(path: &Path) -> Result<PathBuf, SpawnError> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
    const FIELD: &str = "private_tmp";
    well_formed(FIELD, path)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(refused(FIELD, path, error.to_string()));
        }
        _ => {}
    }
    let metadata = fs::symlink_metadata(path).map_err(|error| refused(FIELD, path, error.to_string()))?;
    if !metadata.is_dir() {
        return Err(refused(FIELD, path, "is not a directory"));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        return Err(refused(FIELD, path, "belongs to or can be written by others"));
    }
    canonical(FIELD, path)
}

/// Rights are granted for whole directories, so a hole cannot be left in a writable one.
fn apart(field: &'static str, path: &Path, resolved: &Path, denied: &[PathBuf]) -> Result<(), SpawnError> {
    match denied.iter().find(|denied| denied.starts_with(resolved)) {
        Some(hole) => {
            let problem =
                format!("contains {}, which must stay out of reach; name narrower folders", hole.display());
            Err(refused(field, path, problem))
        }
        None => Ok(()),
    }
}

fn not_within(
    field: &'static str,
    path: &Path,
    resolved: &Path,
    denied: &[PathBuf],
) -> Result<(), SpawnError> {
    match denied.iter().find(|denied| resolved.starts_with(denied)) {
        Some(area) => {
            Err(refused(field, path, format!("lies in {}, which must stay out of reach", area.display())))
        }
        None => Ok(()),
    }
}

fn outside(field: &'static str, path: &Path, resolved: &Path, denied: &[PathBuf]) -> Result<(), SpawnError> {
    apart(field, path, resolved, denied)?;
    not_within(field, path, resolved, denied)
}

/// A path below a writable one may have been replaced by a link since it was named, by a command that ran in this very
/// sandbox: it must not lead out of there.
fn contained(
    field: &'static str,
    path: &Path,
    resolved: &Path,
    writable: &[PathBuf],
) -> Result<(), SpawnError> {
    for ancestor in path.ancestors().skip(1) {
        let ancestor = canonical(field, ancestor)?;
        for area in writable {
            if ancestor.starts_with(area) && !resolved.starts_with(area) {
                let (area, target) = (area.display(), resolved.display());
                let problem = format!("leads to {target} through a link inside {area}, which is writable");
                return Err(refused(field, path, problem));
            }
        }
    }
    Ok(())
}
