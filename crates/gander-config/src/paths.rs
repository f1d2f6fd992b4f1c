//! Where files live: one root decides config, data and state together.
//!
//! With a root R (flag, `GANDER_PATH_ROOT` or Goose's `GOOSE_PATH_ROOT`) the layout is R/config, R/data, R/state.
//! Without one, the XDG directories: the config directory is Goose's own (`…/goose`), so that people keep their
//! settings, custom providers, recipes and permission rules; data and state are gander's own (`…/gander`).
//! Everything is computed from values passed in; only the `create_*`/`prepare_*` functions touch the disk.

use std::fs::{self, DirBuilder};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::environment::Environment;
use crate::error::{ConfigError, io};

/// Longest socket path that is used as it is, in bytes. The kernel's limit is 104 (macOS) or 108 (Linux), with the
/// terminating zero; a margin stays for temporary names beside the socket.
pub const MAX_SOCKET_PATH: usize = 100;

/// The resolved directories of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    config: PathBuf,
    data: PathBuf,
    state: PathBuf,
    goose_data: PathBuf,
    runtime: PathBuf,
}

impl Paths {
    /// Resolves the directories: `root` (the flag) > `GANDER_PATH_ROOT` > `GOOSE_PATH_ROOT` > XDG.
    ///
    /// # Errors
    /// A relative root, or no root and no usable `HOME`. Relative XDG variables are ignored, as their
    /// specification demands.
    pub fn resolve(root: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let runtime = runtime_dir(environment);
        let named = |name: &str| environment.get(name).map(|value| (name.to_owned(), PathBuf::from(value)));
        let root = root
            .map(|path| ("--root".to_owned(), path.to_path_buf()))
            .or_else(|| named("GANDER_PATH_ROOT"))
            .or_else(|| named("GOOSE_PATH_ROOT"));
        if let Some((name, root)) = root {
            if !root.is_absolute() {
                return Err(ConfigError::RelativePath { name, path: root });
            }
            let data = root.join("data");
            return Ok(Self {
                config: root.join("config"),
                goose_data: data.clone(),
                data,
                state: root.join("state"),
                runtime,
            });
        }
        let base = |variable: &str, below_home: &str| {
            absolute(environment, variable)
                .or_else(|| absolute(environment, "HOME").map(|home| home.join(below_home)))
                .ok_or(ConfigError::NoHome)
        };
        let data = base("XDG_DATA_HOME", ".local/share")?;
        Ok(Self {
            config: base("XDG_CONFIG_HOME", ".config")?.join("goose"),
            goose_data: data.join("goose"),
            data: data.join("gander"),
            state: base("XDG_STATE_HOME", ".local/state")?.join("gander"),
            runtime,
        })
    }

    /// Settings, shared with Goose.
    pub fn config_dir(&self) -> &Path {
        &self.config
    }

    /// The session store, socket and token.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// Logs and other things that can be lost.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// Where Goose keeps its own sessions, for imports. Never written to under XDG; with a root it is the same
    /// directory as [`Paths::data_dir`].
    pub fn goose_data_dir(&self) -> &Path {
        &self.goose_data
    }

