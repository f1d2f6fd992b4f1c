//! Log and traces of the program.
//!
//! The log goes to stderr. With the feature `otel` and an OTLP endpoint in the environment
//! (`OTEL_EXPORTER_OTLP_ENDPOINT`, gRPC), spans of turns, tool calls and requests are exported as well. Neither ever
//! holds message texts, arguments or secrets: spans carry ids and counts.

use std::fmt::Display;

use gander_config::Environment;
use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, Registry, filter::filter_fn, layer::SubscriberExt as _};

use crate::log_writer::{CleanStderr, hide_environment, hide_in_panics};

/// Keeps the exporter alive; dropping it sends what is left.
#[derive(Default)]
pub struct Telemetry {
    #[cfg(feature = "otel")]
    provider: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        #[cfg(feature = "otel")]
        if let Some(provider) = self.provider.take() {
            // Nobody is left to tell; what could not be sent is lost with the collector.
            let _ = provider.shutdown();
        }
    }
}

/// The W3C `traceparent` of the present span, for those who work on its behalf elsewhere.
#[cfg(feature = "otel")]
pub(crate) fn trace_context() -> Option<gander_mcp::TraceContext> {
    use opentelemetry::trace::TraceContextExt as _;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    Some(std::sync::Arc::new(|| {
        let context = tracing::Span::current().context();
        let span = context.span();
        let span = span.span_context();
        let flags = span.trace_flags().to_u8();
        span.is_valid().then(|| format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id()))
    }))
}

/// Without export there are no traces to belong to.
#[cfg(not(feature = "otel"))]
pub(crate) fn trace_context() -> Option<gander_mcp::TraceContext> {
    None
}

/// What is logged: `GANDER_LOG` of the environment, else `default_filter`, both in the form of `RUST_LOG`.
fn filter(environment: &Environment, default_filter: &str) -> EnvFilter {
    let wanted = environment.get("GANDER_LOG").and_then(|text| EnvFilter::try_new(text).ok());
    wanted.unwrap_or_else(|| EnvFilter::new(default_filter))
}

/// Below `info`, `rmcp` logs messages whole, and so the pieces of a tool's output, in which nobody could find a secret that
/// is cut. No filter switches that on.
fn keeps_messages(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || !metadata.target().starts_with("rmcp")
}

/// Starts log and export. `default_filter` has the form of `RUST_LOG`; `GANDER_LOG` in the environment wins over it. Of `rmcp`
/// nothing below `info` is logged in any case.
///
/// Must be called inside a tokio runtime when traces are to be exported.
///
/// # Errors
/// An exporter that cannot be set up. The log works all the same.
pub fn start(environment: &Environment, default_filter: &str, ansi: bool) -> Result<Telemetry, impl Display> {
    hide_environment(environment);
    hide_in_panics();
    let log = tracing_subscriber::fmt::layer().with_writer(CleanStderr).with_ansi(ansi);
    let filter = filter(environment, default_filter);
    let subscriber = Registry::default().with(filter).with(filter_fn(keeps_messages)).with(log);
    install(environment, subscriber)
}

#[cfg(not(feature = "otel"))]
fn install<S>(_environment: &Environment, subscriber: S) -> Result<Telemetry, std::convert::Infallible>
where
    S: tracing::Subscriber + Send + Sync + 'static,
{
    // Fails only if the process has a subscriber already, which then stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(Telemetry::default())
}

#[cfg(feature = "otel")]
fn install<S>(environment: &Environment, subscriber: S) -> Result<Telemetry, String>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a> + Send + Sync + 'static,
{
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_otlp::WithExportConfig as _;

    let Some(endpoint) = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") else {
        let _ = tracing::subscriber::set_global_default(subscriber);
        return Ok(Telemetry::default());
    };
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = match exporter {
        Ok(exporter) => exporter,
        Err(error) => {
            let _ = tracing::subscriber::set_global_default(subscriber);
            return Err(format!("OTEL_EXPORTER_OTLP_ENDPOINT {endpoint:?}: {error}"));
        }
    };
    let resource = opentelemetry_sdk::Resource::builder().with_service_name("gander").build();
    let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder()
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("gander"));
    let _ = tracing::subscriber::set_global_default(subscriber.with(layer));
    Ok(Telemetry { provider: Some(provider) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_filter_shows_the_messages_of_rmcp() {
        for (wanted, told, others) in [
            ("trace", true, true),
            ("rmcp=trace", true, false),
            ("rmcp::service=trace,info", true, false),
            ("rmcp=error", false, false),
            ("off", false, false),
        ] {
            let environment: Environment = [("GANDER_LOG", wanted)].into_iter().collect();
            let filter = filter(&environment, "debug");
            let subscriber = Registry::default().with(filter).with(filter_fn(keeps_messages));
            tracing::subscriber::with_default(subscriber, || {
                assert!(!tracing::enabled!(target: "rmcp::service", Level::DEBUG), "{wanted}");
                assert!(!tracing::enabled!(target: "rmcp::service", Level::TRACE), "{wanted}");
                assert_eq!(tracing::enabled!(target: "rmcp::service", Level::INFO), told, "{wanted}");
                assert_eq!(tracing::enabled!(target: "gander_mcp", Level::DEBUG), others, "{wanted}");
            });
        }
    }
}
