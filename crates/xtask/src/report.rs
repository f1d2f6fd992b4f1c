//! Collects what the steps of a run did and prints it: a short line per step, the whole output of one that failed,
//! and at the end a table and, of tests, the totals.
//!
//! The last line of tests is `N passed, N failed`, alone on its line, so that programs can read it.

use std::{path::Path, time::Duration};

use anyhow::Result;

use crate::run::{Finished, Job, Runner};

/// Less free disk space than this, in bytes, is named as the likely cause of a failure.
const LOW_SPACE: u64 = 1_000_000_000;

/// Test counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tests that passed.
    pub(crate) passed: usize,
    /// Tests that failed.
    pub(crate) failed: usize,
    /// Tests that are marked as ignored.
    pub(crate) ignored: usize,
}

impl Counts {
    /// Adds up the `test result:` lines that `cargo test` prints, one per test binary.
    pub(crate) fn parse(output: &str) -> Self {
        let mut counts = Self::default();
        for line in output.lines() {
            let Some(result) = line.trim_start().strip_prefix("test result: ") else { continue };
            let Some((_, numbers)) = result.split_once(". ") else { continue };
            for part in numbers.split(';') {
                let Some((number, what)) = part.trim().split_once(' ') else { continue };
                let Ok(number) = number.parse::<usize>() else { continue };
                match what {
                    "passed" => counts.passed += number,
                    "failed" => counts.failed += number,
                    "ignored" => counts.ignored += number,
                    _ => {}
                }
            }
        }
        counts
    }
}

struct Step {
    name: String,
    failed: bool,
    elapsed: Duration,
    note: String,
}

/// What the steps so far did.
#[derive(Default)]
pub(crate) struct Report {
    steps: Vec<Step>,
    skipped: Vec<(String, String)>,
    counts: Counts,
    failed_steps: usize,
}

impl Report {
    /// Runs one step. True when it succeeded.
    pub(crate) fn step(&mut self, runner: &Runner, name: &str, job: Job) -> Result<bool> {
        let finished = runner.run(job)?;
        if !finished.succeeded() {
            print_output(&finished.output, |_| true);
        }
        Ok(self.finish(name, &finished, String::new()))
    }

    /// Runs a step that the rest can do without: a failure is told as something left out. True when it succeeded.
    pub(crate) fn optional_step(&mut self, runner: &Runner, name: &str, job: Job) -> Result<bool> {
        let finished = runner.run(job)?;
        if let Some(failure) = &finished.failure {
            self.skip(name, &format!("{failure}; see {}", finished.log.display()));
            return Ok(false);
        }
        Ok(self.finish(name, &finished, String::new()))
    }

    /// Runs `cargo test` and counts its tests. True when it succeeded.
    pub(crate) fn tests(&mut self, runner: &Runner, name: &str, job: Job) -> Result<bool> {
        let finished = runner.run(job)?;
        if !finished.succeeded() {
            print_output(&finished.output, |line| !(line.starts_with("test ") && line.ends_with("... ok")));
        }
        let counts = Counts::parse(&finished.output);
        let note = format!("{} passed, {} failed, {} ignored", counts.passed, counts.failed, counts.ignored);
        self.counts.passed += counts.passed;
        self.counts.failed += counts.failed;
        self.counts.ignored += counts.ignored;
        let succeeded = self.finish(name, &finished, note);
        if counts.failed > 0 {
            // These failures are counted by themselves already.
            self.failed_steps -= usize::from(!succeeded);
        } else if succeeded && counts.passed == 0 {
            self.fail("test count", "no test ran");
        }
        Ok(succeeded)
    }

