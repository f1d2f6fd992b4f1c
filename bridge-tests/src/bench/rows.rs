//! How each row is measured. A row has a daemon of its own on a fresh root, so that rows do not disturb each other, and
//! measures its floor in the same minute.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use gander_client::Client;
use gander_proto::v1::{WatchSessionRequest, session_event::Payload};
use rustix::process::Rlimit;
use tokio::time::{sleep, timeout};

use crate::{
    echo,
    processes::{Daemon, Provider, Root},
    rest::Rest,
    starts::{self, Editor, Window},
    streams::{self, Load, Source},
    table::{Measured, Row, percentile},
};

/// For one row, whatever happens in it.
pub(crate) const ROW_DEADLINE: Duration = Duration::from_secs(300);
/// After the last session has ended, until a daemon counts as idle.
const SETTLE: Duration = Duration::from_secs(5);
/// Between turns, for a daemon that is idle when the next one comes.
const PAUSE: Duration = Duration::from_millis(20);
const COMMAND_DEADLINE: Duration = Duration::from_secs(20);
const WATCH_DEADLINE: Duration = Duration::from_secs(10);
/// The daemon allows 256 streams per connection; the client opens a connection per 100.
const WATCHES_PER_SESSION: usize = 100;
const MEGABYTE: f64 = 1_000_000.0;

/// What rows need.
pub(crate) struct Bench {
    pub(crate) gander: PathBuf,
    pub(crate) provider: Provider,
    /// The limit of open files that daemons start with.
    pub(crate) open_files: Rlimit,
    /// Smaller sizes: seconds instead of minutes, and noisier.
    pub(crate) quick: bool,
}

/// A daemon for one row, warmed up by a turn.
struct Setup {
    root: Root,
    daemon: Daemon,
    direct: Source,
}

const fn load(streams: usize, tokens: usize, pace_micros: u64) -> Load {
    Load { streams, tokens, pace: Duration::from_micros(pace_micros), stagger: pace_micros > 0 }
}

fn value(id: &'static str, floor: Option<f64>, gander: f64) -> Measured {
    Measured { id, floor, gander }
}

impl Setup {
    async fn start(bench: &Bench) -> Result<Self> {
        let root = Root::new(&bench.gander, bench.provider.url(), bench.open_files)?;
        let daemon = root.serve().await?;
        let setup = Self { root, daemon, direct: Source::direct(bench.provider.url())? };
        let warm_up = load(1, 20, 1000);
        let gander = setup.gander(setup.daemon.tcp().await?);
        for source in [&gander, &setup.direct] {
            streams::run(source, warm_up, None).await.latencies().context("the first turn")?;
        }
        Ok(setup)
    }

    fn gander(&self, client: Client) -> Source {
        let working_directory = self.root.working_directory().to_string_lossy().into();
        Source::Gander { client, working_directory }
    }

    fn rest(&self) -> Result<Rest> {
        let directory = self.root.working_directory();
        Rest::new(self.daemon.base(), &self.daemon.token()?, &directory.to_string_lossy())
    }

    fn over_rest(&self) -> Result<Source> {
        Ok(Source::Rest(self.rest()?))
    }

    async fn over_tcp(&self) -> Result<Source> {
        Ok(self.gander(self.daemon.tcp().await?))
    }
}

/// So many sessions, one after the other.
async fn sessions(source: &Source, count: usize) -> Result<Vec<String>> {
    let mut sessions = Vec::with_capacity(count);
    for _ in 0..count {
        sessions.push(source.session().await?);
    }
    Ok(sessions)
}

impl Bench {
    fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// Measures a row.
    ///
    /// # Errors
    /// Anything that kept it from being measured, a failed stream among them.
    pub(crate) async fn measure(&self, row: Row) -> Result<Vec<Measured>> {
        if row == Row::Start {
            return self.start().await;
        }
        let setup = Setup::start(self).await?;
        let measured = self
            .measure_with(row, &setup)
            .await
            .map_err(|error| anyhow!("{error:#}\nthe daemon's output:\n{}", setup.daemon.output()))?;
        setup.daemon.stop().await?;
        Ok(measured)
    }

