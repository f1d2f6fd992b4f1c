//! `gander status` and `gander stop`: about a running daemon, never about one in this process.

use std::time::Duration;

use gander_process::tree;
use gander_proto::v1::{DrainState, GetServerInfoRequest, ServerInfo, ShutdownRequest};

use super::{
    args::StopArgs,
    connect::{Connected, Context, Embed, Place},
    error::{CliError, CliResult, exit},
    json,
    output::{clean, human_duration},
};

/// How long a daemon may take beyond the grace period, for its connections and files.
const STOP_MARGIN: Duration = Duration::from_secs(15);
/// How often is looked whether the daemon has gone.
const POLL: Duration = Duration::from_millis(20);

pub(super) async fn status(context: &Context, as_json: bool) -> CliResult<u8> {
    let connected = context.connect(Embed::Never).await?;
    let info = info(&connected).await?;
    connected.close().await;
    if as_json {
        context.out.line(&json::pretty(&json::value(&info)?))?;
    } else {
        context.out.print(&describe(&info))?;
    }
    Ok(exit::OK)
}

async fn info(connected: &Connected) -> CliResult<ServerInfo> {
    let response = connected.client.system().get_server_info(GetServerInfoRequest {}).await?.into_inner();
    response.server_info.ok_or_else(|| CliError::new("the daemon answered without its info"))
}

fn describe(info: &ServerInfo) -> String {
    let uptime = info.uptime.and_then(|uptime| Duration::try_from(uptime).ok()).unwrap_or_default();
    let state = match info.drain_state() {
        DrainState::Draining => "stopping",
        DrainState::Serving | DrainState::Unspecified => "running",
    };
    let model = match &info.default_model {
        Some(model) => format!("{}/{} ({})", model.provider_id, model.model_id, info.default_model_reason),
        None => "none is configured".to_owned(),
    };
    let mut lines = vec![
        ("gander", format!("{} {}", info.version, info.commit).trim().to_owned()),
        ("state", format!("{state} for {}, process {}", human_duration(uptime), info.pid)),
        (
            "turns",
            format!("{} running, {} sessions loaded", info.active_turn_count, info.loaded_session_count),
        ),
        ("model", model),
    ];
    lines.extend(
        info.listeners
            .iter()
            .map(|listener| ("listens", format!("{} ({})", listener.address, listener.protocols.join(", ")))),
    );
    lines.push(("data", info.data_directory.clone()));
    if !info.config_directory.is_empty() {
        lines.push(("config", info.config_directory.clone()));
    }
    lines.iter().map(|(name, value)| format!("{name:<8} {}\n", clean(value))).collect()
}

pub(super) async fn stop(context: &Context, args: StopArgs) -> CliResult<u8> {
    let Some(connected) = context.running().await? else {
        context.out.note(&context.no_daemon()?.message);
        return Ok(exit::OK);
    };
    let pid = info(&connected).await?.pid;
    let own_machine = connected.place == Place::Daemon;
    let process =
        u32::try_from(pid).ok().filter(|_| own_machine).and_then(tree::lookup).map(|entry| entry.id);
    let request = ShutdownRequest {
        grace_period: prost_types::Duration::try_from(args.grace).ok(),
        only_if_idle: args.if_idle,
        idempotency_key: String::new(),
    };
    let turns = connected.client.system().shutdown(request).await?.into_inner().active_turn_count;
    if turns > 0 {
        let within = human_duration(args.grace);
        context.out.note(&format!("{turns} running turns may finish within {within}"));
    }
    let gone = tokio::time::timeout(args.grace + STOP_MARGIN, until_gone(&connected, process)).await;
    connected.close().await;
    match gone {
        Ok(()) => {
            context.out.note("stopped");
            Ok(exit::OK)
        }
        Err(_) => Err(CliError::new(format!("the daemon (process {pid}) has not stopped in time"))
            .remedy(format!("kill {pid} ends it at once; nothing that was stored is lost"))),
    }
}

/// Waits until the daemon answers no more and, where it is a process that can be seen, has let go of its files.
async fn until_gone(connected: &Connected, process: Option<tree::ProcessId>) {
    until_silent(connected).await;
    while process.is_some_and(tree::is_alive) {
        tokio::time::sleep(POLL).await;
    }
}

async fn until_silent(connected: &Connected) {
    loop {
        let mut request = tonic::Request::new(GetServerInfoRequest {});
        request.set_timeout(Duration::from_secs(2));
        let answer = connected.client.system().get_server_info(request).await;
        if answer.is_err_and(|status| gander_client::ClientError::from(status).is_transport_loss()) {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use gander_proto::v1::{ModelSelection, ServerListener};

    use super::*;

    #[test]
    fn status_tells_what_matters() {
        let mut info = ServerInfo {
            version: "0.1.0".to_owned(),
            pid: 42,
            uptime: Some(prost_types::Duration { seconds: 65, nanos: 0 }),
            active_turn_count: 2,
            loaded_session_count: 3,
            listeners: vec![ServerListener {
                address: "unix:/s".to_owned(),
                protocols: vec!["grpc".to_owned()],
            }],
            data_directory: "/d".to_owned(),
            ..ServerInfo::default()
        };
        let text = describe(&info);
        for wanted in [
            "gander   0.1.0\n",
            "state    running for 1 min 5 s, process 42\n",
            "turns    2 running, 3 sessions loaded\n",
            "model    none is configured\n",
            "listens  unix:/s (grpc)\n",
            "data     /d\n",
        ] {
            assert!(text.contains(wanted), "{wanted:?} in {text}");
        }
        info.default_model = Some(ModelSelection {
            provider_id: "demo".to_owned(),
            model_id: "demo-1".to_owned(),
            ..ModelSelection::default()
        });
        info.default_model_reason = "configured: GOOSE_PROVIDER".to_owned();
        assert!(describe(&info).contains("model    demo/demo-1 (configured: GOOSE_PROVIDER)\n"));
    }
}
