//! Finds the toolchains of other languages and installs the pinned tools of the tests below `target/tools/`.
//!
//! Pins are in `bridge-tests/toolchains/`. A stamp beside each tool holds the pins and the interpreter's version that
//! it was made from; the tool is installed again when they differ. Nothing outside of `target/` is written.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    report::Report,
    run::{Job, Runner},
};

/// How long one tool's installation may take.
const INSTALL: Duration = Duration::from_secs(600);
/// Oldest Python that the pinned packages have builds for.
const PYTHON: (u32, u32) = (3, 10);
/// Oldest Python that the packages of litellm's proxy have builds for.
const LITELLM_PYTHON: (u32, u32) = (3, 11);
/// Toolchains that no test uses yet: worth a line when they are missing, not a failure.
const UNUSED: &[(&str, &[&str])] = &[("go", &["version"]), ("java", &["-version"])];

/// Programs of the tests against a real keyring.
const KEYRING: &[&str] = &["dbus-daemon", "gnome-keyring-daemon"];

/// What is there. `None`: missing, and reported.
#[derive(Default)]
pub(crate) struct Tools {
    /// The `node_modules` folder with the pinned packages.
    pub(crate) node_modules: Option<PathBuf>,
    /// The `node_modules` folder with real agents.
    pub(crate) agents: Option<PathBuf>,
    /// The `python` of the virtual environment with the pinned packages.
    pub(crate) python: Option<PathBuf>,
    /// The `python` of the virtual environment with litellm's proxy.
    pub(crate) litellm: Option<PathBuf>,
}

impl Tools {
    /// The `buf` program.
    pub(crate) fn buf(&self) -> Option<PathBuf> {
        self.node_modules.as_ref().map(|folder| folder.join(".bin/buf"))
    }
}

/// Looks for toolchains and installs tools.
pub(crate) struct Installer<'a> {
    /// Runs the package managers.
    pub(crate) runner: &'a Runner,
    /// The repository.
    pub(crate) root: &'a Path,
    /// The folder to install below.
    pub(crate) tools: &'a Path,
    /// A missing toolchain is a failure.
    pub(crate) required: bool,
}