    /// The user's settings.
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.yaml")
    }

    /// The user's secrets, mode 0600.
    pub fn secrets_file(&self) -> PathBuf {
        self.config.join("secrets.yaml")
    }

    /// The user's permission rules.
    pub fn permission_file(&self) -> PathBuf {
        self.config.join("permission.yaml")
    }

    /// Provider definitions of the user, one JSON file each.
    pub fn custom_providers_dir(&self) -> PathBuf {
        self.config.join("custom_providers")
    }

    /// Recipes of the user.
    pub fn recipes_dir(&self) -> PathBuf {
        self.config.join("recipes")
    }

    /// The user's versions of prompt templates.
    pub fn prompts_dir(&self) -> PathBuf {
        self.config.join("prompts")
    }

    /// The daemon's log file.
    pub fn log_file(&self) -> PathBuf {
        self.state.join("logs").join("gander.log")
    }

    /// The daemon's bearer token, mode 0600; see [`crate::token`].
    pub fn token_file(&self) -> PathBuf {
        self.data.join("token")
    }

    /// The daemon's unix socket: `gander.sock` in the data directory, or, when that path is longer than
    /// [`MAX_SOCKET_PATH`] bytes, a short name in the runtime directory made from a hash of the data directory.
    /// Clients and daemon compute the same path, before and after the directory exists.
    pub fn socket_path(&self) -> PathBuf {
        let direct = self.data.join("gander.sock");
        if direct.as_os_str().len() <= MAX_SOCKET_PATH {
            return direct;
        }
        let digest = Sha256::digest(canonical(&self.data).as_os_str().as_bytes());
        let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{name}.sock");
        let candidate = self.runtime.join(&name);
        if candidate.as_os_str().len() <= MAX_SOCKET_PATH {
            return candidate;
        }
        shared_tmp_runtime_dir().join(name)
    }

    /// Makes the socket's directory, private to this user, and returns the socket's path.
    ///
    /// # Errors
    /// The directory cannot be made, or the short directory belongs to someone else or is a link: another user
    /// could have planted it in a shared place.
    pub fn prepare_socket_dir(&self) -> Result<PathBuf, ConfigError> {
        let socket = self.socket_path();
        let Some(dir) = socket.parent() else { return Ok(socket) };
        if dir == self.data {
            create_private_dir(dir)?;
            return Ok(socket);
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(io("create directory", dir)(e));
            }
            _ => {}
        }
        let meta = fs::symlink_metadata(dir).map_err(io("inspect", dir))?;
        let uid = rustix::process::getuid().as_raw();
        if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o077 != 0 {
            return Err(ConfigError::NotPrivate {
                path: dir.to_path_buf(),
                reason: "it is not a directory of this user with mode 0700".to_owned(),
                remedy: "remove it, or use a shorter root directory",
            });
        }
        Ok(socket)
    }

    /// Makes the config, data and state directories, mode 0700 where they are new.
    ///
    /// # Errors
    /// One of them cannot be made.
    pub fn create_dirs(&self) -> Result<(), ConfigError> {
        [&self.config, &self.data, &self.state].into_iter().try_for_each(|dir| create_private_dir(dir))?;
        // The data directory holds the token and all conversations; a root made by hand may be open to others.
        let mode = fs::metadata(&self.data).map_err(io("inspect", &self.data))?.mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(&self.data, fs::Permissions::from_mode(0o700))
                .map_err(io("restrict access to", &self.data))?;
        }
        Ok(())
    }
}

/// Creates `dir` and its missing parents with mode 0700.
pub(crate) fn create_private_dir(dir: &Path) -> Result<(), ConfigError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("create directory", dir))
}

