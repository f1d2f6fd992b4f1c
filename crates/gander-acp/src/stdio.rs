//! One message per line over two byte streams.

use std::io;

use gander_client::Client;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};

use crate::{
    agent::{Connection, LAST_ANSWERS, Options},
    rpc::{self, RpcError},
};

/// Longest line that is read. The daemon takes requests of 32 MiB.
const MAX_LINE: u64 = 64 * 1024 * 1024;

/// Serves a client until it closes its end. Turns that run go on; answers that are due are written first.
///
/// # Errors
/// The streams' own.
pub async fn serve_stdio<R, W>(client: Client, reader: R, writer: W, options: Options) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let connection = Connection::new(client, options);
    let writing = write(&connection, writer);
    let reading = async {
        let read = read(&connection, reader).await;
        connection.finish().await;
        read
    };
    tokio::pin!(writing, reading);
    let outcome = tokio::select! {
        // A client that reads no more is gone.
        written = &mut writing => written,
        read = &mut reading => match read {
            // One that sends no more and reads no more either is not waited for.
            Ok(()) => tokio::time::timeout(LAST_ANSWERS, writing).await.unwrap_or(Ok(())),
            Err(error) => Err(error),
        },
    };
    connection.close();
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

async fn write<W: AsyncWrite + Unpin>(connection: &Connection, mut writer: W) -> io::Result<()> {
    while let Some(frame) = connection.next().await {
        let mut line = frame.json.into_bytes();
        line.push(b'\n');
        writer.write_all(&line).await?;
        writer.flush().await?;
    }
    Ok(())
}

async fn read<R: AsyncRead + Unpin>(connection: &Connection, reader: R) -> io::Result<()> {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = (&mut reader).take(MAX_LINE + 1).read_until(b'\n', &mut line).await?;
        if length == 0 {
            return Ok(());
        }
        if line.len() as u64 > MAX_LINE && line.last() != Some(&b'\n') {
            skip_line(&mut reader).await?;
            let error = RpcError::new(rpc::INVALID_REQUEST, "the message is too long");
            connection.refuse(&serde_json::Value::Null, error).await;
            continue;
        }
        // Text that is no UTF-8 is no JSON either; the lossy form says so in the same words.
        connection.receive(&String::from_utf8_lossy(&line)).await;
    }
}

async fn skip_line<R: AsyncRead + Unpin>(reader: &mut BufReader<R>) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf().await?;
        if buffer.is_empty() {
            return Ok(());
        }
        if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            reader.consume(end + 1);
            return Ok(());
        }
        let length = buffer.len();
        reader.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gander_client::{ClientOptions, Endpoint, LocalService};
    use serde_json::{Value, json};
    use tower::util::BoxCloneSyncService;

    use super::*;

    /// A client of a daemon that knows nothing.
    async fn client() -> Client {
        let service = tower::service_fn(|_| async {
            Ok::<_, gander_client::BoxError>(tonic::Status::unimplemented("not here").into_http())
        });
        let service: LocalService = BoxCloneSyncService::new(service);
        Client::connect(Endpoint::Local(service), ClientOptions::new("test")).await.expect("a client")
    }

    /// What the agent says to these bytes until it ends.
    async fn said(input: Vec<u8>) -> Vec<Value> {
        let mut output = Vec::new();
        let serving = serve_stdio(client().await, input.as_slice(), &mut output, Options::default());
        tokio::time::timeout(Duration::from_secs(30), serving).await.expect("in time").expect("no error");
        let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect()
    }

    fn hello() -> Vec<u8> {
        format!("{}\n", json!({"id": "hi", "method": "initialize", "params": {"protocolVersion": 1}}))
            .into_bytes()
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused_and_the_next_is_read() {
        let mut input = vec![b'x'; usize::try_from(MAX_LINE).expect("small") + 10];
        input.extend(b"\n\xff\xfe{\n\r\n[]\n[{\"id\":1,\"method\":\"initialize\"}]\n");
        input.extend(b"{\"method\":\"_unknown/notification\"}\n{\"id\":7,\"result\":{}}\n");
        input.extend(hello());
        let said = said(input).await;
        let codes: Vec<_> = said.iter().map(|m| (m["id"].clone(), m["error"]["code"].clone())).collect();
        let none = Value::Null;
        let refused = |code: i64| (none.clone(), json!(code));
        assert_eq!(
            codes,
            [refused(-32600), refused(-32700), refused(-32600), refused(-32600), (json!("hi"), none.clone())]
        );
        assert!(said[0]["error"]["message"].as_str().expect("text").contains("too long"));
        assert_eq!(said[4]["result"]["protocolVersion"], 1);
    }

    #[tokio::test]
    async fn a_last_line_without_its_end_is_a_line() {
        let mut input = hello();
        input.pop();
        assert_eq!(said(input).await[0]["id"], "hi");
        assert_eq!(said(Vec::new()).await, Vec::<Value>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_neither_sends_nor_reads_is_not_waited_for() {
        let (stuck, _other_end) = tokio::io::duplex(1);
        let input = hello();
        let serving = serve_stdio(client().await, input.as_slice(), stuck, Options::default());
        tokio::time::timeout(Duration::from_secs(30), serving).await.expect("in time").expect("no error");
    }
}