impl Installer<'_> {
    /// Everything the tests can use.
    pub(crate) fn all(&self, report: &mut Report) -> Result<Tools> {
        let _lock = self.lock()?;
        let node_modules = self.node(report, "node")?;
        // Real agents are of no use without what runs them, which the tools bring along.
        let agents = if node_modules.is_some() { self.node(report, "agents")? } else { None };
        let python = self.python(report)?;
        let litellm = match &python {
            Some(python) => self.litellm(report, python)?,
            // The missing Python is reported already.
            None => None,
        };
        let keyring =
            KEYRING.iter().find(|name| self.runner.probe(name, &["--version"], self.root).is_none());
        if let Some(name) = keyring.filter(|_| cfg!(target_os = "linux")) {
            self.missing(report, "keyring", &format!("{name} not found: no test against a keyring"));
        }
        for (name, arguments) in UNUSED {
            if self.runner.probe(name, arguments, self.root).is_none() {
                report.skip(name, &format!("{name} not found; no test uses it yet"));
            }
        }
        Ok(Tools { node_modules, agents, python, litellm })
    }

    /// Only what the proto checks use.
    pub(crate) fn for_protos(&self, report: &mut Report) -> Result<Tools> {
        let _lock = self.lock()?;
        Ok(Tools { node_modules: self.node(report, "node")?, ..Tools::default() })
    }

    /// Keeps other runs out while this one installs; released when the file is dropped.
    fn lock(&self) -> Result<File> {
        fs::create_dir_all(self.tools).with_context(|| format!("cannot create {}", self.tools.display()))?;
        let path = self.tools.join(".lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if start.elapsed() < INSTALL => {
                    std::thread::sleep(Duration::from_millis(200));
                }
                Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
            }
        }
    }

    fn missing(&self, report: &mut Report, name: &str, reason: &str) {
        if self.required {
            report.fail(name, reason);
        } else {
            report.skip(name, reason);
        }
    }

    /// The packages of `bridge-tests/toolchains/NAME`.
    fn node(&self, report: &mut Report, name: &str) -> Result<Option<PathBuf>> {
        let Some(node) = self.runner.probe("node", &["--version"], self.root) else {
            self.missing(report, "node", "node not found");
            return Ok(None);
        };
        if self.runner.probe("npm", &["--version"], self.root).is_none() {
            self.missing(report, "node", "npm not found");
            return Ok(None);
        }
        let pins = self.root.join("bridge-tests/toolchains").join(name);
        let folder = self.tools.join(name);
        let files = ["package.json", "package-lock.json", ".npmrc"];
        let stamp = stamp_text(&node, &pins, &files)?;
        let modules = folder.join("node_modules");
        if is_stamped(&folder, &stamp) {
            return Ok(Some(modules));
        }
        empty(&folder)?;
        for file in files {
            fs::copy(pins.join(file), folder.join(file)).with_context(|| format!("cannot copy {file}"))?;
        }
        // Not `npm ci`: it wants a lock file with `buf` for every platform, and registries differ in which they carry.
        let job = Job::new("npm install", "npm", &folder, INSTALL).args([
            "install",
            "--no-save",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
        ]);
        if !report.step(self.runner, &format!("install {name} tools"), job)? {
            return Ok(None);
        }
        write_stamp(&folder, &stamp)?;
        Ok(Some(modules))
    }

    fn python(&self, report: &mut Report) -> Result<Option<PathBuf>> {
        let Some(version) = self.runner.probe("python3", &["--version"], self.root) else {
            self.missing(report, "python", "python3 not found");
            return Ok(None);
        };
        if python_version(&version).is_none_or(|found| found < PYTHON) {
            let (major, minor) = PYTHON;
            self.missing(
                report,
                "python",
                &format!("python3 is {version}; Python {major}.{minor} or newer is needed"),
            );
            return Ok(None);
        }
        if self.runner.probe("python3", &["-c", "import ensurepip, venv"], self.root).is_none() {
            self.missing(
                report,
                "python",
                "python3 has no venv module; on Debian: apt-get install python3-venv",
            );
            return Ok(None);
        }
        let pins = self.root.join("bridge-tests/toolchains/python");
        let folder = self.tools.join("python");
        let stamp = stamp_text(&version, &pins, &["requirements.txt"])?;
        let python = folder.join("bin/python");
        if is_stamped(&folder, &stamp) {
            return Ok(Some(python));
        }
        empty(&folder)?;
        let job = Job::new("python venv", "python3", self.root, INSTALL).args(["-m", "venv"]).args([&folder]);
        if !report.step(self.runner, "make python environment", job)? {
            return Ok(None);
        }
        let job = Job::new("pip install", &python, self.root, INSTALL)
            .args(["-m", "pip", "install", "--disable-pip-version-check", "--only-binary", ":all:"])
            .args(["--no-deps", "-r"])
            .args([pins.join("requirements.txt")]);
        if !report.step(self.runner, "install python tools", job)? {
            return Ok(None);
        }
        write_stamp(&folder, &stamp)?;
        Ok(Some(python))
    }

    /// litellm's proxy, in an environment without a package manager: `pip` is that of the other tools.
    fn litellm(&self, report: &mut Report, pip: &Path) -> Result<Option<PathBuf>> {
        let name = "litellm";
        let Some(version) = self.runner.probe("python3", &["--version"], self.root) else {
            self.missing(report, name, "python3 not found");
            return Ok(None);
        };
        if python_version(&version).is_none_or(|found| found < LITELLM_PYTHON) {
            let (major, minor) = LITELLM_PYTHON;
            let reason = format!("python3 is {version}; litellm needs Python {major}.{minor} or newer");
            self.missing(report, name, &reason);
            return Ok(None);
        }
        let pins = self.root.join("bridge-tests/toolchains/litellm");
        let folder = self.tools.join(name);
        let stamp = stamp_text(&version, &pins, &["requirements.txt"])?;
        let python = folder.join("bin/python");
        if is_stamped(&folder, &stamp) {
            return Ok(Some(python));
        }
        empty(&folder)?;
        let job = Job::new("litellm venv", "python3", self.root, INSTALL)
            .args(["-m", "venv", "--without-pip"])
            .args([&folder]);
        if !report.step(self.runner, "make litellm environment", job)? {
            return Ok(None);
        }
        // Compiled files would be a third of its size, and few of its modules are ever imported.
        let job = Job::new("pip install litellm", pip, self.root, INSTALL)
            .args(["-m", "pip", "--python"])
            .args([&python])
            .args(["install", "--disable-pip-version-check", "--only-binary", ":all:", "--no-compile"])
            .args(["--no-deps", "-r"])
            .args([pins.join("requirements.txt")]);
        // A second opinion: where one of its packages has no build for this machine, the tests go without.
        let step = "install litellm";
        let installed = if self.required {
            report.step(self.runner, step, job)?
        } else {
            report.optional_step(self.runner, step, job)?
        };
        if !installed {
            return Ok(None);
        }
        write_stamp(&folder, &stamp)?;
        Ok(Some(python))
    }
}

