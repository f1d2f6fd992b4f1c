//! Path checks, messages and the mapping from a session: everything that needs no kernel support.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

struct Root(tempfile::TempDir);

impl Root {
    fn new(directories: &[&str]) -> Self {
        let root = Self(tempfile::tempdir().expect("a directory"));
        for directory in directories {
            std::fs::create_dir_all(root.path(directory)).expect("a directory");
        }
        root
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().expect("exists").join(name)
    }

    fn paths(&self, names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(|name| self.path(name)).collect()
    }

    fn spec(&self, writable: &[&str], denied: &[&str]) -> SandboxSpec {
        SandboxSpec { writable: self.paths(writable), denied: self.paths(denied), ..SandboxSpec::default() }
    }
}

fn problem(spec: &SandboxSpec) -> (&'static str, String) {
    match Plan::new(spec) {
        Err(SpawnError::SandboxPath { field, problem, .. }) => (field, problem),
        other => panic!("{other:?}"),
    }
}

#[test]
fn paths_are_resolved_and_may_be_missing_only_where_they_are_denied() {
    let root = Root::new(&["work/sub", "data"]);
    symlink(root.path("work"), root.path("link")).expect("a link");
    symlink(root.path("data"), root.path("data-link")).expect("a link");
    let mut spec = root.spec(&["link", "work/sub"], &["data-link/token", "gone/deep", "data-link"]);
    spec.readable = Some(root.paths(&["link"]));
    let plan = Plan::new(&spec).expect("a plan");
    assert_eq!(plan.writable, root.paths(&["work", "work/sub"]));
    assert_eq!(plan.readable, Some(root.paths(&["work"])));
    assert_eq!(plan.denied, root.paths(&["data/token", "gone/deep", "data"]));
    assert_eq!((plan.network, plan.require), (false, true));

    assert_eq!(problem(&root.spec(&["gone"], &[])).0, "writable");
    spec.readable = Some(root.paths(&["gone"]));
    assert_eq!(problem(&spec).0, "readable");
    symlink(root.path("nowhere"), root.path("dangling")).expect("a link");
    assert_eq!(problem(&root.spec(&[], &["dangling/x"])).0, "denied");
}

#[test]
fn paths_must_be_absolute_and_plain() {
    let with = |path: &str| SandboxSpec { writable: vec![path.into()], ..SandboxSpec::default() };
    assert_eq!(problem(&with("relative")).1, "is not an absolute path");
    assert_eq!(problem(&with("")).1, "is not an absolute path");
    assert_eq!(problem(&with("/tmp/../etc")).1, "contains `..`");
    let denied = SandboxSpec { denied: vec!["here".into()], ..SandboxSpec::default() };
    assert_eq!(problem(&denied), ("denied", "is not an absolute path".to_owned()));
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"/\xff");
    let odd = SandboxSpec { denied: vec![odd.into()], ..SandboxSpec::default() };
    assert_eq!(problem(&odd).1, "is not UTF-8");
    let error = Plan::new(&with("/tmp/../etc")).expect_err("refused").to_string();
    assert_eq!(error, "the sandbox's writable path /tmp/../etc: contains `..`");
}

#[test]
fn writable_and_denied_paths_must_not_overlap() {
    let root = Root::new(&["home/data/tmp", "home/work"]);
    let (field, text) = problem(&root.spec(&["home"], &["home/data"]));
    assert!(field == "writable" && text.contains("name narrower folders"), "{text}");
    assert!(problem(&root.spec(&["home/data/tmp"], &["home/data"])).1.starts_with("lies in "));
    assert!(problem(&root.spec(&["home/data"], &["home/data"])).1.starts_with("contains "));
    assert!(Plan::new(&root.spec(&["home/work"], &["home/data"])).is_ok());
    symlink(root.path("home/data"), root.path("home/link")).expect("a link");
    assert!(problem(&root.spec(&["home/link"], &["home/data"])).1.starts_with("contains "));

    let mut spec = root.spec(&[], &["home/data"]);
    spec.readable = Some(root.paths(&["home"]));
    assert!(Plan::new(&spec).is_ok(), "a hole can be left in what is only readable");
    spec.readable = Some(root.paths(&["home/data/tmp"]));
    assert_eq!(problem(&spec).0, "readable");
}

