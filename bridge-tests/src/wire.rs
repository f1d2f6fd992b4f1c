//! Calls below the generated clients: raw bytes for requests that no correct client sends.

use bytes::{BufMut as _, Bytes, BytesMut};
use gander_client::{Client, ClientError};
use http_body_util::{BodyExt as _, Full};
use tonic::{Code, Status, body::Body};
use tower::ServiceExt as _;

/// A message with its gRPC prefix.
#[must_use]
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// Calls a method with these bytes as its message and gives the status, taken apart.
///
/// # Panics
/// When the call gives no status at all.
pub async fn call(client: &Client, path: &str, message: &[u8]) -> Result<(), ClientError> {
    let request = http::Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Full::new(frame(message))))
        .expect("a request");
    let response = client.transport().oneshot(request).await.map_err(ClientError::from)?;
    if let Some(status) = Status::from_header_map(response.headers()) {
        return outcome(status);
    }
    let collected = response.into_body().collect().await.map_err(ClientError::from)?;
    let trailers = collected.trailers().expect("trailers");
    outcome(Status::from_header_map(trailers).expect("a status"))
}

fn outcome(status: Status) -> Result<(), ClientError> {
    if status.code() == Code::Ok { Ok(()) } else { Err(ClientError::from(status)) }
}
