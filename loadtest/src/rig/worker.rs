//! One worker process, its log and its probes.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// A worker process; it is killed when it is dropped.
pub struct Worker {
    child: Child,
    admin: SocketAddr,
    log: PathBuf,
}

impl Worker {
    pub(super) fn start(
        outlay: &Path,
        config: &Path,
        folder: &Path,
        environment: &[(String, String)],
    ) -> Result<Self> {
        let free = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let log = folder.join(format!("worker-{}.log", free.port()));
        let mut command = Command::new(outlay);
        command.arg("--config").arg(config).args(["worker", "--admin", &free.to_string()]);
        for name in ["OUTLAY_STORE_URL", "OUTLAY_QUEUE_URL", "OUTLAY_CONFIG", "RUST_LOG"] {
            command.env_remove(name);
        }
        let child = command
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("{} cannot be started", outlay.display()))?;
        Ok(Self { child, admin: free, log })
    }

    /// Waits until the worker says that it is ready.
    ///
    /// # Errors
    /// When it ends or takes too long, with its log.
    pub async fn ready(&self, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        while self.get("/readyz").await.is_none_or(|(status, _)| status != 200) {
            if Instant::now() > end || !self.is_running() {
                bail!("the worker is not ready: {}", self.log_text());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Whether the process lives.
    #[must_use]
    pub fn is_running(&self) -> bool {
        // A zombie has ended too; its state stands after the name in parentheses.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it answers probes.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What it logged so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal, by the name that `kill` knows.
    ///
    /// # Errors
    /// When there is no such process any more.
    pub fn signal(&self, name: &str) -> Result<()> {
        let done = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status()?;
        ensure!(done.success(), "kill -{name}: {done}");
        Ok(())
    }

    /// Ends it without warning.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end and waits for that.
    ///
    /// # Errors
    /// When it takes longer than `patience`.
    pub async fn stop(mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal("TERM")?;
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < end, "the worker does not end: {}", self.log_text());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// A page of its admin listener: status and body; `None` when nobody answers.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let ask = async {
            let mut stream = TcpStream::connect(self.admin).await.ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            let status = answer.split_whitespace().nth(1)?.parse().ok()?;
            Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
        };
        tokio::time::timeout(Duration::from_secs(2), ask).await.ok().flatten()
    }

    /// The sum over all label sets of one metric.
    pub async fn metric(&self, name: &str) -> f64 {
        let Some((200, text)) = self.get("/metrics").await else { return 0.0 };
        let is_it = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        };
        text.lines().filter(is_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The most memory it has held so far, in mebibytes.
    #[must_use]
    pub fn resident_peak_mib(&self) -> u64 {
        resident_peak_mib(self.child.id())
    }

    /// Processor time it has used so far.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        processor_time(Path::new(&format!("/proc/{}", self.child.id())))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Processor time that a process has used so far, by its folder in /proc; zero where there is none.
#[must_use]
pub fn processor_time(process: &Path) -> Duration {
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    // Fields 14 and 15, counted from the state, in hundredths of a second.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// The most memory a process has held so far; 0 where the system does not tell.
#[must_use]
pub fn resident_peak_mib(process: u32) -> u64 {
    memory_mib(process, "VmHWM:")
}

/// The memory that a process holds now; 0 where the system does not tell.
#[must_use]
pub fn resident_mib(process: u32) -> u64 {
    memory_mib(process, "VmRSS:")
}

fn memory_mib(process: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}

/// Files and connections that a process has open; 0 where the system does not tell.
#[must_use]
pub fn open_files(process: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{process}/fd")).map_or(0, |open| open.count() as u64)
}
