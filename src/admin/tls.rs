//! Where the admin server listens: loopback in the clear, anywhere else over TLS or by explicit wish.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way at the same time; further connections wait.
const HANDSHAKES_MAX: usize = 256;

/// How the admin server may be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transport {
    /// Certificate chain and key as PEM files; `None` for plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Plain HTTP beyond this machine is wished for: something else protects it.
    pub insecure_http: bool,
}

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A socket that listens, with TLS or without.
pub enum Listening {
    /// Plain HTTP.
    Plain(TcpListener),
    /// HTTPS.
    Tls(TlsListener),
}

impl Listening {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the address is not loopback and neither TLS nor the explicit wish for plain HTTP is there,
    /// when it is taken, or when certificate or key cannot be used. Says which and what to do.
    pub async fn bind(at: SocketAddr, transport: &Transport) -> Result<Self, String> {
        permitted(at, transport)?;
        let tls = transport.tls.as_ref().map(acceptor).transpose()?;
        let tcp =
            TcpListener::bind(at).await.map_err(|error| format!("{at}: cannot listen there: {error}"))?;
        Ok(match tls {
            None => Self::Plain(tcp),
            Some(acceptor) => Self::Tls(TlsListener { tcp, acceptor, hands: FuturesUnordered::new() }),
        })
    }

    /// Where it listens, as a browser is told.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn url(&self) -> io::Result<String> {
        Ok(match self {
            Self::Plain(tcp) => format!("http://{}", tcp.local_addr()?),
            Self::Tls(tls) => format!("https://{}", tls.tcp.local_addr()?),
        })
    }

    /// Whether it speaks TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

/// Tokens must not cross a network in the clear unless somebody said so.
fn permitted(at: SocketAddr, transport: &Transport) -> Result<(), String> {
    if at.ip().to_canonical().is_loopback() || transport.tls.is_some() || transport.insecure_http {
        return Ok(());
    }
    Err(format!(
        "{at}: tokens would cross the network in the clear. Listen on 127.0.0.1, or set [admin] tls_cert and \
         tls_key, or say --insecure-http ([admin] insecure_http = true) where something else protects it, such \
         as a proxy with TLS or a port that is published on loopback only"
    ))
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, String> {
    let wrong = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
        format!("[admin] {what} {}: {error}", path.display())
    };
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong("tls_cert", &files.cert, &error))?;
    if chain.is_empty() {
        return Err(wrong("tls_cert", &files.cert, &"holds no certificate"));
    }
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong("tls_key", &files.key, &error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| wrong("tls_key", &files.key, &error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A handshake on its way; `None` when it failed or took too long.
type Handshake = BoxFuture<'static, Option<(TlsStream<TcpStream>, SocketAddr)>>;

/// Accepts connections over TLS. A client that is slow to shake hands keeps nobody else waiting.
pub struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    hands: FuturesUnordered<Handshake>,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            tokio::select! {
                Some(shaken) = self.hands.next() => {
                    if let Some(connection) = shaken {
                        return connection;
                    }
                }
                // axum's own accept waits a moment after an error such as too many open files.
                (stream, from) = Listener::accept(&mut self.tcp), if self.hands.len() < HANDSHAKES_MAX => {
                    self.hands.push(Box::pin(shake(self.acceptor.clone(), stream, from)));
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

async fn shake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    from: SocketAddr,
) -> Option<(TlsStream<TcpStream>, SocketAddr)> {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some((stream, from)),
        Ok(Err(error)) => {
            tracing::debug!(%from, %error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("127.0.0.1:1", false, true)]
    #[case("[::1]:1", false, true)]
    #[case("[::ffff:127.0.0.1]:1", false, true)]
    #[case("0.0.0.0:1", false, false)]
    #[case("[::]:1", false, false)]
    #[case("192.168.0.1:1", false, false)]
    #[case("192.168.0.1:1", true, true)]
    fn plain_http_stays_on_this_machine(
        #[case] at: &str,
        #[case] insecure_http: bool,
        #[case] allowed: bool,
    ) {
        let transport = Transport { tls: None, insecure_http };
        assert_eq!(permitted(at.parse().expect("an address"), &transport).is_ok(), allowed, "{at}");
    }
}
