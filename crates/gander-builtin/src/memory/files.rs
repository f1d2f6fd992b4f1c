//! Folders of categories: one `.txt` file each, compatible with Goose.
//!
//! Writers of one folder wait for each other (a lock on the folder itself, which leaves no file behind) and replace a
//! file as a whole; readers need no lock. A project's folder is reached through the session's [`PathGuard`], since
//! whoever made the project may have put links there.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{
    paths::{Access, PathGuard},
    server::{ToolError, cancelled},
};

/// Where a project's memories are, in its working directory.
pub(super) const LOCAL_FOLDER: &str = ".goose/memory";

/// Bytes of one category.
const MAX_FILE: u64 = 1024 * 1024;
/// Bytes of a category's name.
const MAX_NAME: usize = 100;
/// Categories that are listed.
const MAX_CATEGORIES: usize = 1000;
const LOCK_DEADLINE: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Whose memories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Of the project.
    Local,
    /// Of the user.
    Global,
}

impl Scope {
    pub(super) fn new(is_global: bool) -> Self {
        if is_global { Self::Global } else { Self::Local }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Global => "global",
        }
    }
}

/// A name that is safe as the stem of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Category(String);

impl Category {
    pub(super) fn new(name: &str) -> Result<Self, ToolError> {
        let bad = |reason: &str| {
            Err(ToolError::new(format!(
                "category {name:?}: {reason}; use a plain name like \"workflow\" or \"code-style\""
            )))
        };
        if name.is_empty() || name == "*" {
            return bad("it must name one category");
        }
        if name.len() > MAX_NAME {
            return bad("it is too long");
        }
        if name.starts_with('.') || name.trim() != name {
            return bad("it must not begin with a dot, nor begin or end with white space");
        }
        if name.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control()) {
            return bad("it must not contain slashes, colons or control characters");
        }
        Ok(Self(name.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    fn file_name(&self) -> String {
        format!("{}.txt", self.0)
    }
}

/// Both folders of one session.
#[derive(Debug)]
pub(super) struct Folders {
    guard: PathGuard,
    global: Option<PathBuf>,
}

impl Folders {
    pub(super) fn new(guard: PathGuard, global: Option<PathBuf>) -> Self {
        Self { guard, global }
    }

    /// The file of a category, links followed. It need not exist.
    fn file(&self, scope: Scope, category: &Category) -> Result<PathBuf, ToolError> {
        let name = category.file_name();
        match scope {
            Scope::Local => self.guard.check(&format!("{LOCAL_FOLDER}/{name}"), Access::Write),
            Scope::Global => {
                let folder = self.folder(scope)?;
                let file = folder.join(name);
                match file.symlink_metadata() {
                    Ok(metadata) if metadata.is_symlink() => Err(ToolError::new(format!(
                        "{} is a link; memories are kept in plain files",
                        file.display()
                    ))),
                    _ => Ok(file),
                }
            }
        }
    }

    fn folder(&self, scope: Scope) -> Result<PathBuf, ToolError> {
        match (scope, &self.global) {
            (Scope::Local, _) => self.guard.check(LOCAL_FOLDER, Access::Write),
            (Scope::Global, Some(folder)) => Ok(folder.clone()),
            (Scope::Global, None) => Err(ToolError::new(
                "there is no folder for global memories here; use is_global false for memories of the project",
            )),
        }
    }

    /// The categories that have a file, sorted.
    pub(super) fn categories(&self, scope: Scope) -> Result<Vec<Category>, ToolError> {
        let folder = self.folder(scope)?;
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(&folder)(error)),
        };
        let mut categories: Vec<Category> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
            .filter_map(|entry| Category::new(entry.file_name().to_str()?.strip_suffix(".txt")?).ok())
            .take(MAX_CATEGORIES)
            .collect();
        categories.sort();
        Ok(categories)
    }

    /// The text of a category, with plain line ends; empty if there is none.
    pub(super) fn read(&self, scope: Scope, category: &Category) -> Result<String, ToolError> {
        Ok(read(&self.file(scope, category)?)?.unwrap_or_default())
    }

