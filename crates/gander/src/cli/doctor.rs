//! `gander doctor`: is the configuration right, and does every stored session obey the rules of the log?
//!
//! With a daemon it asks the daemon; without one it opens the database read-only.

use gander_config::{ConfigHandle, ConfigOptions};
use gander_proto::v1::{CheckStoreRequest, ValidateConfigRequest, check_store_response::Payload};
use serde_json::json;

use super::{
    connect::{Connected, Context},
    error::{CliError, CliResult, exit},
    json,
    output::{Tint, clean, human_number, paint},
};
use crate::daemon;

/// What was found, in sections.
#[derive(Default)]
struct Report {
    /// What was looked at.
    checked: Vec<String>,
    findings: Vec<String>,
}

pub(super) async fn doctor(context: &Context, as_json: bool) -> CliResult<u8> {
    let report = match context.running().await? {
        Some(connected) => {
            let report = ask(&connected).await;
            connected.close().await;
            report?
        }
        None => offline(context).await?,
    };
    if as_json {
        let value = json!({"checked": report.checked, "findings": report.findings});
        context.out.line(&json::pretty(&value))?;
    } else {
        let on = context.out.color;
        for line in &report.checked {
            context.out.line(&format!("  {line}"))?;
        }
        for finding in &report.findings {
            context.out.line(&format!("{} {finding}", paint(on, Tint::Red, "✗")))?;
        }
        let last = match report.findings.len() {
            0 => format!("{} everything is in order", paint(on, Tint::Green, "✓")),
            1 => "1 problem".to_owned(),
            many => format!("{many} problems"),
        };
        context.out.line(&last)?;
    }
    Ok(if report.findings.is_empty() { exit::OK } else { exit::ERROR })
}

async fn ask(connected: &Connected) -> CliResult<Report> {
    let mut report = Report::default();
    let problems =
        connected.client.config().validate_config(ValidateConfigRequest {}).await?.into_inner().problems;
    report.checked.push("configuration: as the running daemon sees it".to_owned());
    for problem in problems {
        let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
        let place = [format!("{}{line}", problem.file_path), problem.key];
        let place: Vec<&str> = place.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        report.findings.push(clean(&format!("{}: {}", place.join(" "), problem.message)));
    }
    let request = CheckStoreRequest::default();
    let mut stream = connected.client.system().check_store(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        match message.payload {
            Some(Payload::Finding(finding)) => {
                let place = match (finding.session_id.as_str(), finding.sequence) {
                    ("", _) => "store".to_owned(),
                    (session, 0) => format!("session {session}"),
                    (session, sequence) => format!("session {session}, event {sequence}"),
                };
                report.findings.push(clean(&format!("{place}: {} ({})", finding.message, finding.rule)));
            }
            Some(Payload::Summary(summary)) => report.checked.push(format!(
                "store: {} sessions, {} events",
                human_number(summary.session_count),
                human_number(summary.event_count)
            )),
            None => {}
        }
    }
    Ok(report)
}

async fn offline(context: &Context) -> CliResult<Report> {
    let paths = context.paths()?;
    let mut report = Report::default();
    report.checked.push("daemon: none runs; the files are looked at directly".to_owned());
    report.checked.push(format!("configuration: {}", paths.config_file().display()));
    match ConfigHandle::open(ConfigOptions::new(paths.clone(), context.environment.clone())) {
        Ok(config) => {
            let health = config.health();
            let told = health.problems.iter().chain(&health.warnings);
            report.findings.extend(told.map(|problem| {
                let path = problem.path.display().to_string();
                // An unreadable file names itself, with the place.
                let place = if problem.message.contains(&path) { String::new() } else { format!("{path}: ") };
                clean(&format!("{place}{}", problem.message))
            }));
        }
        Err(error) => report.findings.push(clean(&error.to_string())),
    }
    if !paths.data_dir().join("gander.db").exists() {
        report.checked.push(format!("store: none yet in {}", paths.data_dir().display()));
        return Ok(report);
    }
    report.checked.push(format!("store: {}", paths.data_dir().display()));
    match daemon::check_offline(&paths).await {
        Ok(findings) => report.findings.extend(findings.iter().map(|finding| clean(finding))),
        Err(error) => return Err(CliError::from(error.context("the store cannot be checked"))),
    }
    Ok(report)
}
