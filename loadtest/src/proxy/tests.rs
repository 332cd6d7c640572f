//! Every rule over real sockets. Nothing waits for a span: tests poll what the proxy says it has done.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Done, Proxy, Rule, Way};

const PATIENCE: Duration = Duration::from_secs(20);

/// A service that says everything again, and how much it has heard.
async fn echo() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let heard = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while let Ok(size @ 1..) = stream.read(&mut buffer).await {
                    counted.fetch_add(size as u64, SeqCst);
                    if stream.write_all(&buffer[..size]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (addr, heard)
}

async fn way() -> (Proxy, TcpStream, Arc<AtomicU64>) {
    let (service, heard) = echo().await;
    let proxy = Proxy::to(service).await.expect("a proxy");
    let client = TcpStream::connect(proxy.addr()).await.expect("connected");
    (proxy, client, heard)
}

async fn said_again(client: &mut TcpStream, text: &str) {
    client.write_all(text.as_bytes()).await.expect("sent");
    let mut back = vec![0; text.len()];
    client.read_exact(&mut back).await.expect("an echo");
    assert_eq!(back, text.as_bytes());
}

async fn until(what: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < end, "it never came to that");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn is_reset(client: &mut TcpStream) {
    let mut rest = [0; 16];
    let read = tokio::time::timeout(PATIENCE, client.read(&mut rest)).await.expect("an end");
    assert_eq!(read.expect_err("no orderly end").kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_is_said_arrives_and_an_orderly_end_too() {
    let (proxy, mut client, _) = way().await;
    said_again(&mut client, "hello").await;
    assert_eq!(proxy.live().len(), 1);
    drop(client);
    until(|| proxy.live().is_empty()).await;
    assert_eq!(proxy.done(), Done { accepted: 1, bytes: 10, ..Done::default() });
}

#[tokio::test]
async fn a_reset_hits_who_is_there_and_nobody_else() {
    let (proxy, mut client, _) = way().await;
    said_again(&mut client, "hello").await;
    assert_eq!(proxy.strike(Rule::Reset), 1);
    // It is not called off before anybody has heard of it.
    proxy.set(Rule::Pass);
    is_reset(&mut client).await;
    let mut next = TcpStream::connect(proxy.addr()).await.expect("connected");
    said_again(&mut next, "hello").await;
    assert_eq!(proxy.done().reset, 1);
    assert_eq!(proxy.strike_some(&[99], Rule::Reset), 0);
    said_again(&mut next, "still there").await;
}

#[tokio::test]
async fn a_black_hole_takes_everything_and_ends_in_a_reset() {
    let (proxy, mut client, heard) = way().await;
    said_again(&mut client, "hello").await;
    assert_eq!(proxy.set(Rule::BlackHole(Way::Both)), 1);
    client.write_all(b"lost").await.expect("taken");
    until(|| proxy.done().swallowed == 1).await;
    let mut late = TcpStream::connect(proxy.addr()).await.expect("accepted all the same");
    late.write_all(b"lost too").await.expect("taken");
    until(|| proxy.done().swallowed == 2).await;
    assert_eq!(heard.load(SeqCst), 5, "nothing of it arrived");
    assert_eq!(proxy.set(Rule::Pass), 2);
    is_reset(&mut client).await;
    is_reset(&mut late).await;
}

#[tokio::test]
async fn a_black_hole_of_one_way_lets_the_other_pass() {
    let (proxy, mut client, heard) = way().await;
    said_again(&mut client, "hello").await;
    proxy.set(Rule::BlackHole(Way::Down));
    client.write_all(b"heard, and not answered").await.expect("sent");
    until(|| proxy.done().swallowed == 1).await;
    assert_eq!(heard.load(SeqCst), 5 + 23);
    proxy.set(Rule::Pass);
    is_reset(&mut client).await;
}

#[tokio::test]
async fn a_connection_that_lost_nothing_goes_on_behind_the_black_hole() {
    let (proxy, mut client, _) = way().await;
    said_again(&mut client, "hello").await;
    proxy.set(Rule::BlackHole(Way::Both));
    proxy.set(Rule::Pass);
    said_again(&mut client, "hello again").await;
    assert_eq!(proxy.done().swallowed, 0);
}

#[tokio::test]
async fn a_cut_comes_after_so_many_bytes() {
    let (proxy, mut client, _) = way().await;
    said_again(&mut client, "hello").await;
    proxy.strike(Rule::Cut(Way::Down, 3));
    client.write_all(b"abcdef").await.expect("sent");
    let mut first = [0; 3];
    // A reset may overtake what was sent before it; then there is nothing to read at all.
    if client.read_exact(&mut first).await.is_ok() {
        assert_eq!(&first, b"abc");
        is_reset(&mut client).await;
    }
    until(|| proxy.done().cut == 1).await;
    assert_eq!(proxy.done().bytes, 10 + 6 + 3);
    let mut next = TcpStream::connect(proxy.addr()).await.expect("connected");
    said_again(&mut next, "abcdef").await;
}

#[tokio::test]
async fn a_delay_is_at_least_that_long() {
    let (proxy, mut client, _) = way().await;
    proxy.set(Rule::Delay(Duration::from_millis(30)));
    let began = Instant::now();
    said_again(&mut client, "hello").await;
    assert!(began.elapsed() >= Duration::from_millis(60), "there and back: {:?}", began.elapsed());
    assert_eq!(proxy.done().delayed, 1);
}

#[tokio::test]
async fn a_service_that_is_away_is_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = listener.local_addr().expect("an address");
    drop(listener);
    let proxy = Proxy::to(nobody).await.expect("a proxy");
    let mut client = TcpStream::connect(proxy.addr()).await.expect("accepted");
    is_reset(&mut client).await;
    until(|| proxy.done().refused == 1).await;
}

#[tokio::test]
async fn only_this_machine_is_reached() {
    let refused = Proxy::to("192.0.2.1:80".parse().expect("an address")).await;
    assert!(refused.expect_err("refused").to_string().contains("192.0.2.1:80 is not a loopback address"));
}
