//! `gander serve`: the daemon in the foreground.

use std::net::SocketAddr;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    args::ServeArgs,
    connect::Context,
    error::{CliError, CliResult, exit},
};
use crate::daemon::{self, Ready, TlsFiles};

const LISTEN_KEY: &str = "gander.listen";
const DEFAULT_LISTEN: &str = "127.0.0.1:7717";

pub(super) async fn serve(context: &Context, args: ServeArgs) -> CliResult<u8> {
    let mut options = context.daemon_options();
    if args.background {
        // The starter's terminal and signals are none of this process's business. It fails for a group leader only.
        let _ = rustix::process::setsid();
        options.background = true;
    }
    options.tcp =
        if args.no_tcp || args.background { None } else { Some(listen_address(context, args.listen)?) };
    options.admin = args.admin;
    let secure = args.tls_cert.is_some();
    if let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) {
        options.tls = Some(TlsFiles {
            cert: context.absolute(cert),
            key: context.absolute(key),
            client_ca: args.tls_client_ca.as_deref().map(|path| context.absolute(path)),
        });
    }
    let mut signals = Signals::new()?;
    let shutdown = CancellationToken::new();
    let ready = |ready: &Ready| announce(context, ready, secure);
    let serving = daemon::serve(options, shutdown.clone(), ready);
    tokio::pin!(serving);
    let mut asked = false;
    loop {
        tokio::select! {
            result = &mut serving => {
                result?;
                return Ok(exit::OK);
            }
            name = signals.next() => {
                if asked {
                    context.out.note("stopped at once");
                    return Ok(exit::ERROR);
                }
                asked = true;
                context.out.note(&format!("{name}: running turns may finish; the next signal stops at once"));
                shutdown.cancel();
            }
        }
    }
}

/// One line per listener on stdout, so that a script can wait for it and read the port.
fn announce(context: &Context, ready: &Ready, secure: bool) {
    let out = &context.out;
    let mut text = format!("listening on unix:{}\n", ready.socket.display());
    if let Some(address) = ready.tcp {
        let scheme = if secure { "https" } else { "http" };
        text.push_str(&format!("listening on {scheme}://{address}\n"));
    }
    if let Some(address) = ready.admin {
        text.push_str(&format!("metrics on http://{address}/metrics\n"));
    }
    // Whoever started the daemon may have closed its stdout; that is no reason not to serve.
    let _ = out.print(&text);
    if ready.tcp.is_some() {
        out.note(&format!("token for TCP clients: {}", ready.token_file.display()));
    }
}

fn listen_address(context: &Context, flag: Option<SocketAddr>) -> CliResult<SocketAddr> {
    if let Some(address) = flag {
        return Ok(address);
    }
    let options = gander_config::ConfigOptions::new(context.paths()?, context.environment.clone());
    let config = gander_config::ConfigHandle::open(options)?;
    let text = config.current().get_string(LISTEN_KEY)?.unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
    text.parse().map_err(|_| {
        CliError::new(format!(
            "the setting {LISTEN_KEY} is {text:?}, which is not an address like {DEFAULT_LISTEN}"
        ))
        .remedy(format!("gander config set {LISTEN_KEY} {DEFAULT_LISTEN}"))
    })
}

pub(super) struct Signals {
    int: Signal,
    term: Signal,
}

impl Signals {
    pub(super) fn new() -> CliResult<Self> {
        let listen =
            |kind| signal(kind).map_err(|error| CliError::new(format!("cannot listen for signals: {error}")));
        Ok(Self { int: listen(SignalKind::interrupt())?, term: listen(SignalKind::terminate())? })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.int.recv() => "SIGINT",
            _ = self.term.recv() => "SIGTERM",
        }
    }
}
