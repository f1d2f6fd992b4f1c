//! What is measured, in which unit, against which budget, and how it is printed. Only data and text; nothing is
//! measured here.

use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};

/// A group of metrics that one daemon is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// Latency per token, one stream at 500/s, over TCP.
    Stream,
    /// The same over the unix socket.
    StreamUnix,
    /// 50 streams at 50/s: latency and the daemon's CPU time.
    Streams,
    /// 50 streams at 500/s: the same.
    StreamsFast,
    /// 1,000 tokens without pause.
    Burst,
    /// 200 sessions with a turn each, all at once.
    Sessions,
    /// 1,000 of them, and the daemon's memory.
    SessionsMany,
    /// Start of the daemon, and of a command while it runs.
    Start,
    /// Time to the first token of an idle daemon.
    FirstToken,
    /// Memory of idle watches.
    IdleWatch,
    /// Call of an echo tool on a stdio server.
    Echo,
    /// Call of a tool that is part of the daemon.
    Builtin,
    /// Calls to 7 servers while an 8th does not answer.
    Hung,
    /// Start of 20 stdio servers of one session.
    Servers,
    /// Latency per token, one stream at 500/s, over REST: the daemon's own port, and a window's `gander agent`.
    RestStream,
    /// 1,000 tokens without pause over REST.
    RestBurst,
    /// 200 sessions with a turn each, all at once, over REST.
    RestSessions,
    /// Call of the echo tool over REST.
    RestEcho,
    /// Start of a window's `gander agent` and of an editor's `gander acp` beside a running daemon.
    Adapters,
}

/// How a value is shown; values are kept in the unit's own size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Micros,
    Millis,
    PerSecond,
    Failures,
    Megabytes,
    Kilobytes,
}

/// What a value must hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Budget {
    None,
    AtMost(f64),
    AtLeast(f64),
    /// At most so much more than the floor of the same run.
    AboveFloor(f64),
    /// At most so many times the floor of the same run.
    TimesFloor(f64),
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) row: Row,
    /// Unique within the row.
    pub(crate) id: &'static str,
    pub(crate) text: &'static str,
    pub(crate) unit: Unit,
    pub(crate) budget: Budget,
}

const fn metric(row: Row, id: &'static str, text: &'static str, unit: Unit, budget: Budget) -> Metric {
    Metric { row, id, text, unit, budget }
}

