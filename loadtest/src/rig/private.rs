//! Private instances of the services, which a drill may stop, kill and starve.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail};

use super::RigOptions;

/// The script that starts them, where this crate was built and where it is run.
const SCRIPTS: [&str; 2] =
    [concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/services.sh"), "scripts/services.sh"];

/// Services of one's own; stopped and removed when dropped.
#[derive(Debug)]
pub struct Private {
    script: PathBuf,
    folder: PathBuf,
    postgres_url: Option<String>,
    amqp_url: Option<String>,
}

/// Private services cannot be started here.
#[derive(Debug)]
pub struct Unavailable(String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no private services: {}", self.0)
    }
}

impl std::error::Error for Unavailable {}

impl Private {
    /// Starts `which`: `rabbitmq`, `postgres` or `both`.
    ///
    /// # Errors
    /// [`Unavailable`] where they are not installed or do not start, with what the script said.
    pub async fn start(which: &str) -> Result<Self> {
        let script = SCRIPTS.iter().map(PathBuf::from).find(|script| script.exists());
        let Some(script) = script else {
            bail!(Unavailable(format!("{} is missing; run it in the repository", SCRIPTS[1])));
        };
        let script = script.canonicalize()?;
        let mark = format!("outlay-private-{}-{:x}", std::process::id(), rand::random::<u32>());
        let folder = std::env::temp_dir().join(mark);
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        // From here on dropping it stops what has been started.
        let mut services = Self { script, folder, postgres_url: None, amqp_url: None };
        let done = services.run(&["start", which], &[]).await?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        if !done.status.success() {
            bail!(Unavailable(String::from_utf8_lossy(&done.stderr).trim().to_owned()));
        }
        let value = |name: &str| {
            let line = said.lines().find_map(|line| line.trim_start_matches("export ").strip_prefix(name))?;
            Some(line.trim_start_matches('=').trim_matches(['\'', '"']).to_owned())
        };
        services.postgres_url = value("OUTLAY_TEST_POSTGRES_URL");
        services.amqp_url = value("OUTLAY_TEST_AMQP_URL");
        Ok(services)
    }

    /// Has a rig use these services, and the usual ones for what is not among them.
    pub fn shape(&self, options: &mut RigOptions) {
        options.postgres_url.clone_from(&self.postgres_url);
        options.amqp_url.clone_from(&self.amqp_url);
    }

    /// Where this Postgres is, if it is among them.
    #[must_use]
    pub fn postgres_url(&self) -> Option<&str> {
        self.postgres_url.as_deref()
    }

    /// `kill9`, `restart`, `pause` or `resume` one of them.
    ///
    /// # Errors
    /// When that fails, with what the script said.
    pub async fn act(&self, what: &str, which: &str) -> Result<()> {
        succeeded(&[what, which], &self.run(&[what, which], &[]).await?)
    }

    /// Runs `rabbitmqctl` or `psql` on them, and answers what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn ctl(&self, command: &[&str]) -> Result<String> {
        let done = self.run(&["ctl"], command).await?;
        succeeded(command, &done)?;
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Runs the script on this folder.
    async fn run(&self, before: &[&str], after: &[&str]) -> Result<Output> {
        let mut command = tokio::process::Command::new(&self.script);
        command.arg("private").args(before).arg(&self.folder).args(after);
        Ok(command.output().await?)
    }
}

fn succeeded(what: &[&str], done: &Output) -> Result<()> {
    if !done.status.success() {
        bail!("{}: {}", what.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

impl Drop for Private {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the next start makes a folder of its own.
        drop(Command::new(&self.script).args(["private", "stop"]).arg(&self.folder).output());
        drop(std::fs::remove_dir_all(Path::new(&self.folder)));
    }
}