    /// Records that something was left out, and why; told at the end.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        self.skipped.push((name.to_owned(), reason.to_owned()));
    }

    /// Records a failure that is not that of a command.
    pub(crate) fn fail(&mut self, name: &str, reason: &str) {
        println!("  FAILED   {name}: {reason}");
        self.failed_steps += 1;
        self.push(name, true, Duration::ZERO, reason.to_owned());
    }

    /// Whether nothing failed.
    pub(crate) fn succeeded(&self) -> bool {
        self.counts.failed + self.failed_steps == 0
    }

    /// Prints the steps, then what was left out. True when nothing failed.
    pub(crate) fn finish_steps(&self) -> bool {
        println!();
        let width = self.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0);
        for step in &self.steps {
            let word = if step.failed { "FAILED" } else { "ok" };
            let seconds = step.elapsed.as_secs_f64();
            let line = format!("{:width$}  {word:6}  {seconds:>7.1} s  {}", step.name, step.note);
            println!("{}", line.trim_end());
        }
        for (name, reason) in &self.skipped {
            println!("skipped: {name} ({reason})");
        }
        self.succeeded()
    }

    /// Prints the steps and the totals. True when nothing failed.
    pub(crate) fn finish_tests(&self) -> bool {
        let succeeded = self.finish_steps();
        println!();
        println!("{} passed, {} failed", self.counts.passed, self.counts.failed + self.failed_steps);
        succeeded
    }

    fn finish(&mut self, name: &str, finished: &Finished, note: String) -> bool {
        let seconds = finished.elapsed.as_secs_f64();
        let Some(failure) = &finished.failure else {
            println!("  ok       {name} ({seconds:.1} s)");
            self.push(name, false, finished.elapsed, note);
            return true;
        };
        println!("  FAILED   {name}: {failure} ({seconds:.1} s; all output in {})", finished.log.display());
        if let Some(low) = low_space(&finished.log) {
            println!("           {low}");
        }
        let note = if note.is_empty() { failure.clone() } else { format!("{note}; {failure}") };
        self.push(name, true, finished.elapsed, note);
        self.failed_steps += 1;
        false
    }

    fn push(&mut self, name: &str, failed: bool, elapsed: Duration, note: String) {
        self.steps.push(Step { name: name.to_owned(), failed, elapsed, note });
    }
}

/// Cargo's signs of progress: hundreds of lines that would bury the error.
const PROGRESS: &[&str] =
    &["Compiling ", "Checking ", "Downloading ", "Downloaded ", "Locking ", "Adding ", "Updating "];

fn is_progress(line: &str) -> bool {
    line.starts_with(' ') && PROGRESS.iter().any(|word| line.trim_start().starts_with(word))
}

fn print_output(output: &str, keep: impl Fn(&str) -> bool) {
    for line in output.lines().filter(|line| keep(line) && !is_progress(line)) {
        println!("{line}");
    }
}

/// A note on the free space for files in `folder` when there is so little that it explains a failure.
fn low_space(folder: &Path) -> Option<String> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    (free < LOW_SPACE).then(|| format!("only {} MB of disk space are left", free / 1_000_000))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test a ... ok
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
   Doc-tests gander
test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s
a line that only says test result: nothing";

    #[test]
    fn progress_of_cargo_is_left_out_of_a_failure() {
        for (line, progress) in [
            ("   Compiling libc v0.2.191", true),
            ("    Checking rmcp v3.9.0", true),
            ("error: linking with `cc` failed: exit status: 1", false),
            ("Checking the answer", false),
        ] {
            assert_eq!(is_progress(line), progress, "{line}");
        }
    }

    #[test]
    fn counts_add_up_over_test_binaries() {
        assert_eq!(Counts::parse(OUTPUT), Counts { passed: 6, failed: 2, ignored: 1 });
        assert_eq!(Counts::parse("error: could not compile"), Counts::default());
    }

    fn shell(folder: &Path, script: &str) -> Job {
        Job::new("script", "/bin/sh", folder, Duration::from_secs(20)).args(["-c", script])
    }

    fn report_of(script: &str) -> Report {
        let folder = tempfile::tempdir().unwrap();
        let runner = Runner::new(folder.path().join("logs"), Arc::default()).unwrap();
        let mut report = Report::default();
        report.tests(&runner, "tests", shell(folder.path(), script)).unwrap();
        report
    }

    #[test]
    fn failed_tests_are_counted_once() {
        let report = report_of("echo 'test result: FAILED. 4 passed; 2 failed; 0 ignored'; exit 101");
        assert_eq!((report.counts.passed, report.counts.failed + report.failed_steps), (4, 2));
        assert!(!report.finish_tests());
    }

    #[test]
    fn a_crash_without_a_failed_test_is_a_failure() {
        let report = report_of("echo 'test result: ok. 4 passed; 0 failed; 0 ignored'; exit 101");
        assert_eq!((report.counts.passed, report.counts.failed + report.failed_steps), (4, 1));
    }

    #[test]
    fn a_run_without_any_test_is_a_failure() {
        assert!(!report_of("true").finish_tests());
    }

    #[test]
    fn passed_tests_are_a_success() {
        assert!(report_of("echo 'test result: ok. 4 passed; 0 failed; 0 ignored'").finish_tests());
    }
}