fn absolute(environment: &Environment, variable: &str) -> Option<PathBuf> {
    environment.get(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn runtime_dir(environment: &Environment) -> PathBuf {
    match absolute(environment, "XDG_RUNTIME_DIR") {
        Some(dir) => dir.join("gander"),
        None => shared_tmp_runtime_dir(),
    }
}

fn shared_tmp_runtime_dir() -> PathBuf {
    PathBuf::from(format!("/tmp/gander-{}", rustix::process::getuid().as_raw()))
}

/// `path` with links resolved in the part that exists, so that two spellings of one directory hash alike.
fn canonical(path: &Path) -> PathBuf {
    for existing in path.ancestors() {
        if let Ok(real) = existing.canonicalize() {
            return match path.strip_prefix(existing) {
                Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
                _ => real,
            };
        }
    }
    path.to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().copied().collect()
    }

    #[test]
    fn precedence_of_roots() {
        let all = [("GANDER_PATH_ROOT", "/g"), ("GOOSE_PATH_ROOT", "/o"), ("HOME", "/h")];
        type Case<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], &'a str, &'a str, &'a str);
        let cases: [Case<'_>; 6] = [
            (Some("/flag"), &all, "/flag/config", "/flag/data", "/flag/state"),
            (None, &all, "/g/config", "/g/data", "/g/state"),
            (None, &all[1..], "/o/config", "/o/data", "/o/state"),
            (None, &all[2..], "/h/.config/goose", "/h/.local/share/gander", "/h/.local/state/gander"),
            (
                None,
                &[("XDG_CONFIG_HOME", "/c"), ("XDG_DATA_HOME", "/d"), ("XDG_STATE_HOME", "/s")],
                "/c/goose",
                "/d/gander",
                "/s/gander",
            ),
            (
                None,
                &[("HOME", "/h"), ("XDG_CONFIG_HOME", "relative"), ("GANDER_PATH_ROOT", "")],
                "/h/.config/goose",
                "/h/.local/share/gander",
                "/h/.local/state/gander",
            ),
        ];
        for (flag, pairs, config, data, state) in cases {
            let paths = Paths::resolve(flag.map(Path::new), &env(pairs)).unwrap();
            assert_eq!(paths.config_dir(), Path::new(config));
            assert_eq!(paths.data_dir(), Path::new(data));
            assert_eq!(paths.state_dir(), Path::new(state));
        }
        let paths = Paths::resolve(None, &env(&[("HOME", "/h")])).unwrap();
        assert_eq!(paths.goose_data_dir(), Path::new("/h/.local/share/goose"));
    }

    #[test]
    fn errors_name_the_variable() {
        let error = Paths::resolve(None, &env(&[("GOOSE_PATH_ROOT", "rel")])).unwrap_err();
        assert!(error.to_string().contains("GOOSE_PATH_ROOT"), "{error}");
        assert!(matches!(Paths::resolve(None, &env(&[])), Err(ConfigError::NoHome)));
        assert!(matches!(Paths::resolve(None, &env(&[("HOME", "rel")])), Err(ConfigError::NoHome)));
    }

    #[test]
    fn long_socket_paths_move_to_the_runtime_directory() {
        let temp = tempfile::tempdir().unwrap();
        let runtime = temp.path().join("run");
        fs::create_dir(&runtime).unwrap();
        let environment = env(&[("XDG_RUNTIME_DIR", runtime.to_str().unwrap())]);
        let short = Paths::resolve(Some(Path::new("/r")), &environment).unwrap();
        assert_eq!(short.socket_path(), Path::new("/r/data/gander.sock"));

        // Exactly at the limit stays, one byte more moves.
        for (extra, moved) in [(0, false), (1, true)] {
            let root = format!("/{}", "x".repeat(MAX_SOCKET_PATH - "//data/gander.sock".len() + extra));
            let paths = Paths::resolve(Some(Path::new(&root)), &environment).unwrap();
            assert_eq!(!paths.socket_path().starts_with(&root), moved, "{extra}");
        }

        let root = temp.path().join("y".repeat(120));
        let paths = Paths::resolve(Some(&root), &environment).unwrap();
        let before = paths.socket_path();
        assert!(before.starts_with(runtime.join("gander")), "{before:?}");
        paths.create_dirs().unwrap();
        assert_eq!(paths.socket_path(), before);
        assert_eq!(paths.prepare_socket_dir().unwrap(), before);
        let mode = fs::metadata(before.parent().unwrap()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        std::os::unix::net::UnixListener::bind(&before).unwrap();

        let link = temp.path().join("link");
        std::os::unix::fs::symlink(temp.path(), &link).unwrap();
        let other = Paths::resolve(Some(&link.join("y".repeat(120))), &environment).unwrap();
        assert_eq!(other.socket_path(), before, "two spellings of one root share the socket");
    }

    #[test]
    fn a_planted_runtime_directory_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let runtime = temp.path().join("run");
        fs::create_dir_all(runtime.join("gander")).unwrap();
        fs::set_permissions(runtime.join("gander"), fs::Permissions::from_mode(0o777)).unwrap();
        let environment = env(&[("XDG_RUNTIME_DIR", runtime.to_str().unwrap())]);
        let paths = Paths::resolve(Some(&temp.path().join("z".repeat(120))), &environment).unwrap();
        assert!(matches!(paths.prepare_socket_dir(), Err(ConfigError::NotPrivate { .. })));
    }

    #[test]
    fn too_long_runtime_directory_falls_back_to_tmp() {
        let environment = env(&[("XDG_RUNTIME_DIR", &format!("/{}", "r".repeat(120)))]);
        let root = format!("/{}", "x".repeat(120));
        let paths = Paths::resolve(Some(Path::new(&root)), &environment).unwrap();
        assert!(paths.socket_path().starts_with(shared_tmp_runtime_dir()));
    }

    #[test]
    fn directories_are_private() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("data")).unwrap();
        fs::set_permissions(temp.path().join("data"), fs::Permissions::from_mode(0o755)).unwrap();
        let paths = Paths::resolve(Some(temp.path()), &env(&[])).unwrap();
        paths.create_dirs().unwrap();
        for dir in [paths.config_dir(), paths.data_dir(), paths.state_dir()] {
            assert_eq!(fs::metadata(dir).unwrap().mode() & 0o777, 0o700, "{dir:?}");
        }
    }
}
