//! `outlay worker`: consumes the queue until it is asked to end.

use std::net::SocketAddr;

use clap::Args;

use super::Global;
use crate::app::{self, Failed, WorkerSpec};

/// Arguments of `outlay worker`.
#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// Answer /healthz, /readyz, /metrics, the HTTP API and the console here, such as 127.0.0.1:8700
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Listen beyond this machine without TLS: something else protects it
    #[arg(long, requires = "admin")]
    insecure_http: bool,
}

pub(super) async fn run(global: &Global, args: &WorkerArgs) -> Result<u8, Failed> {
    let spec = WorkerSpec { options: global.options(), admin: args.admin, insecure_http: args.insecure_http };
    let end = app::worker(spec).await?;
    Ok(if end.interrupted { 130 } else { 0 })
}
