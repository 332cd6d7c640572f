//! `outlay admin`: the HTTP API and the console until it is asked to end.

use std::net::SocketAddr;

use clap::Args;
use serde_json::json;

use super::{Global, output};
use crate::app::{self, AdminSpec, Failed};

/// Arguments of `outlay admin`.
#[derive(Debug, Args)]
pub(super) struct AdminArgs {
    /// Listen here [default: [admin] listen of the configuration, 127.0.0.1:8700]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Listen beyond this machine without TLS: something else protects it
    #[arg(long)]
    insecure_http: bool,
}

pub(super) async fn run(global: &Global, args: &AdminArgs) -> Result<(), Failed> {
    let spec =
        AdminSpec { options: global.options(), listen: args.listen, insecure_http: args.insecure_http };
    app::serve_admin(spec, |url| {
        if global.json {
            output::say_json(&json!({ "url": url }));
        } else {
            output::say(&format!("outlay admin: {url}"));
        }
    })
    .await
}