#[test]
fn a_link_that_a_tool_planted_does_not_widen_the_next_sandbox() {
    let root = Root::new(&["work", "home"]);
    symlink(root.path("home"), root.path("work/out")).expect("a link");
    let (field, text) = problem(&root.spec(&["work", "work/out"], &[]));
    assert!(field == "writable" && text.contains("through a link inside"), "{text}");
    let mut spec = root.spec(&["work"], &[]);
    spec.readable = Some(root.paths(&["work/out"]));
    assert_eq!(problem(&spec).0, "readable");
    // The same link is fine where no tool can have made it.
    assert_eq!(Plan::new(&root.spec(&["work/out"], &[])).expect("a plan").writable, root.paths(&["home"]));
}

#[test]
fn the_private_directory_is_made_and_must_be_private() {
    let root = Root::new(&["data"]);
    let mut spec = root.spec(&[], &["data"]);
    spec.private_tmp = Some(root.path("data/tmp"));
    for _ in 0..2 {
        assert_eq!(Plan::new(&spec).expect("a plan").writable, root.paths(&["data/tmp"]));
    }
    let mode = root.path("data/tmp").metadata().expect("exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    std::fs::set_permissions(root.path("data/tmp"), std::fs::Permissions::from_mode(0o777))
        .expect("its owner");
    assert!(problem(&spec).1.contains("by others"));
    symlink(root.path("data"), root.path("planted")).expect("a link");
    spec.private_tmp = Some(root.path("planted"));
    assert_eq!(problem(&spec), ("private_tmp", "is not a directory".to_owned()));
    spec.private_tmp = Some(root.path("no/parent"));
    assert_eq!(problem(&spec).0, "private_tmp");
    spec.private_tmp = Some(root.path("data"));
    assert!(problem(&spec).1.starts_with("contains "));
}

#[test]
fn an_old_or_missing_kernel_feature_is_never_passed_over() {
    let support = |landlock_abi, seccomp| SandboxSupport { landlock_abi, seccomp };
    let text = |support: SandboxSupport, require| support.check(require).expect_err("refused").to_string();
    if cfg!(target_os = "linux") {
        assert!(text(support(None, true), false).contains("Landlock is missing"));
        assert!(text(support(None, true), true).contains("(Landlock ABI none)"));
        assert!(text(support(Some(7), false), false).contains("seccomp"));
        assert!(text(support(Some(2), true), true).contains("(Landlock ABI 2)"));
        assert!(support(Some(2), true).check(false).is_ok());
        assert!(support(Some(3), true).check(true).is_ok());
        assert!(support(Some(9), true).check(true).is_ok());
    } else {
        assert!(text(support(Some(9), true), false).contains("only on Linux"));
        assert_eq!(sandbox_support(), support(None, false));
    }
}

#[test]
fn gaps_depend_on_the_kernel_and_on_the_network() {
    let gaps = |abi, network| SandboxSupport { landlock_abi: Some(abi), seccomp: true }.gaps(network);
    assert_eq!(gaps(9, true), []);
    assert_eq!(gaps(7, true), [SandboxGap::PathSockets]);
    assert_eq!(gaps(6, false), []);
    assert_eq!(gaps(4, false), [SandboxGap::DeviceControl, SandboxGap::Signals]);
    assert_eq!(gaps(1, true).len(), 5);
    assert!(SandboxGap::Truncate.to_string().contains("6.2"));
}

#[test]
fn a_session_is_mapped_by_its_mode() {
    let path = |name: &str| PathBuf::from(name);
    let (workspace, writable, denied) = ([path("/w"), path("/x")], [path("/x"), path("/y")], [path("/d")]);
    let tmp = path("/t");
    let paths = SessionPaths {
        workspace: &workspace,
        writable: &writable,
        readable: &[],
        denied: &denied,
        private_tmp: Some(&tmp),
    };
    assert_eq!(SandboxSpec::for_session(SandboxMode::Off, true, &paths), None);
    let read_only = SandboxSpec::for_session(SandboxMode::ReadOnly, false, &paths).expect("a sandbox");
    let expected = SandboxSpec {
        writable: writable.to_vec(),
        readable: None,
        denied: denied.to_vec(),
        network: false,
        private_tmp: None,
        require: true,
    };
    assert_eq!(read_only, expected);
    let readable = [path("/r")];
    let listed = SessionPaths { readable: &readable, ..paths };
    let listed = SandboxSpec::for_session(SandboxMode::ReadOnly, false, &listed).expect("a sandbox");
    assert_eq!(listed.readable, Some(vec![path("/w"), path("/x"), path("/r")]));
    let write = SandboxSpec::for_session(SandboxMode::WorkspaceWrite, true, &paths).expect("a sandbox");
    let writable = vec![path("/w"), path("/x"), path("/y")];
    assert_eq!(write, SandboxSpec { writable, network: true, private_tmp: Some(tmp.clone()), ..expected });
}
