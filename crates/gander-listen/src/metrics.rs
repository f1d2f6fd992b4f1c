//! Counters of one front, rendered in the Prometheus text format. No labels come from callers: methods are those of
//! the descriptor set plus one "unknown".

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tonic::Code;

use crate::methods::{Method, Methods};

/// Upper bounds of the duration buckets, in microseconds.
const BOUNDS: [u64; 12] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000];
const CODES: usize = 17;

#[derive(Default)]
struct PerMethod {
    in_flight: AtomicI64,
    codes: [AtomicU64; CODES],
    buckets: [AtomicU64; BOUNDS.len()],
    microseconds: AtomicU64,
}

/// The counters.
pub(crate) struct Metrics {
    methods: Vec<PerMethod>,
    /// Connections that are open.
    pub(crate) connections: AtomicI64,
    /// Connections accepted so far.
    pub(crate) accepted: AtomicU64,
    /// Connections that sent nothing, or no complete handshake, in time.
    pub(crate) silent: AtomicU64,
    /// Streaming calls that are open.
    pub(crate) streams: AtomicI64,
    /// Calls refused because of a limit.
    pub(crate) shed: AtomicU64,
    /// Calls refused because a tool made them.
    pub(crate) tools_refused: AtomicU64,
    /// Handlers that panicked.
    pub(crate) panics: AtomicU64,
    /// Plain HTTP answers by class, 1xx to 5xx.
    http: [AtomicU64; 5],
}

impl Metrics {
    pub(crate) fn new(methods: &Methods) -> Self {
        Self {
            methods: methods.all().iter().map(|_| PerMethod::default()).collect(),
            connections: AtomicI64::new(0),
            accepted: AtomicU64::new(0),
            silent: AtomicU64::new(0),
            streams: AtomicI64::new(0),
            shed: AtomicU64::new(0),
            tools_refused: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            http: Default::default(),
        }
    }

    pub(crate) fn started(&self, index: usize, streaming: bool) {
        if let Some(method) = self.methods.get(index) {
            method.in_flight.fetch_add(1, Relaxed);
        }
        self.streams.fetch_add(i64::from(streaming), Relaxed);
    }

    pub(crate) fn ended(&self, index: usize, streaming: bool, code: Code, took: Duration) {
        self.streams.fetch_sub(i64::from(streaming), Relaxed);
        let Some(method) = self.methods.get(index) else { return };
        method.in_flight.fetch_sub(1, Relaxed);
        if let Some(counter) = usize::try_from(code as i32).ok().and_then(|code| method.codes.get(code)) {
            counter.fetch_add(1, Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        method.microseconds.fetch_add(micros, Relaxed);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound);
        if let Some(counter) = bucket.and_then(|bucket| method.buckets.get(bucket)) {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn http(&self, status: http::StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.http.get(class) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// The Prometheus text format, version 0.0.4. Methods that were never called are left out.
    pub(crate) fn render(&self, methods: &Methods) -> String {
        let mut text = String::new();
        let numbers = [
            ("connections_open", "gauge", "Connections that are open.", self.connections.load(Relaxed)),
            ("connections_total", "counter", "Connections accepted.", signed(&self.accepted)),
            ("connections_silent_total", "counter", "Connections closed for silence.", signed(&self.silent)),
            ("streams_open", "gauge", "Streaming calls that are open.", self.streams.load(Relaxed)),
            ("requests_shed_total", "counter", "Calls refused because of a limit.", signed(&self.shed)),
            ("tool_calls_refused_total", "counter", "Calls of tools, refused.", signed(&self.tools_refused)),
            ("handler_panics_total", "counter", "Handlers that panicked.", signed(&self.panics)),
        ];
        for (name, kind, help, value) in numbers {
            head(&mut text, name, kind, help);
            let _ = writeln!(text, "gander_{name} {value}");
        }
        head(&mut text, "http_responses_total", "counter", "Plain HTTP answers.");
        for (class, counter) in self.http.iter().enumerate() {
            let count = counter.load(Relaxed);
            let _ = writeln!(text, "gander_http_responses_total{{class=\"{}xx\"}} {count}", class + 1);
        }
        self.render_methods(&mut text, methods);
        text
    }

    fn render_methods(&self, text: &mut String, methods: &Methods) {
        let rows = || methods.all().iter().zip(&self.methods);
        head(text, "grpc_requests_total", "counter", "Finished calls.");
        for (method, counters) in rows() {
            for (code, counter) in counters.codes.iter().enumerate() {
                let count = counter.load(Relaxed);
                if count > 0 {
                    let code = code_name(Code::from(i32::try_from(code).unwrap_or_default()));
                    let labels = labels(method);
                    let _ = writeln!(text, "gander_grpc_requests_total{{{labels},code=\"{code}\"}} {count}");
                }
            }
        }
        head(text, "grpc_in_flight", "gauge", "Calls that run.");
        for (method, counters) in rows() {
            let count = counters.in_flight.load(Relaxed);
            if count != 0 {
                let _ = writeln!(text, "gander_grpc_in_flight{{{}}} {count}", labels(method));
            }
        }
        head(text, "grpc_duration_seconds", "histogram", "Duration of finished unary calls.");
        for (method, counters) in rows().filter(|(method, _)| !method.streaming) {
            let total: u64 = counters.codes.iter().map(|counter| counter.load(Relaxed)).sum();
            if total > 0 {
                render_histogram(text, &labels(method), counters, total);
            }
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn render_histogram(text: &mut String, labels: &str, counters: &PerMethod, total: u64) {
    let name = "gander_grpc_duration_seconds";
    let mut sum = 0;
    for (bound, counter) in BOUNDS.iter().zip(&counters.buckets) {
        sum += counter.load(Relaxed);
        let seconds = *bound as f64 / 1e6;
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{seconds}\"}} {sum}");
    }
    let seconds = counters.microseconds.load(Relaxed) as f64 / 1e6;
    let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {total}");
    let _ = writeln!(text, "{name}_sum{{{labels}}} {seconds}\n{name}_count{{{labels}}} {total}");
}

fn signed(counter: &AtomicU64) -> i64 {
    i64::try_from(counter.load(Relaxed)).unwrap_or(i64::MAX)
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP gander_{name} {help}\n# TYPE gander_{name} {kind}");
}

fn labels(method: &Method) -> String {
    format!("service=\"{}\",method=\"{}\"", method.service, method.name)
}

/// The code as gRPC writes it.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
