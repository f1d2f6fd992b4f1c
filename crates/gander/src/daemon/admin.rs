//! The admin listener: `/metrics` in the Prometheus text format and `/healthz`. Loopback only, no authentication: it
//! shows counters and nothing else.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result, bail};
use axum::{Router, http::StatusCode, routing::get};
use gander_engine::Engine;
use gander_listen::Front;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, sync::DropGuard};

pub(super) struct Admin {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Admin {
    pub(super) async fn start(address: SocketAddr, front: Front, engine: Arc<Engine>) -> Result<Self> {
        if !address.ip().is_loopback() {
            bail!(
                "--admin {address}: the admin listener has no authentication and must be a loopback address"
            );
        }
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("--admin {address}: the address cannot be used"))?;
        let address = listener.local_addr()?;
        let metrics = {
            let (front, engine) = (front, engine.clone());
            move || {
                let (front, engine) = (front.clone(), engine.clone());
                async move { metrics(&front, &engine).await }
            }
        };
        let health = move || {
            let draining = engine.draining().is_cancelled();
            async move {
                if draining {
                    (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
                } else {
                    (StatusCode::OK, "ok\n")
                }
            }
        };
        let router = Router::new().route("/metrics", get(metrics)).route("/healthz", get(health));
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                tracing::warn!(%error, "the admin listener failed");
            }
        });
        Ok(Self { address, _stop: stop.drop_guard() })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn metrics(front: &Front, engine: &Engine) -> String {
    let info = engine.info().await;
    let mut text = front.metrics_text();
    let mut gauge = |name: &str, help: &str, value: u64| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"));
    };
    gauge("gander_sessions_loaded", "Sessions in memory.", info.loaded_sessions as u64);
    gauge("gander_turns_active", "Turns that run or wait for an answer.", info.active_turns as u64);
    gauge("gander_uptime_seconds", "Seconds since the start.", info.uptime.as_secs());
    gauge("gander_draining", "1 while the daemon is stopping.", u64::from(info.draining));
    text
}
