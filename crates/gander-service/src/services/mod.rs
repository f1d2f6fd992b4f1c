//! The services, one file per family, and their routes.

mod config;
mod content;
mod extension;
mod history;
mod host;
mod interaction;
mod provider;
mod recipe;
mod resource;
mod schedule;
mod session;
mod session_requests;
mod system;
mod tool;
mod turn;

use gander_proto::v1::{
    config_service_server::ConfigServiceServer, extension_service_server::ExtensionServiceServer,
    host_service_server::HostServiceServer, interaction_service_server::InteractionServiceServer,
    provider_service_server::ProviderServiceServer, recipe_service_server::RecipeServiceServer,
    schedule_service_server::ScheduleServiceServer, session_service_server::SessionServiceServer,
    system_service_server::SystemServiceServer, tool_service_server::ToolServiceServer,
    turn_service_server::TurnServiceServer,
};
use prost::Message;
use tonic::{server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::util::MapResponseLayer;

use crate::{Api, MAX_REQUEST_BYTES, canonical, complete, immediately, paging::Filters};

macro_rules! add {
    ($routes:ident, $health:ident, $api:ident: $($server:ident),* $(,)?) => {$(
        let $routes = $routes.add_service(
            $server::new($api.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
        );
        $health.push(<$server<Api> as NamedService>::NAME);
    )*};
}

pub(crate) fn routes(api: &Api) -> Routes {
    let routes = Routes::default();
    let mut names = vec![""];
    add!(
        routes, names, api: SessionServiceServer, TurnServiceServer, InteractionServiceServer, HostServiceServer,
        ExtensionServiceServer, ToolServiceServer, ProviderServiceServer, ConfigServiceServer, RecipeServiceServer,
        ScheduleServiceServer, SystemServiceServer,
    );
    let (reporter, health) = tonic_health::server::health_reporter();
    let routes = with_reflection(routes.add_service(health), api.options.reflection);
    report_health(api, reporter, names);
    let router = routes.into_axum_router().layer(MapResponseLayer::new(complete::complete));
    Routes::from(router)
}

fn report_health(api: &Api, reporter: HealthReporter, names: Vec<&'static str>) {
    for name in &names {
        immediately(reporter.set_service_status(*name, ServingStatus::Serving));
    }
    let draining = api.engine.draining();
    // Ends with the drain; a daemon without one ends with its process.
    tokio::spawn(async move {
        draining.cancelled().await;
        for name in names {
            reporter.set_service_status(name, ServingStatus::NotServing).await;
        }
    });
}

fn with_reflection(routes: Routes, wanted: bool) -> Routes {
    if !wanted {
        return routes;
    }
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(gander_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "reflection is off: the embedded descriptor set cannot be read");
            routes
        }
    }
}

/// What a page token of `request` must fit. The caller has cleared page size and token.
pub(crate) fn filters<M: Message>(method: &str, request: &M) -> Filters {
    let hash = canonical::request_hash(&format!("{method}Request"), request);
    Filters::new(method, &[hash.as_bytes()])
}
