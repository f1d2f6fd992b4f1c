//! From what a model calls a path to a file that a tool may touch.
//!
//! Every path is made canonical, links followed, before it is judged, and tools then work on the canonical path. A
//! link that is swapped between the check and the use is not caught: this keeps models out of the daemon's files,
//! it is no sandbox for hostile programs.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use crate::{
    context::{BuiltinContext, OUTPUT_DIRECTORY},
    server::ToolError,
};

/// What a tool wants to do with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The rules of one context.
#[derive(Debug)]
pub(crate) struct PathGuard {
    working_directory: PathBuf,
    /// The working directory and the further folders of the session, as they were given.
    folders: Vec<PathBuf>,
    home: Option<PathBuf>,
    roots: Vec<PathBuf>,
    /// What may be read besides what may be written; `None`: everything.
    readable: Option<Vec<PathBuf>>,
    denied: Vec<PathBuf>,
    output: PathBuf,
    allow_outside: bool,
}

impl PathGuard {
    pub(crate) fn new(context: &BuiltinContext) -> Self {
        let folders: Vec<PathBuf> = std::iter::once(&context.working_directory)
            .chain(&context.additional_directories)
            .cloned()
            .collect();
        let roots: Vec<PathBuf> = match &context.sandbox {
            // The same bounds as for commands: a read-only session is so for the file tools as well.
            Some(sandbox) => sandbox.writable.iter().chain(&sandbox.private_tmp).cloned().collect(),
            None => folders.clone(),
        };
        Self {
            working_directory: context.working_directory.clone(),
            folders,
            home: context.environment.get("HOME").map(PathBuf::from).filter(|home| home.is_absolute()),
            roots,
            readable: context.sandbox.as_ref().and_then(|sandbox| sandbox.readable.clone()),
            denied: context.denied_paths.clone(),
            output: context.data_dir.join(OUTPUT_DIRECTORY),
            allow_outside: context.allow_outside && context.sandbox.is_none(),
        }
    }

    /// The canonical path for `text`, if it may be accessed so. It need not exist.
    pub(crate) fn check(&self, text: &str, access: Access) -> Result<PathBuf, ToolError> {
        let named = self.resolve(text)?;
        let path = canonical(&named).map_err(|error| ToolError::new(format!("{text}: {error}")))?;
        if self.denied_now().denies(&path) {
            let message =
                format!("{text}: this belongs to the agent itself; tools may neither read nor change it");
            return Err(ToolError::new(message));
        }
        if !self.is_readable(&path) {
            let message = format!(
                "{}: this session's sandbox does not let files there be read; choose a path in its folders",
                path.display()
            );
            return Err(ToolError::new(message));
        }
        if access == Access::Write && !self.allow_outside && !self.is_inside(&path) {
            let folders: Vec<String> = self.roots.iter().map(|root| root.display().to_string()).collect();
            let message = format!(
                "{} is outside of the session's folders ({}), where files cannot be changed; choose a path in there, \
                 or ask the user to add the folder to the session",
                path.display(),
                folders.join(", ")
            );
            return Err(ToolError::new(message));
        }
        Ok(path)
    }

    /// What must not be touched as things are now: denied paths may appear and move while a session lives.
    pub(crate) fn denied_now(&self) -> Denied {
        let canonical_or_same = |path: &PathBuf| canonical(path).unwrap_or_else(|_| path.clone());
        let paths: Vec<PathBuf> = self.denied.iter().map(canonical_or_same).collect();
        let files = paths.iter().filter_map(|path| path.metadata().ok()).filter(std::fs::Metadata::is_file);
        Denied {
            files: files.map(|metadata| (metadata.dev(), metadata.ino())).collect(),
            paths,
            output: canonical_or_same(&self.output),
        }
    }

    /// The canonical `path` of a file in the session's folders, by the name that these have for whoever opened them:
    /// an editor knows its files by that, not by where a link leads. `None` for files elsewhere.
    pub(crate) fn in_folders(&self, path: &Path) -> Option<PathBuf> {
        self.folders.iter().find_map(|folder| {
            let rest = path.strip_prefix(folder.canonicalize().ok()?).ok()?;
            (!rest.as_os_str().is_empty()).then(|| folder.join(rest))
        })
    }

    fn is_inside(&self, path: &Path) -> bool {
        is_below(&self.roots, path)
    }

    fn is_readable(&self, path: &Path) -> bool {
        self.readable.as_ref().is_none_or(|readable| {
            is_below(readable, path) || self.is_inside(path) || path.starts_with(&self.output)
        })
    }

