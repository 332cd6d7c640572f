//! Private instances of the services, which a test may stop, kill and starve.

use std::path::Path;
use std::process::Command;

use outlay_loadtest::rig::RigOptions;

/// Services of one test's own; stopped when dropped.
pub(crate) struct Private {
    folder: tempfile::TempDir,
    postgres_url: Option<String>,
    amqp_url: Option<String>,
}

impl Private {
    /// Starts `which`: `rabbitmq`, `postgres` or `both`. `None`, loudly, where they are not installed.
    pub(crate) fn start(which: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().to_str().expect("a name");
        let done = script().args(["private", "start", which, place]).output().expect("the script");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr);
            assert!(std::env::var_os("REQUIRE_SERVICES").is_none(), "{why}");
            eprintln!("SKIPPED, no private services: {why}");
            return None;
        }
        let value = |name: &str| {
            let line = said.lines().find_map(|line| line.trim_start_matches("export ").strip_prefix(name))?;
            Some(line.trim_start_matches('=').trim_matches(['\'', '"']).to_owned())
        };
        let (postgres_url, amqp_url) = (value("OUTLAY_TEST_POSTGRES_URL"), value("OUTLAY_TEST_AMQP_URL"));
        Some(Self { folder, postgres_url, amqp_url })
    }

    /// Has the rig use these services.
    pub(crate) fn shape(&self, options: &mut RigOptions) {
        options.postgres_url.clone_from(&self.postgres_url);
        options.amqp_url.clone_from(&self.amqp_url);
    }

    /// `kill9`, `restart`, `pause` or `resume` one of them.
    pub(crate) fn act(&self, what: &str, which: &str) {
        let done =
            script().args(["private", what, which]).arg(self.folder.path()).output().expect("the script");
        assert!(done.status.success(), "{what} {which}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Runs `rabbitmqctl` or `psql` on them.
    pub(crate) fn ctl(&self, command: &[&str]) -> String {
        let done = script().args(["private", "ctl"]).arg(self.folder.path()).args(command).output();
        let done = done.expect("the script");
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the next start makes a folder of its own.
        drop(script().args(["private", "stop"]).arg(self.folder.path()).output());
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services.sh"))
}