    /// Lets `change` make a new text of a category out of the old one, with nobody else writing in between. An empty
    /// text is a category that is not there; `None` leaves everything as it is. Without `make`, nothing comes into
    /// being in a folder that is not there.
    pub(super) fn update<T>(
        &self,
        scope: Scope,
        category: &Category,
        make: bool,
        stop: &dyn Fn() -> bool,
        change: impl FnOnce(&str) -> Result<(Option<String>, T), ToolError>,
    ) -> Result<T, ToolError> {
        let file = self.file(scope, category)?;
        let folder = file.parent().ok_or_else(|| ToolError::new("the file has no folder"))?;
        if make {
            make_folder(folder, scope)?;
        } else if !folder.exists() {
            return change("").map(|(_, outcome)| outcome);
        }
        let _lock = lock(folder, stop)?;
        let before = read(&file)?;
        let (text, outcome) = change(before.as_deref().unwrap_or_default())?;
        match text {
            Some(text) if !text.is_empty() => replace(&file, &text, scope)?,
            Some(_) if before.is_some() => fs::remove_file(&file).map_err(failed(&file))?,
            _ => {}
        }
        Ok(outcome)
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ToolError {
    move |error| ToolError::new(format!("{}: {error}", path.display()))
}

/// `None` if there is no such file.
fn read(path: &Path) -> Result<Option<String>, ToolError> {
    let failed = failed(path);
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(ToolError::new(format!("{} is not a file", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(&failed)?;
    if bytes.len() as u64 > MAX_FILE {
        let message = format!("{} is larger than {MAX_FILE} bytes; shorten it by hand", path.display());
        return Err(ToolError::new(message));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| ToolError::new(format!("{} is not UTF-8 text; repair it by hand", path.display())))?;
    Ok(Some(text.replace("\r\n", "\n")))
}

/// Global memories are the user's alone; a project's are as open as its other files.
fn make_folder(folder: &Path, scope: Scope) -> Result<(), ToolError> {
    let mode = if scope == Scope::Global { 0o700 } else { 0o777 };
    DirBuilder::new().recursive(true).mode(mode).create(folder).map_err(failed(folder))
}

fn replace(path: &Path, text: &str, scope: Scope) -> Result<(), ToolError> {
    if text.len() as u64 > MAX_FILE {
        let message =
            "the category is full (1 MiB); remove what is no longer needed, or use another category";
        return Err(ToolError::new(message));
    }
    let failed = failed(path);
    let folder = path.parent().unwrap_or(path);
    let mode = if scope == Scope::Global { 0o600 } else { 0o666 };
    let mut temporary = tempfile::Builder::new()
        .prefix(".memory-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)
        .map_err(&failed)?;
    if let Ok(metadata) = path.metadata() {
        temporary.as_file().set_permissions(metadata.permissions()).map_err(&failed)?;
    }
    temporary.write_all(text.as_bytes()).map_err(&failed)?;
    temporary.as_file().sync_all().map_err(&failed)?;
    temporary.persist(path).map(drop).map_err(|error| failed(error.error))
}

/// Holds the folder until it is dropped.
fn lock(folder: &Path, stop: &dyn Fn() -> bool) -> Result<File, ToolError> {
    let start = Instant::now();
    let failed = failed(folder);
    loop {
        let file = File::open(folder).map_err(&failed)?;
        match file.try_lock() {
            Ok(()) if is_still(folder, &file) => return Ok(file),
            // Somebody has put another folder in its place.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_RETRY),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        if stop() {
            return Err(cancelled());
        }
        if start.elapsed() > LOCK_DEADLINE {
            let message = format!("{} is locked by another writer; try again", folder.display());
            return Err(ToolError::new(message));
        }
    }
}

fn is_still(folder: &Path, file: &File) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((folder.metadata(), file.metadata()), (Ok(a), Ok(b)) if same(&a, &b))
}