    /// Relative to the working directory, with `~` for the home directory.
    fn resolve(&self, text: &str) -> Result<PathBuf, ToolError> {
        if text.is_empty() {
            return Err(ToolError::new("the path is empty"));
        }
        if text.contains('\0') {
            return Err(ToolError::new("the path contains a NUL character"));
        }
        let below_home = if text == "~" { Some("") } else { text.strip_prefix("~/") };
        match (below_home, &self.home) {
            (Some(rest), Some(home)) => Ok(home.join(rest.trim_start_matches('/'))),
            (Some(_), None) => {
                Err(ToolError::new("~ has no meaning here: HOME is not set; use an absolute path"))
            }
            (None, _) => Ok(self.working_directory.join(text)),
        }
    }
}

fn is_below(roots: &[PathBuf], path: &Path) -> bool {
    roots.iter().filter_map(|root| root.canonicalize().ok()).any(|root| path.starts_with(root))
}

/// A snapshot of what is denied, for walks over many paths.
#[derive(Clone, Debug)]
pub(crate) struct Denied {
    paths: Vec<PathBuf>,
    /// Device and inode of denied files, so that a hard link does not help.
    files: Vec<(u64, u64)>,
    output: PathBuf,
}

impl Denied {
    /// Whether the canonical `path` is denied.
    pub(crate) fn denies(&self, path: &Path) -> bool {
        if path.starts_with(&self.output) {
            return false;
        }
        self.paths.iter().any(|denied| path.starts_with(denied))
            || is_process_secret(path)
            || self.is_same_file(path)
    }

    fn is_same_file(&self, path: &Path) -> bool {
        !self.files.is_empty()
            && path.metadata().is_ok_and(|metadata| self.files.contains(&(metadata.dev(), metadata.ino())))
    }
}

/// The kernel shows every process's environment and memory as files, the daemon's provider keys among them.
fn is_process_secret(path: &Path) -> bool {
    let Ok(inside) = path.strip_prefix("/proc") else { return false };
    let own = std::process::id().to_string();
    inside.iter().next().is_some_and(|first| first == own.as_str())
        || inside.file_name().is_some_and(|name| name == "environ" || name == "mem" || name == "auxv")
}