    async fn measure_with(&self, row: Row, setup: &Setup) -> Result<Vec<Measured>> {
        let one = load(1, self.size(5000, 1500), 2000);
        match row {
            Row::Stream => self.paced(setup, &setup.over_tcp().await?, one).await,
            Row::StreamUnix => self.paced(setup, &setup.gander(setup.daemon.unix().await?), one).await,
            Row::Streams => {
                let many = load(50, self.size(500, 150), 20_000);
                self.paced(setup, &setup.over_tcp().await?, many).await
            }
            Row::StreamsFast => {
                let fast = load(50, self.size(2000, 500), 2000);
                self.paced(setup, &setup.over_tcp().await?, fast).await
            }
            Row::Burst => self.burst(setup, &setup.over_tcp().await?).await,
            Row::RestStream => self.rest_stream(setup, one).await,
            Row::RestBurst => self.burst(setup, &setup.over_rest()?).await,
            Row::RestSessions => {
                let at_once = Load { stagger: false, ..load(200, 200, 1000) };
                let floor = streams::run(&setup.direct, at_once, None).await;
                let gander = streams::run(&setup.over_rest()?, at_once, None).await;
                Ok(vec![failures(&floor, &gander)])
            }
            Row::RestEcho => {
                let calls = self.size(3000, 500);
                let mut floor = echo::bare(calls).await?;
                let mut gander = setup.rest()?.echo(calls).await?;
                Ok(vec![value("p50", Some(percentile(&mut floor, 0.5)?), percentile(&mut gander, 0.5)?)])
            }
            Row::Adapters => self.adapters(setup).await,
            Row::Sessions => {
                let at_once = Load { stagger: false, ..load(200, 200, 1000) };
                let floor = streams::run(&setup.direct, at_once, None).await;
                let gander = streams::run(&setup.over_tcp().await?, at_once, None).await;
                Ok(vec![failures(&floor, &gander)])
            }
            Row::SessionsMany => self.sessions_many(setup).await,
            Row::FirstToken => self.first_token(setup).await,
            Row::IdleWatch => self.idle_watch(setup).await,
            Row::Echo => self.echo(setup).await,
            Row::Builtin => self.builtin(setup).await,
            Row::Hung => self.hung(setup).await,
            Row::Servers => self.servers(setup).await,
            Row::Start => self.start().await,
        }
    }

    /// Latencies of streams with a pace, and the processor time of the daemon; whole turns, so use long ones.
    async fn paced(&self, setup: &Setup, gander: &Source, load: Load) -> Result<Vec<Measured>> {
        let mut floor = streams::run(&setup.direct, load, None).await.latencies()?;
        let sessions = sessions(gander, load.streams).await?;
        let before = setup.daemon.cpu();
        let mut latencies = streams::run(gander, load, Some(sessions)).await.latencies()?;
        let mut measured = Vec::new();
        for (id, share) in [("p50", 0.5), ("p99", 0.99)] {
            let floor = percentile(&mut floor, share)?;
            measured.push(value(id, Some(floor), percentile(&mut latencies, share)?));
        }
        // Only Linux tells.
        if let (Ok(before), Ok(after)) = (before, setup.daemon.cpu()) {
            let spent = after.saturating_sub(before).as_secs_f64() * 1e6;
            measured.push(value("cpu", None, spent / latencies.len() as f64));
        }
        Ok(measured)
    }

    /// The daemon's own port against the provider, then the same through a window's process.
    async fn rest_stream(&self, setup: &Setup, load: Load) -> Result<Vec<Measured>> {
        let mut measured = self.paced(setup, &setup.over_rest()?, load).await?;
        let window = Window::open(&setup.root).await?;
        let source = Source::Rest(window.rest(&setup.root.working_directory().to_string_lossy())?);
        let mut latencies = streams::run(&source, load, None).await.latencies()?;
        measured.push(value("window", None, percentile(&mut latencies, 0.5)?));
        Ok(measured)
    }

