//! One file that is parsed when it changes.
//!
//! The last good content stays when the file becomes unreadable or malformed, and the problem is kept for reports.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::error::{ConfigError, io};
use crate::file::{self, Stamp};

/// A file that was modified this recently may change again without another time stamp (file systems count in
/// ticks, and inode numbers are used again), so its stamp is not trusted yet.
const RACY: Duration = Duration::from_millis(100);

/// Something wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, with the place and the remedy.
    pub message: String,
}

/// The state of the configuration files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Files whose present content is not used; the last good content rules instead.
    pub problems: Vec<Problem>,
    /// Things that work and should be looked at.
    pub warnings: Vec<Problem>,
}

impl Health {
    /// Nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// How to parse a watched file.
pub(crate) type Parse<T> = fn(&std::path::Path, &[u8]) -> Result<T, ConfigError>;

pub(crate) struct Watched<T> {
    path: PathBuf,
    /// The file was named explicitly and must exist.
    required: bool,
    /// The file must be private; it is made so, with a warning.
    private: bool,
    parse: Parse<T>,
    stamp: Option<Stamp>,
    settled: bool,
    digest: Option<[u8; 32]>,
    value: Arc<T>,
    problem: Option<Problem>,
    warning: Option<Problem>,
}

impl<T: Default> Watched<T> {
    /// Reads the file for the first time; here every problem is an error.
    pub(crate) fn open(
        path: PathBuf,
        required: bool,
        private: bool,
        parse: Parse<T>,
    ) -> Result<Self, ConfigError> {
        let mut watched = Self {
            path,
            required,
            private,
            parse,
            stamp: None,
            settled: false,
            digest: None,
            value: Arc::default(),
            problem: None,
            warning: None,
        };
        watched.load()?;
        Ok(watched)
    }

    pub(crate) fn value(&self) -> &Arc<T> {
        &self.value
    }

    pub(crate) fn report(&self, health: &mut Health) {
        health.problems.extend(self.problem.clone());
        health.warnings.extend(self.warning.clone());
    }

    /// Looks at the file and reads it if it may have changed, or in any case with `force`. Returns whether the value
    /// is a new one.
    pub(crate) fn refresh(&mut self, force: bool) -> bool {
        let unchanged = self.settled && file::stamp(&self.path).is_ok_and(|stamp| stamp == self.stamp);
        if unchanged && !force {
            return false;
        }
        match self.load() {
            Ok(changed) => {
                self.problem = None;
                changed
            }
            Err(error) => {
                let problem = Problem { path: self.path.clone(), message: error.to_string() };
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!(file = %self.path.display(), %error, "keeping the last good configuration");
                }
                self.problem = Some(problem);
                false
            }
        }
    }

    fn load(&mut self) -> Result<bool, ConfigError> {
        let Some((stamp, content)) = file::read(&self.path)? else {
            (self.stamp, self.settled) = (None, true);
            if self.required {
                return Err(io("read", &self.path)(std::io::ErrorKind::NotFound.into()));
            }
            let changed = self.digest.take().is_some();
            if changed {
                self.value = Arc::default();
            }
            return Ok(changed);
        };
        if self.private && stamp.mode & 0o077 != 0 {
            self.make_private(stamp.mode)?;
        }
        (self.stamp, self.settled) = (Some(stamp), is_settled(&stamp));
        let digest: [u8; 32] = Sha256::digest(&content).into();
        if self.digest == Some(digest) {
            return Ok(false);
        }
        self.value = Arc::new((self.parse)(&self.path, &content)?);
        self.digest = Some(digest);
        Ok(true)
    }

    fn make_private(&mut self, mode: u32) -> Result<(), ConfigError> {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o600)).map_err(|error| {
            ConfigError::NotPrivate {
                path: self.path.clone(),
                reason: format!("its mode is {mode:04o} and cannot be changed ({error})"),
                remedy: "set its mode to 0600",
            }
        })?;
        let message = format!("its mode was {mode:04o} and is 0600 now; others may have read it");
        tracing::warn!(file = %self.path.display(), "{message}");
        self.warning = Some(Problem { path: self.path.clone(), message });
        Ok(())
    }
}

fn is_settled(stamp: &Stamp) -> bool {
    let (seconds, nanoseconds) = stamp.modified;
    let modified = u64::try_from(seconds)
        .ok()
        .zip(u32::try_from(nanoseconds).ok())
        .map(|(seconds, nanoseconds)| UNIX_EPOCH + Duration::new(seconds, nanoseconds));
    modified
        .and_then(|modified| SystemTime::now().duration_since(modified).ok())
        .is_some_and(|age| age > RACY)
}
