//! The broker and one connection to it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::topology::{self, Names};

/// Longer than a handshake takes, shorter than anybody waits for a start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For anything that the broker answers at once.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const HEARTBEAT_S: u16 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Why the broker cannot be used, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// It can never work as configured: the URL is wrong, or a queue exists with other arguments.
    #[error("{0}")]
    Misconfigured(String),
    /// It answers, and does not let us in.
    #[error("{0}")]
    Refused(String),
    /// It cannot be reached now; trying again may help.
    #[error("{0}")]
    Unreachable(String),
}

/// A broker and the names of what is ours on it. Cheap to clone; connects when asked to.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    uri: AMQPUri,
    /// The URL without its password.
    shown: String,
    names: Names,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("url", &self.0.shown).field("prefix", &self.0.names.prefix()).finish()
    }
}

impl Broker {
    /// Reads the URL; nothing is connected yet. `prefix` begins the name of every exchange and queue.
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] when the URL or the prefix cannot be used.
    pub fn new(url: &SecretString, prefix: &str) -> Result<Self, BrokerError> {
        let wrong = |why: String| {
            BrokerError::Misconfigured(format!(
                "[queue] url cannot be used: {why}. It looks like amqp://user:password@host:5672/%2f"
            ))
        };
        let text = url.expose_secret();
        let mut uri: AMQPUri = text.parse().map_err(wrong)?;
        if let Some(host) = bracketed_host(text) {
            // The parser knows names and IPv4 only, and would go to `localhost` instead.
            uri.authority.host = host.to_owned();
        }
        if prefix.len() > 100 || prefix.chars().any(|c| c.is_control() || c.is_whitespace()) {
            let why = format!("[queue] prefix {prefix:?} cannot be used: at most 100 bytes, without spaces");
            return Err(BrokerError::Misconfigured(why));
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        let authority = &uri.authority;
        let vhost = if uri.vhost == "/" { "%2f" } else { &uri.vhost };
        let shown = format!(
            "{}://{}@{}:{}/{vhost}",
            match uri.scheme {
                lapin::uri::AMQPScheme::AMQP => "amqp",
                lapin::uri::AMQPScheme::AMQPS => "amqps",
            },
            authority.userinfo.username,
            authority.host,
            authority.port
        );
        Ok(Self(Arc::new(Inner { uri, shown, names: Names::new(prefix) })))
    }

    /// What is ours on it.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.0.names
    }

    /// The URL as it may be shown: without its password.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.0.shown
    }

    /// Declares all exchanges and queues; those that exist as they should be are left alone.
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] when one exists otherwise: trying again cannot help.
    pub async fn declare(&self) -> Result<(), BrokerError> {
        let link = self.connect("declare").await?;
        let declared = topology::declare(self, &link).await;
        link.close().await;
        declared
    }

    /// Opens a connection that the broker's tools show as `outlay <role> (<prefix>)`.
    pub(super) async fn connect(&self, role: &str) -> Result<Link, BrokerError> {
        let name = format!("outlay {role} ({})", self.0.names.prefix());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connecting = Connection::connect_uri(self.0.uri.clone(), properties);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok(Link { connection: Arc::new(connection), broker: self.clone() }),
            Ok(Err(error)) => Err(self.why_not_connected(&error)),
            Err(_) => Err(self.unreachable("it did not answer within 10 s")),
        }
    }

    fn why_not_connected(&self, error: &lapin::Error) -> BrokerError {
        let shown = &self.0.shown;
        if matches!(error.kind(), ErrorKind::AuthProviderError(_)) {
            return BrokerError::Refused(format!("RabbitMQ at {shown}: {error}"));
        }
        match hint(error) {
            Some(Hint::AccessRefused) => BrokerError::Refused(format!(
                "RabbitMQ at {shown} refused the user or the password. Check [queue] url (or OUTLAY_QUEUE_URL); \
                 `rabbitmqctl authenticate_user NAME` tells whether the broker knows them"
            )),
            Some(Hint::NotAllowed) => BrokerError::Refused(format!(
                "RabbitMQ at {shown} does not let the user into the virtual host {:?}: it does not exist, or \
                 `rabbitmqctl set_permissions` is missing",
                self.0.uri.vhost
            )),
            _ => self.unreachable(&error.to_string()),
        }
    }

    fn unreachable(&self, why: &str) -> BrokerError {
        BrokerError::Unreachable(format!(
            "RabbitMQ at {} cannot be reached: {why}. Is it running, and is [queue] url right?",
            self.0.shown
        ))
    }
}