/// All lines, in the order of the table.
pub(crate) const METRICS: &[Metric] = &[
    metric(
        Row::Stream,
        "p50",
        "latency per token p50, 1 stream at 500/s",
        Unit::Micros,
        Budget::AboveFloor(110.0),
    ),
    metric(Row::Stream, "p99", "  the same, p99", Unit::Micros, Budget::None),
    metric(Row::Stream, "cpu", "  daemon CPU per token", Unit::Micros, Budget::None),
    metric(
        Row::StreamUnix,
        "p50",
        "latency per token p50, 1 stream, unix socket",
        Unit::Micros,
        Budget::AboveFloor(110.0),
    ),
    metric(Row::StreamUnix, "p99", "  the same, p99", Unit::Micros, Budget::None),
    metric(
        Row::Streams,
        "p50",
        "latency per token p50, 50 streams at 50/s",
        Unit::Micros,
        Budget::AtMost(2000.0),
    ),
    metric(Row::Streams, "p99", "  the same, p99", Unit::Micros, Budget::None),
    metric(Row::Streams, "cpu", "  daemon CPU per token", Unit::Micros, Budget::AtMost(90.0)),
    metric(
        Row::StreamsFast,
        "p50",
        "latency per token p50, 50 streams at 500/s",
        Unit::Micros,
        Budget::AtMost(5000.0),
    ),
    metric(Row::StreamsFast, "cpu", "  daemon CPU per token", Unit::Micros, Budget::AtMost(25.0)),
    metric(Row::Burst, "rate", "burst of 1,000 tokens", Unit::PerSecond, Budget::AtLeast(100_000.0)),
    metric(
        Row::Sessions,
        "failed",
        "200 sessions at once, one turn each",
        Unit::Failures,
        Budget::AtMost(0.0),
    ),
    metric(
        Row::SessionsMany,
        "failed",
        "1,000 sessions at once, one turn each",
        Unit::Failures,
        Budget::AtMost(0.0),
    ),
    metric(Row::SessionsMany, "rate", "  tokens per second", Unit::PerSecond, Budget::None),
    metric(Row::SessionsMany, "peak", "  daemon memory at the peak", Unit::Megabytes, Budget::AtMost(100.0)),
    metric(Row::SessionsMany, "idle", "  daemon memory 5 s later", Unit::Megabytes, Budget::AtMost(60.0)),
    metric(Row::Start, "cold", "exec of `gander serve` to first answer", Unit::Millis, Budget::AtMost(60.0)),
    metric(Row::Start, "status", "`gander status`, daemon running", Unit::Millis, Budget::AtMost(20.0)),
    metric(
        Row::FirstToken,
        "above",
        "first token p50, above the provider's own",
        Unit::Millis,
        Budget::AtMost(2.0),
    ),
    metric(Row::IdleWatch, "each", "memory of an idle watch", Unit::Kilobytes, Budget::AtMost(15.0)),
    metric(Row::Echo, "p50", "call of an echo tool on stdio, p50", Unit::Micros, Budget::AboveFloor(150.0)),
    metric(
        Row::Builtin,
        "p50",
        "call of a builtin tool (read a file), p50",
        Unit::Micros,
        Budget::AtMost(210.0),
    ),
    metric(
        Row::Hung,
        "p99",
        "call p99, 7 servers at once, an 8th hangs",
        Unit::Micros,
        Budget::TimesFloor(2.0),
    ),
    metric(
        Row::Servers,
        "all",
        "start of 20 stdio servers, until all are ready",
        Unit::Millis,
        Budget::AtMost(1000.0),
    ),
    metric(
        Row::RestStream,
        "p50",
        "REST: latency per token p50, 1 stream at 500/s",
        Unit::Micros,
        Budget::AboveFloor(100.0),
    ),
    metric(Row::RestStream, "p99", "  the same, p99", Unit::Micros, Budget::None),
    metric(Row::RestStream, "cpu", "  daemon CPU per token", Unit::Micros, Budget::None),
    metric(Row::RestStream, "window", "  p50 through `gander agent`", Unit::Micros, Budget::None),
    metric(Row::RestBurst, "rate", "REST: burst of 1,000 tokens", Unit::PerSecond, Budget::AtLeast(60_000.0)),
    metric(
        Row::RestSessions,
        "failed",
        "REST: 200 sessions at once, one turn each",
        Unit::Failures,
        Budget::AtMost(0.0),
    ),
    metric(
        Row::RestEcho,
        "p50",
        "REST: call of an echo tool on stdio, p50",
        Unit::Micros,
        Budget::AtMost(300.0),
    ),
    metric(
        Row::Adapters,
        "agent",
        "exec of `gander agent` to /status 200",
        Unit::Millis,
        Budget::AtMost(20.0),
    ),
    metric(Row::Adapters, "acp", "exec of `gander acp` to initialize", Unit::Millis, Budget::AtMost(50.0)),
    metric(
        Row::Adapters,
        "new",
        "ACP session/new, three servers that take 1 s",
        Unit::Millis,
        Budget::AtMost(300.0),
    ),
];

/// A measured line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) id: &'static str,
    /// The same work without gander, if there is such a thing.
    pub(crate) floor: Option<f64>,
    pub(crate) gander: f64,
}

