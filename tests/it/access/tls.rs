//! Where it may listen, and TLS.

use std::io::Write as _;

use super::{House, config, outlay};

#[test]
fn plain_http_beyond_this_machine_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = format!("sqlite:{}", folder.path().join("outlay.db").display());
    for command in [&["admin", "--listen", "0.0.0.0:0"][..], &["admin", "--listen", "[::]:0"]] {
        let refused = outlay(folder.path(), &store, command);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{said}");
        for words in ["in the clear", "tls_cert", "--insecure-http"] {
            assert!(said.contains(words), "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_it_listens_anywhere_and_a_stranger_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("tls.pem"), include_str!("tls.pem")).expect("written");
    std::fs::write(path("tls.key"), include_str!("tls.key")).expect("written");
    let text = config("[admin]\ntls_cert = \"tls.pem\"\ntls_key = \"tls.key\"\n");
    std::fs::write(path("outlay.toml"), text).expect("written");
    let store = format!("sqlite:{}", path("outlay.db").display());
    let seeded = outlay(folder.path(), &store, &["migrate"]);
    assert!(seeded.status.success(), "{}", String::from_utf8_lossy(&seeded.stderr));
    let house = House::open(folder, store, &[]).await;
    assert!(house.url.starts_with("https://127.0.0.1:"), "{}", house.url);
    // Somebody who connects and says nothing, and somebody who speaks no TLS.
    let address = house.url.trim_start_matches("https://").to_owned();
    let silent = std::net::TcpStream::connect(&address).expect("connected");
    let mut clear = std::net::TcpStream::connect(&address).expect("connected");
    clear.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").expect("written");
    for _ in 0..3 {
        assert_eq!(house.get("/me", "admin").await.status, 200);
    }
    drop(silent);
    let half = std::fs::read_to_string(house.folder.path().join("outlay.toml")).expect("text");
    std::fs::write(house.folder.path().join("half.toml"), half.replace("tls_key", "# tls_key"))
        .expect("written");
    let refused = house.outlay(&["admin", "--config", "half.toml"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("tls_key"));
}
