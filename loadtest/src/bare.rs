//! The bare pipeline: what broker, database and provider reach with nothing of ours in between.

#![expect(clippy::disallowed_methods, reason = "the bare pipeline reads the same variable")]

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use outlay_loadtest::rig::delete_queue;

/// The port that the bare pipeline expects its mock at.
const BARE_PORT: &str = "9911";
/// The queue that the bare pipeline works off, and where unless AMQP_URL says otherwise.
const BARE_QUEUE: &str = "limit.jobs";
const BARE_BROKER: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";

/// Jobs a second of its `pipe2`, the speed limit: a durable hold, the call and its settlement.
pub(crate) async fn bare_pipeline(folder: &Path, jobs: u64) -> Result<f64> {
    // It leaves without waiting for its acknowledgements: what it left would be its next run's double.
    let broker = std::env::var("AMQP_URL").unwrap_or_else(|_| BARE_BROKER.to_owned());
    delete_queue(&broker, BARE_QUEUE).await?;
    let jobs = jobs.to_string();
    let program = |name: &str| folder.join(name);
    let mut mock = Command::new(program("bare-pipeline-mock"))
        .args([BARE_PORT, "0"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{} has no bare-pipeline-mock", folder.display()))?;
    let run = |arguments: &[&str]| -> Result<String> {
        let done = Command::new(program("bare-pipeline")).args(arguments).output()?;
        ensure!(done.status.success(), "bare-pipeline: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8(done.stdout)?)
    };
    let said = run(&["publish", &jobs]).and_then(|_| run(&["pipe2", &jobs, "512", "256"]));
    mock.kill()?;
    mock.wait()?;
    let said = said?;
    let figure = said.trim().rsplit(' ').next().and_then(|word| word.strip_suffix("/s"));
    figure.and_then(|figure| figure.parse().ok()).with_context(|| format!("no figure in: {said}"))
}
