//! A way to the server that can be cut after a statement was sent and before its answer is heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Listens on a port of its own and passes everything on.
pub(crate) struct WireCutter {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl WireCutter {
    /// A way to `server`, `host:port`.
    pub(crate) async fn to(server: String) -> Self {
        Self::to_those(server, "").await
    }

    /// A way to `server` on which only connections are cut that say `name` in their first words.
    pub(crate) async fn to_those(server: String, name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let cut = Arc::new(AtomicBool::new(false));
        let knife = Arc::clone(&cut);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&server).await else { continue };
                let knife = Arc::clone(&knife);
                tokio::spawn(async move {
                    let mut words = [0; 4_096];
                    let size = near.peek(&mut words).await.unwrap_or_default();
                    let is_meant = String::from_utf8_lossy(&words[..size]).contains(name);
                    pass(near, far, if is_meant { knife } else { Arc::default() }).await
                });
            }
        });
        Self { port, cut }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The next answer of the server is not heard, and its connection is gone.
    pub(crate) fn cut_the_next_answer(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }
}

async fn pass(near: TcpStream, far: TcpStream, knife: Arc<AtomicBool>) {
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
    let there = async { tokio::io::copy(&mut near_in, &mut far_out).await };
    let back = async {
        let mut buffer = vec![0; 65_536];
        loop {
            let size = far_in.read(&mut buffer).await?;
            if size == 0 || knife.swap(false, Ordering::SeqCst) {
                return std::io::Result::Ok(());
            }
            near_out.write_all(&buffer[..size]).await?;
        }
    };
    // Whichever ends first takes the other with it.
    tokio::select! { _ = there => (), _ = back => () }
}