/// Makes `path` canonical as far as it exists; the rest must be plain names.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    let mut base = path.to_path_buf();
    let mut missing = Vec::new();
    loop {
        match base.canonicalize() {
            Ok(mut found) => {
                found.extend(missing.iter().rev());
                return Ok(found);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if base.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
                    let message = format!("{} is a symbolic link to nothing", base.display());
                    return Err(io::Error::new(io::ErrorKind::NotFound, message));
                }
                match base.components().next_back() {
                    Some(Component::Normal(name)) => missing.push(name.to_owned()),
                    _ => return Err(error),
                }
                base.pop();
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use gander_process::SandboxSpec;

    use std::os::unix::fs::symlink;

    use super::*;

    struct Place {
        guard: PathGuard,
        root: PathBuf,
        _keep: tempfile::TempDir,
    }

    /// `root/{work,extra,home,data/token,data/tool-output}`; work and extra are the session's, data is denied.
    fn place() -> Place {
        let keep = tempfile::tempdir().expect("temp dir");
        let root = keep.path().canonicalize().expect("canonical");
        for folder in ["work", "extra", "home", "other", "data/tool-output"] {
            std::fs::create_dir_all(root.join(folder)).expect("folder");
        }
        std::fs::write(root.join("data/token"), "secret").expect("token");
        std::fs::write(root.join("lone-token"), "secret").expect("token");
        let mut context = BuiltinContext::new(root.join("work"), root.join("data"));
        context.additional_directories.push(root.join("extra"));
        context.environment.insert("HOME".to_owned(), root.join("home").display().to_string());
        context.denied_paths = vec![root.join("data"), root.join("lone-token"), root.join("not-yet")];
        Place { guard: PathGuard::new(&context), root, _keep: keep }
    }

    #[test]
    fn paths_start_in_the_working_directory_or_at_home() {
        let Place { guard, root, _keep } = place();
        let read = |text: &str| guard.check(text, Access::Read).expect(text);
        assert_eq!(read("a/b.txt"), root.join("work/a/b.txt"));
        assert_eq!(read("."), root.join("work"));
        assert_eq!(read("../other"), root.join("other"));
        assert_eq!(read("~"), root.join("home"));
        assert_eq!(read("~/x"), root.join("home/x"));
        assert_eq!(read("~x"), root.join("work/~x"));
        for bad in ["", "a\0b", "missing/../../data/token"] {
            assert!(guard.check(bad, Access::Read).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn writing_stays_in_the_sessions_folders() {
        let Place { mut guard, root, _keep } = place();
        symlink(root.join("other"), root.join("work/way-out")).expect("link");
        symlink(root.join("other/none"), root.join("work/dangling")).expect("link");
        for good in ["a", "new/folder/a", "../extra/a"] {
            assert!(guard.check(good, Access::Write).is_ok(), "{good}");
        }
        for bad in ["../other/a", "../workshop", "~/a", "/etc/passwd", "way-out/a", "dangling"] {
            assert!(guard.check(bad, Access::Write).is_err(), "{bad}");
        }
        assert!(guard.check("way-out", Access::Read).is_ok());
        guard.allow_outside = true;
        assert!(guard.check("../other/a", Access::Write).is_ok());
    }

    #[test]
    fn files_of_the_session_keep_the_name_of_its_folder() {
        let Place { root, _keep, .. } = place();
        symlink(root.join("work"), root.join("alias")).expect("link");
        let mut context = BuiltinContext::new(root.join("alias"), root.join("data"));
        context.additional_directories.push(root.join("extra"));
        let guard = PathGuard::new(&context);
        let named = |text: &str| guard.in_folders(&guard.check(text, Access::Read).expect(text));
        assert_eq!(named("a/b"), Some(root.join("alias/a/b")));
        assert_eq!(named("../extra/a"), Some(root.join("extra/a")));
        assert_eq!(named("../other/a"), None);
        assert_eq!(named("."), None);
    }

    #[test]
    fn a_sandbox_bounds_the_file_tools_too() {
        let Place { root, _keep, .. } = place();
        let context = BuiltinContext {
            sandbox: Some(SandboxSpec { writable: vec![root.join("extra")], ..SandboxSpec::default() }),
            allow_outside: true,
            ..BuiltinContext::new(root.join("work"), root.join("data"))
        };
        let guard = PathGuard::new(&context);
        assert!(guard.check("../extra/a", Access::Write).is_ok());
        assert!(
            guard.check("a", Access::Write).is_err(),
            "the working directory is not writable in this sandbox"
        );
        assert!(guard.check("a", Access::Read).is_ok());
        assert!(guard.check("/etc/hostname", Access::Read).is_ok());
        let mut listed = context;
        if let Some(sandbox) = &mut listed.sandbox {
            sandbox.readable = Some(vec![root.join("work")]);
        }
        let guard = PathGuard::new(&listed);
        symlink(root.join("other"), root.join("work/way-out")).expect("link");
        for (path, readable) in [
            ("a", true),
            ("../extra/a", true),
            ("../other/a", false),
            ("/etc/hostname", false),
            ("way-out", false),
        ] {
            assert_eq!(guard.check(path, Access::Read).is_ok(), readable, "{path}");
        }
    }

    #[test]
    fn the_daemons_own_files_are_out_of_reach_by_any_name() {
        let Place { guard, root, _keep } = place();
        symlink(root.join("data"), root.join("work/folder")).expect("link");
        symlink(root.join("data/token"), root.join("work/file")).expect("link");
        std::fs::hard_link(root.join("lone-token"), root.join("work/hard")).expect("hard link");
        let names = [
            "../data",
            "../data/token",
            "../data/new",
            "folder/token",
            "file",
            "folder",
            "hard",
            "../not-yet",
        ];
        for name in names {
            for access in [Access::Read, Access::Write] {
                let error = guard.check(name, access).expect_err(name);
                assert!(error.to_string().contains("belongs to the agent"), "{name}: {error}");
            }
        }
        assert!(guard.check("../data/tool-output/x.txt", Access::Read).is_ok());
        assert!(
            guard.check("../data/tool-output/x.txt", Access::Write).is_err(),
            "outside of the session's folders"
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_table_gives_no_secrets_away() {
        let Place { guard, _keep, .. } = place();
        for name in
            ["/proc/self/environ", "/proc/self/cmdline", "/proc/thread-self/environ", "/proc/1/environ"]
        {
            assert!(guard.check(name, Access::Read).is_err(), "{name}");
        }
        assert!(guard.check("/proc/meminfo", Access::Read).is_ok());
    }
}