/// `Python 3.11.7` → (3, 11).
fn python_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("Python ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn stamp_text(version: &str, pins: &Path, files: &[&str]) -> Result<String> {
    let mut text = format!("{version}\n");
    for file in files {
        let path = pins.join(file);
        text += &fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(text)
}

fn is_stamped(folder: &Path, stamp: &str) -> bool {
    fs::read_to_string(folder.join(".stamp")).is_ok_and(|found| found == stamp)
}

fn write_stamp(folder: &Path, stamp: &str) -> Result<()> {
    fs::write(folder.join(".stamp"), stamp)
        .with_context(|| format!("cannot write a stamp in {}", folder.display()))
}

fn empty(folder: &Path) -> Result<()> {
    if folder.is_symlink() {
        bail!("{} is a symbolic link; remove it", folder.display());
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn python_versions_are_compared_as_numbers() {
        assert_eq!(python_version("Python 3.11.7"), Some((3, 11)));
        assert!(python_version("Python 3.9.1").unwrap() < PYTHON);
        assert_eq!(python_version("zsh: command not found"), None);
    }

    #[test]
    fn a_stamp_holds_until_a_pin_or_the_version_changes() {
        let folder = tempfile::tempdir().unwrap();
        let pins = folder.path().join("pins");
        fs::create_dir(&pins).unwrap();
        fs::write(pins.join("requirements.txt"), "a==1\n").unwrap();
        let stamp = stamp_text("Python 3.11.7", &pins, &["requirements.txt"]).unwrap();
        let tool = folder.path().join("tool");
        empty(&tool).unwrap();
        assert!(!is_stamped(&tool, &stamp));
        write_stamp(&tool, &stamp).unwrap();
        assert!(is_stamped(&tool, &stamp));
        assert!(!is_stamped(&tool, &stamp_text("Python 3.12.0", &pins, &["requirements.txt"]).unwrap()));
        fs::write(pins.join("requirements.txt"), "a==2\n").unwrap();
        assert!(!is_stamped(&tool, &stamp_text("Python 3.11.7", &pins, &["requirements.txt"]).unwrap()));
    }

    #[test]
    fn an_optional_tool_that_cannot_be_had_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let runner = Runner::new(folder.path().join("logs"), Arc::default()).unwrap();
        let mut report = Report::default();
        for (program, installed) in [("true", true), ("false", false)] {
            let job = Job::new("optional", program, folder.path(), INSTALL);
            assert_eq!(report.optional_step(&runner, "optional", job).unwrap(), installed);
        }
        assert!(report.succeeded());
    }

    #[test]
    fn a_missing_toolchain_fails_only_where_it_is_required() {
        let folder = tempfile::tempdir().unwrap();
        let runner = Runner::new(folder.path().join("logs"), Arc::default()).unwrap();
        for required in [false, true] {
            let installer =
                Installer { runner: &runner, root: folder.path(), tools: folder.path(), required };
            let mut report = Report::default();
            installer.missing(&mut report, "python", "python3 not found");
            assert_eq!(report.succeeded(), !required);
        }
    }
}