    /// What Desktop and editors start while a daemon runs.
    async fn adapters(&self, setup: &Setup) -> Result<Vec<Measured>> {
        let directory = setup.root.working_directory().to_string_lossy().into_owned();
        let rounds = self.size(20, 7);
        let (mut agent, mut acp, mut new) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            agent.push(Window::open(&setup.root).await?.ready_after.as_secs_f64() * 1e3);
        }
        setup.root.set_extensions(&starts::slow_servers()?)?;
        for _ in 0..rounds {
            let mut editor = Editor::open(&setup.root).await?;
            acp.push(editor.ready_after.as_secs_f64() * 1e3);
            new.push(editor.new_session(&directory).await?.as_secs_f64() * 1e3);
        }
        Ok(vec![
            value("agent", None, percentile(&mut agent, 0.5)?),
            value("acp", None, percentile(&mut acp, 0.5)?),
            value("new", None, percentile(&mut new, 0.5)?),
        ])
    }

    async fn burst(&self, setup: &Setup, gander: &Source) -> Result<Vec<Measured>> {
        let rounds = self.size(30, 12);
        let mut rates = [Vec::with_capacity(rounds), Vec::with_capacity(rounds)];
        for _ in 0..rounds {
            for (source, rates) in [&setup.direct, gander].into_iter().zip(&mut rates) {
                let session = vec![source.session().await?];
                let run = streams::run(source, load(1, 1000, 0), Some(session)).await;
                let rate = run.rate();
                run.latencies()?;
                rates.push(rate.context("no tokens")?);
                sleep(PAUSE).await;
            }
        }
        let [mut floor, mut gander] = rates;
        Ok(vec![value("rate", Some(percentile(&mut floor, 0.5)?), percentile(&mut gander, 0.5)?)])
    }

    async fn sessions_many(&self, setup: &Setup) -> Result<Vec<Measured>> {
        let at_once = Load { stagger: false, ..load(1000, 50, 20_000) };
        let floor = streams::run(&setup.direct, at_once, None).await;
        let gander = streams::run(&setup.over_tcp().await?, at_once, None).await;
        let mut measured = vec![failures(&floor, &gander)];
        let rate = gander.rate().context("no session got a token")?;
        measured.push(value("rate", floor.rate(), rate));
        if let Ok(peak) = setup.daemon.memory_peak() {
            sleep(SETTLE).await;
            measured.push(value("peak", None, peak / MEGABYTE));
            measured.push(value("idle", None, setup.daemon.memory()? / MEGABYTE));
        }
        Ok(measured)
    }

    /// From the request to the first token, less the same without gander.
    async fn first_token(&self, setup: &Setup) -> Result<Vec<Measured>> {
        let gander = setup.over_tcp().await?;
        let turns = 50;
        let mut times = [Vec::with_capacity(turns), Vec::with_capacity(turns)];
        for _ in 0..turns {
            for (source, times) in [&setup.direct, &gander].into_iter().zip(&mut times) {
                let session = source.session().await?;
                sleep(PAUSE).await;
                let sample = source.stream(session, load(1, 1, 0)).await?;
                times.push(sample.first_received.saturating_sub(sample.asked) as f64 / 1e6);
            }
        }
        let [mut floor, mut gander] = times;
        let floor = percentile(&mut floor, 0.5)?;
        Ok(vec![value("above", Some(floor), percentile(&mut gander, 0.5)? - floor)])
    }

    /// Growth of the daemon per watch that has caught up and waits; its connections are part of it.
    async fn idle_watch(&self, setup: &Setup) -> Result<Vec<Measured>> {
        let watches = self.size(2000, 1000);
        let client = setup.daemon.tcp().await?;
        let sessions = sessions(&setup.gander(client.clone()), watches.div_ceil(WATCHES_PER_SESSION)).await?;
        drop(watch(&client, &sessions[0]).await?);
        sleep(Duration::from_secs(1)).await;
        let before = setup.daemon.memory()?;
        let mut open = Vec::with_capacity(watches);
        for number in 0..watches {
            open.push(watch(&client, &sessions[number % sessions.len()]).await?);
        }
        sleep(Duration::from_secs(1)).await;
        let grown = setup.daemon.memory()? - before;
        Ok(vec![value("each", None, grown / open.len() as f64 / 1000.0)])
    }

    async fn echo(&self, setup: &Setup) -> Result<Vec<Measured>> {
        let calls = self.size(3000, 500);
        let directory = setup.root.working_directory();
        let mut floor = echo::bare(calls).await?;
        let client = setup.daemon.tcp().await?;
        let mut gander = echo::through_gander(&client, &directory.to_string_lossy(), calls).await?;
        Ok(vec![value("p50", Some(percentile(&mut floor, 0.5)?), percentile(&mut gander, 0.5)?)])
    }

    async fn builtin(&self, setup: &Setup) -> Result<Vec<Measured>> {
        let directory = setup.root.working_directory();
        std::fs::write(directory.join("note.txt"), "hello\n")?;
        let client = setup.daemon.tcp().await?;
        let calls = self.size(3000, 500);
        let mut latencies = echo::builtin(&client, &directory.to_string_lossy(), calls).await?;
        Ok(vec![value("p50", None, percentile(&mut latencies, 0.5)?)])
    }

    /// The floor is the same calls before anything hangs.
    async fn hung(&self, setup: &Setup) -> Result<Vec<Measured>> {
        let directory = setup.root.working_directory();
        let client = setup.daemon.tcp().await?;
        let calls = self.size(500, 150);
        let (mut alone, mut beside) =
            echo::beside_a_hung_server(&client, &directory.to_string_lossy(), calls).await?;
        Ok(vec![value("p99", Some(percentile(&mut alone, 0.99)?), percentile(&mut beside, 0.99)?)])
    }

    /// The floor is the start of one.
    async fn servers(&self, setup: &Setup) -> Result<Vec<Measured>> {
        let directory = setup.root.working_directory();
        let client = setup.daemon.tcp().await?;
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..self.size(10, 4) {
            for (count, times) in [1, 20].into_iter().zip(&mut times) {
                let started = Instant::now();
                let session_id = echo::session(&client, &directory.to_string_lossy(), count).await?;
                times.push(started.elapsed().as_secs_f64() * 1e3);
                echo::end(&client, session_id).await?;
            }
        }
        let [mut one, mut all] = times;
        Ok(vec![value("all", Some(percentile(&mut one, 0.5)?), percentile(&mut all, 0.5)?)])
    }

    /// Starts on an existing root, as most are, and a command against the last daemon.
    async fn start(&self) -> Result<Vec<Measured>> {
        let root = Root::new(&self.gander, self.provider.url(), self.open_files)?;
        root.serve().await?.stop().await?;
        let mut cold = Vec::new();
        for _ in 0..self.size(20, 7) {
            let daemon = root.serve().await?;
            cold.push(daemon.ready_after.as_secs_f64() * 1e3);
            daemon.stop().await?;
        }
        let mut measured = vec![value("cold", None, percentile(&mut cold, 0.5)?)];
        let daemon = root.serve().await?;
        let mut status = Vec::new();
        for _ in 0..self.size(30, 15) {
            let started = Instant::now();
            let output = timeout(COMMAND_DEADLINE, root.gander(&["status", "--json"]).output())
                .await
                .context("`gander status` took too long")??;
            status.push(started.elapsed().as_secs_f64() * 1e3);
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "`gander status` ended with {}: {said}", output.status);
        }
        daemon.stop().await?;
        measured.push(value("status", None, percentile(&mut status, 0.5)?));
        Ok(measured)
    }
}

/// Counts what failed; the first failure is told on the way.
fn failures(floor: &streams::Run, gander: &streams::Run) -> Measured {
    if let Some(error) = gander.failures.first() {
        crate::say(&format!("  {} failed, one of them so: {error:#}", gander.failures.len()));
    }
    value("failed", Some(floor.failures.len() as f64), gander.failures.len() as f64)
}

type Watch = tonic::Streaming<gander_proto::v1::WatchSessionResponse>;

/// A watch that has caught up.
async fn watch(client: &Client, session_id: &str) -> Result<Watch> {
    let request = WatchSessionRequest {
        session_id: session_id.to_owned(),
        after_sequence: Some(0),
        ..WatchSessionRequest::default()
    };
    let opening = async {
        let mut events = client.sessions().watch_session(request).await?.into_inner();
        while let Some(message) = events.message().await? {
            if let Some(Payload::Checkpoint(checkpoint)) = message.event.and_then(|event| event.payload)
                && checkpoint.caught_up
            {
                return Ok(events);
            }
        }
        anyhow::bail!("the watch ended before it had caught up")
    };
    timeout(WATCH_DEADLINE, opening).await.context("a watch did not catch up in time")?
}