/// A row that ran: its lines, or why there are none.
pub(crate) struct Outcome {
    pub(crate) row: Row,
    pub(crate) result: anyhow::Result<Vec<Measured>>,
    pub(crate) took: Duration,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Micros if value < 100.0 => format!("{value:.1} µs"),
            Self::Micros => format!("{value:.0} µs"),
            Self::Millis => format!("{value:.2} ms"),
            Self::PerSecond => format!("{}/s", thousands(value)),
            Self::Failures => format!("{value:.0} failed"),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Kilobytes => format!("{value:.1} KB"),
        }
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Metric {
    fn limit(&self) -> String {
        match self.budget {
            Budget::None => "–".to_owned(),
            Budget::AtMost(most) => format!("≤ {}", self.unit.show(most)),
            Budget::AtLeast(least) => format!("≥ {}", self.unit.show(least)),
            Budget::AboveFloor(most) => format!("≤ floor + {}", self.unit.show(most)),
            Budget::TimesFloor(most) => format!("≤ {most} × floor"),
        }
    }

    /// Whether the budget holds; `None` when there is nothing to judge.
    fn holds(&self, measured: &Measured) -> Option<bool> {
        match self.budget {
            Budget::None => None,
            Budget::AtMost(most) => Some(measured.gander <= most),
            Budget::AtLeast(least) => Some(measured.gander >= least),
            Budget::AboveFloor(most) => measured.floor.map(|floor| measured.gander <= floor + most),
            Budget::TimesFloor(most) => measured.floor.map(|floor| measured.gander <= floor * most),
        }
    }
}

fn find(outcome: &Outcome, id: &str) -> Option<Measured> {
    outcome.result.as_ref().ok()?.iter().find(|measured| measured.id == id).copied()
}

/// Lines of the table with their outcome; lines of rows that did not run are left out.
fn lines(outcomes: &[Outcome]) -> impl Iterator<Item = (&'static Metric, &Outcome)> {
    METRICS
        .iter()
        .filter_map(|metric| Some((metric, outcomes.iter().find(|outcome| outcome.row == metric.row)?)))
}

/// The table as text.
pub(crate) fn render(outcomes: &[Outcome]) -> String {
    let mut cells = vec![["what", "floor", "gander gRPC", "budget", ""].map(str::to_owned)];
    for (metric, outcome) in lines(outcomes) {
        let measured = find(outcome, metric.id);
        let floor = measured.and_then(|m| m.floor).map_or_else(|| "–".to_owned(), |v| metric.unit.show(v));
        let gander = match (&measured, &outcome.result) {
            (Some(measured), _) => metric.unit.show(measured.gander),
            (None, Ok(_)) => "not measured".to_owned(),
            (None, Err(_)) => "error".to_owned(),
        };
        let verdict = match (measured.and_then(|measured| metric.holds(&measured)), &outcome.result) {
            (Some(true), _) => "✓",
            (Some(false), _) | (None, Err(_)) => "✗",
            (None, Ok(_)) => "–",
        };
        cells.push([metric.text.to_owned(), floor, gander, metric.limit(), verdict.to_owned()]);
    }
    let widths: [usize; 5] =
        std::array::from_fn(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (number, row) in cells.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
            let gap = if column == 0 { "" } else { "  " };
            // Names to the left, numbers to the right.
            let cell = if column == 0 { format!("{cell}{pad}") } else { format!("{pad}{cell}") };
            text.push_str(&format!("{gap}{cell}"));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        if number == 0 {
            text.push_str(&"─".repeat(widths.iter().sum::<usize>() + 8));
            text.push('\n');
        }
    }
    for outcome in outcomes {
        if let Err(error) = &outcome.result {
            text.push_str(&format!("\n{}: {error:#}\n", name(outcome.row)));
        }
    }
    text
}

