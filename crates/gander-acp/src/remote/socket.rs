//! The WebSocket: one message per text frame, both ways.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use axum::{
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header::UPGRADE},
    response::{IntoResponse as _, Response},
};
use futures::{SinkExt as _, StreamExt as _};

use super::{App, CONNECTION_ID, access::refuse, http};
use crate::agent::Connection;

/// A peer that has said nothing, not even to a ping, for two of these is gone.
const PING: Duration = Duration::from_secs(30);

/// `GET`: an upgrade, or a stream of events.
pub(super) async fn get(
    State(app): State<App>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) if headers.contains_key(UPGRADE) => return rejection.into_response(),
        Err(_) => return http::stream(&app, &headers),
    };
    if app.inner.stop.is_cancelled() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is about to stop");
    }
    let running = app.clone();
    let mut response = upgrade.max_message_size(http::MAX_BODY).max_frame_size(http::MAX_BODY).on_upgrade(
        move |socket| async move {
            let tasks = running.inner.tasks.clone();
            tasks.track_future(serve(running, socket)).await;
        },
    );
    if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::now_v7().to_string()) {
        response.headers_mut().insert(CONNECTION_ID, id);
    }
    response
}

async fn serve(app: App, socket: WebSocket) {
    let Ok(_permit) = app.inner.sockets.try_acquire() else {
        // Too many: the client sees the socket close.
        return;
    };
    let connection = Connection::new(app.inner.client.clone(), app.inner.options.connection.clone());
    let (mut sink, mut stream) = socket.split();
    let heard = AtomicBool::new(true);
    let writing = async {
        let mut pings = tokio::time::interval(PING);
        loop {
            let message = tokio::select! {
                frame = connection.next() => match frame {
                    Some(frame) => Message::Text(frame.json.into()),
                    None => return,
                },
                _ = pings.tick() => {
                    if !heard.swap(false, Ordering::Relaxed) {
                        return;
                    }
                    Message::Ping(axum::body::Bytes::new())
                }
            };
            if sink.send(message).await.is_err() {
                return;
            }
        }
    };
    let reading = async {
        while let Some(Ok(message)) = stream.next().await {
            heard.store(true, Ordering::Relaxed);
            match message {
                Message::Text(text) => connection.receive(&text).await,
                // Some clients send text as bytes.
                Message::Binary(bytes) => connection.receive(&String::from_utf8_lossy(&bytes)).await,
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => {}
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
        () = app.inner.stop.cancelled() => {}
    }
    connection.close();
}
