//! A network that fails on demand: a TCP proxy on loopback between a fleet and one of its services.
//!
//! What happens to a connection is a [`Rule`], which may change at any moment, for one connection or for
//! all of them and those to come. The proxy counts what it did to connections that were alive, so that a
//! drill can show that its faults have happened.

#![expect(clippy::disallowed_methods, reason = "a proxy owns its task")]

mod pass;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rule {
    /// Everything is passed on.
    #[default]
    Pass,
    /// Everything is passed on, each piece this much later.
    Delay(Duration),
    /// What goes this way is taken and never arrives; the connection stays open. A connection that has
    /// lost something ends with a reset as soon as another rule applies: nobody could go on with it.
    BlackHole(Way),
    /// It ends with a reset after so many more bytes have gone this way, wherever in a message that is.
    Cut(Way, u64),
    /// It ends with a reset at once.
    Reset,
}

/// A direction, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the service.
    Up,
    /// From the service to the client.
    Down,
    /// Both.
    Both,
}

impl Way {
    fn covers(self, other: Self) -> bool {
        self == Self::Both || self == other
    }
}

/// Hears what a service says on one connection, as far as it is passed on.
pub type Ear = Box<dyn FnMut(&[u8]) + Send>;
/// Makes an ear for each connection.
pub type Listen = Arc<dyn Fn() -> Ear + Send + Sync>;

/// What was done so far, by connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Accepted from clients.
    pub accepted: u64,
    /// Could not be passed on, because the service did not answer.
    pub refused: u64,
    /// Ended by [`Rule::Reset`].
    pub reset: u64,
    /// Ended by [`Rule::Cut`].
    pub cut: u64,
    /// Of which something was lost by [`Rule::BlackHole`].
    pub swallowed: u64,
    /// Of which something was late by [`Rule::Delay`].
    pub delayed: u64,
    /// Bytes that were passed on.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    refused: AtomicU64,
    reset: AtomicU64,
    cut: AtomicU64,
    swallowed: AtomicU64,
    delayed: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Shared {
    counters: Counters,
    table: Mutex<Table>,
}

/// The live connections and the rule for those to come.
#[derive(Debug, Default)]
struct Table {
    next: u64,
    rule: Rule,
    live: BTreeMap<u64, watch::Sender<Rule>>,
}

/// A running proxy; dropped, it ends with every connection.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of loopback and passes connections on to `service`.
    ///
    /// # Errors
    /// When `service` is not on loopback, or no port is free.
    pub async fn to(service: SocketAddr) -> Result<Self> {
        Self::overheard(service, Arc::new(|| Box::new(|_| {}))).await
    }

    /// As [`Proxy::to`], and somebody listens.
    ///
    /// # Errors
    /// As [`Proxy::to`].
    pub async fn overheard(service: SocketAddr, listen: Listen) -> Result<Self> {
        ensure!(
            service.ip().is_loopback(),
            "{service} is not a loopback address: drills stay on this machine"
        );
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a port for the proxy")?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = tokio::spawn(accept(listener, service, Arc::clone(&shared), listen));
        Ok(Self { addr, shared, accepting })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What has been done so far.
    #[must_use]
    pub fn done(&self) -> Done {
        let counters = &self.shared.counters;
        Done {
            accepted: counters.accepted.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            reset: counters.reset.load(Relaxed),
            cut: counters.cut.load(Relaxed),
            swallowed: counters.swallowed.load(Relaxed),
            delayed: counters.delayed.load(Relaxed),
            bytes: counters.bytes.load(Relaxed),
        }
    }

    /// The live connections, in the order in which they came.
    #[must_use]
    pub fn live(&self) -> Vec<u64> {
        self.shared.table().live.keys().copied().collect()
    }

    /// From now on this rule, for every connection there is and for those to come. Answers how many there are.
    pub fn set(&self, rule: Rule) -> usize {
        let mut table = self.shared.table();
        table.rule = rule;
        table.tell(|_| true, rule)
    }

    /// This rule for every connection there is; those to come are left alone. Answers how many there are.
    pub fn strike(&self, rule: Rule) -> usize {
        self.shared.table().tell(|_| true, rule)
    }

    /// This rule for some of the connections there are. Answers how many of them live.
    pub fn strike_some(&self, connections: &[u64], rule: Rule) -> usize {
        self.shared.table().tell(|id| connections.contains(&id), rule)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self) -> (u64, watch::Receiver<Rule>) {
        let mut table = self.table();
        table.next += 1;
        let (sender, receiver) = watch::channel(table.rule);
        let id = table.next;
        table.live.insert(id, sender);
        (id, receiver)
    }
}

impl Table {
    fn tell(&self, which: impl Fn(u64) -> bool, rule: Rule) -> usize {
        let mut told = 0;
        for (_, sender) in self.live.iter().filter(|(id, sender)| which(**id) && !sender.is_closed()) {
            // A reset is not called off by the next rule, even where nobody has heard of it yet.
            sender.send_if_modified(|now| {
                let changes = *now != Rule::Reset;
                if changes {
                    *now = rule;
                }
                changes
            });
            told += 1;
        }
        told
    }
}

async fn accept(listener: TcpListener, service: SocketAddr, shared: Arc<Shared>, listen: Listen) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => {
                    connections.spawn(connect(near, service, Arc::clone(&shared), listen()));
                }
                // Out of file handles, most likely: some will be closed soon.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    }
}

/// One connection from its first to its last byte.
async fn connect(near: TcpStream, service: SocketAddr, shared: Arc<Shared>, ear: Ear) {
    shared.counters.accepted.fetch_add(1, Relaxed);
    let (id, rule) = shared.admit();
    match TcpStream::connect(service).await {
        Ok(far) => pass::pass(near, far, rule, &shared.counters, ear).await,
        Err(_) => {
            shared.counters.refused.fetch_add(1, Relaxed);
            pass::reset(near);
        }
    }
    shared.table().live.remove(&id);
}