/// The host of a URL such as `amqp://[::1]:5672/`.
fn bracketed_host(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.strip_prefix('[')?.split_once(']').map(|(host, _)| host)
}

/// What an error of the broker means to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
    AccessRefused,
    NotAllowed,
    NotFound,
    PreconditionFailed,
}

/// Reads an error of the broker; `None` for a broken connection and all else.
pub(super) fn hint(error: &lapin::Error) -> Option<Hint> {
    let ErrorKind::ProtocolError(error) = error.kind() else { return None };
    match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Some(Hint::AccessRefused),
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Some(Hint::NotFound),
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => Some(Hint::PreconditionFailed),
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Some(Hint::NotAllowed),
        _ => None,
    }
}

/// One connection. It closes when the last clone and the last channel are gone.
#[derive(Clone)]
pub(super) struct Link {
    connection: Arc<Connection>,
    pub(super) broker: Broker,
}

impl Link {
    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        let opened = self.answer(self.connection.create_channel()).await;
        opened.map_err(|error| self.lost(&error))
    }

    /// Waits for an answer that comes at once unless the connection is dead.
    pub(super) async fn answer<T>(
        &self,
        asked: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, lapin::Error> {
        let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer within 10 s");
        tokio::time::timeout(ANSWER_TIMEOUT, asked).await.unwrap_or_else(|_| Err(late().into()))
    }

    pub(super) fn lost(&self, error: &lapin::Error) -> BrokerError {
        BrokerError::Unreachable(format!(
            "the connection to RabbitMQ at {} broke: {error}",
            self.broker.0.shown
        ))
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// Whether the broker has asked us to stop publishing: it is short of memory or disk.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Says goodbye, so that everything sent before is read; a dead connection is just dropped.
    pub(super) async fn close(&self) {
        if let Err(error) = self.answer(self.connection.close(200, "goodbye".into())).await {
            tracing::debug!(%error, "a connection to RabbitMQ ended without a goodbye");
        }
    }
}

/// The pause before try number `tries`, which begin at 1: doubling, and anywhere between half of it
/// and all, so that a fleet does not come back as one.
pub(super) fn pause_before(tries: u32) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
    let drawn = Uuid::now_v7().as_u128() % 1000;
    whole / 2 + whole / 2 * u32::try_from(drawn).unwrap_or(0) / 1000
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn an_url_is_shown_without_its_password() {
        let broker = Broker::new(&"amqp://ann:hush@mq.example/%2f".into(), "outlay.").expect("usable");
        assert_eq!(broker.shown(), "amqp://ann@mq.example:5672/%2f");
        assert!(!format!("{broker:?}").contains("hush"));
        assert_eq!(broker.0.uri.query.heartbeat, Some(HEARTBEAT_S));
    }

    #[rstest]
    #[case("amqp://[::1]:5672/%2f", "::1")]
    #[case("amqp://a:b@[fe80::1]/", "fe80::1")]
    #[case("amqp://a:b@127.0.0.1/", "127.0.0.1")]
    #[case("amqp://mq", "mq")]
    fn hosts_are_what_the_url_says(#[case] url: &str, #[case] host: &str) {
        assert_eq!(Broker::new(&url.into(), "").expect("usable").0.uri.authority.host, host);
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_key_to_change() {
        let error = Broker::new(&"redis://x".into(), "outlay.").expect_err("no broker");
        assert!(error.to_string().contains("[queue] url"), "{error}");
        let error = Broker::new(&"amqp://x".into(), "a b").expect_err("no prefix");
        assert!(error.to_string().contains("[queue] prefix"), "{error}");
    }

    #[test]
    fn pauses_grow_to_a_bound_and_are_never_nothing() {
        for tries in 1..40 {
            let pause = pause_before(tries);
            assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE, "{tries}: {pause:?}");
        }
    }
}