/// The name of a row as `--rows` takes it.
pub(crate) fn name(row: Row) -> String {
    row.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// The table for programs.
pub(crate) fn to_json(outcomes: &[Outcome], quick: bool) -> Value {
    let budget = |budget: Budget| match budget {
        Budget::None => Value::Null,
        Budget::AtMost(value) => json!({ "at_most": value }),
        Budget::AtLeast(value) => json!({ "at_least": value }),
        Budget::AboveFloor(value) => json!({ "above_floor": value }),
        Budget::TimesFloor(value) => json!({ "times_floor": value }),
    };
    let metrics: Vec<Value> = lines(outcomes)
        .map(|(metric, outcome)| {
            let measured = find(outcome, metric.id);
            json!({
                "row": name(metric.row),
                "metric": metric.id,
                "text": metric.text.trim(),
                "unit": format!("{:?}", metric.unit).to_lowercase(),
                "floor": measured.and_then(|m| m.floor),
                "gander_grpc": measured.map(|m| m.gander),
                "budget": budget(metric.budget),
                "holds": measured.and_then(|m| metric.holds(&m)),
                "error": outcome.result.as_ref().err().map(|error| format!("{error:#}")),
            })
        })
        .collect();
    let seconds: Vec<Value> = outcomes
        .iter()
        .map(|outcome| json!({ "row": name(outcome.row), "seconds": outcome.took.as_secs_f64() }))
        .collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({ "version": env!("CARGO_PKG_VERSION"), "quick": quick, "cores": cores, "metrics": metrics, "took": seconds })
}

/// The value below which `share` (0 to 1) of the values are.
///
/// # Errors
/// There are no values.
pub(crate) fn percentile(values: &mut [f64], share: f64) -> anyhow::Result<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    let value = values.get(rank.saturating_sub(1));
    value.copied().ok_or_else(|| anyhow::anyhow!("nothing was measured"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(percentile(&mut values, 0.5).unwrap(), 3.0);
        assert_eq!(percentile(&mut values, 0.99).unwrap(), 5.0);
        assert_eq!(percentile(&mut values, 0.0).unwrap(), 1.0);
        assert_eq!(percentile(&mut [7.0], 0.5).unwrap(), 7.0);
        assert!(percentile(&mut [], 0.5).is_err());
    }

    #[test]
    fn budgets_are_judged() {
        let judge = |budget, floor, gander| {
            metric(Row::Echo, "x", "x", Unit::Micros, budget).holds(&Measured { id: "x", floor, gander })
        };
        assert_eq!(judge(Budget::None, None, 1.0), None);
        assert_eq!(judge(Budget::AtMost(2.0), None, 2.0), Some(true));
        assert_eq!(judge(Budget::AtMost(2.0), None, 2.1), Some(false));
        assert_eq!(judge(Budget::AtLeast(2.0), None, 1.9), Some(false));
        assert_eq!(judge(Budget::AboveFloor(2.0), Some(3.0), 5.0), Some(true));
        assert_eq!(judge(Budget::AboveFloor(2.0), Some(3.0), 5.1), Some(false));
        assert_eq!(judge(Budget::AboveFloor(2.0), None, 1.0), None);
        assert_eq!(judge(Budget::TimesFloor(2.0), Some(3.0), 6.0), Some(true));
        assert_eq!(judge(Budget::TimesFloor(2.0), Some(3.0), 6.1), Some(false));
    }

    #[test]
    fn the_table_is_aligned_and_names_errors() {
        let took = Duration::ZERO;
        let text = render(&[
            Outcome {
                row: Row::Burst,
                result: Ok(vec![Measured { id: "rate", floor: Some(132_000.0), gander: 71_000.4 }]),
                took,
            },
            Outcome { row: Row::Echo, result: Err(anyhow::anyhow!("no server")), took },
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].contains("132,000/s") && lines[2].contains("71,000/s"), "{text}");
        assert!(lines[2].ends_with('✗') && lines[3].ends_with('✗'), "{text}");
        assert!(text.ends_with("echo: no server\n"), "{text}");
        assert_eq!(lines[2].chars().count(), lines[3].chars().count(), "{text}");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
    }

    #[test]
    fn every_row_has_lines_with_their_own_names() {
        for row in Row::value_variants() {
            let mut ids: Vec<&str> = METRICS.iter().filter(|m| m.row == *row).map(|m| m.id).collect();
            assert!(!ids.is_empty(), "{row:?}");
            ids.sort_unstable();
            assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{row:?}");
        }
    }
}
