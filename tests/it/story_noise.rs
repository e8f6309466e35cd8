//! What can be heard through: wishes that nobody can read, and noise that is not even HTTP.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::story_bad_input::{everything, open};
use crate::support::socket::{RESERVATIONS, line, reserve};

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_can_not_be_read_is_ignored() {
    let whole = open().await;
    for (order, wish) in [
        ("o1", "wait=soon"),
        ("o2", "wait=-1"),
        ("o3", "\u{e4}=1;;;"),
        ("o4", "wait=1e9"),
    ] {
        let heard = reserve(&whole, &[("prefer", wish)], &line(order, "a", json!({}))).await;
        assert_eq!(heard.status, 201, "{wish}");
    }
    whole.settled().await;
    whole.stop().await;
}

/// What is not even HTTP ends its own connection and no other one.
#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_line_hurts_nobody() {
    let whole = open().await;
    let before = everything(&whole).await;
    let body = line("o1", "a", json!({})).to_string();
    let head = |extra: &str| {
        format!("POST {RESERVATIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{extra}\r\n")
    };
    let noises = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"\0\0\0\0\r\n\r\n".to_vec(),
        head("content-length: -1\r\n").into_bytes(),
        head("content-length: 99999999999999999999\r\n").into_bytes(),
        head("content-length: 5\r\ncontent-length: 6\r\n").into_bytes(),
        format!("{}zz\r\n{body}\r\n0\r\n\r\n", head("transfer-encoding: chunked\r\n")).into_bytes(),
        format!("{}{}", head(&format!("x: {}\r\n", "y".repeat(1 << 20))), body).into_bytes(),
        // Cut off in the middle of the body.
        format!(
            "{}{}",
            head(&format!("content-length: {}\r\n", body.len())),
            &body[..10]
        )
        .into_bytes(),
    ];
    for noise in noises {
        let mut line = TcpStream::connect(whole.public).await.expect("it listens");
        // It may have hung up before it has heard all.
        line.write_all(&noise).await.ok();
        line.shutdown().await.ok();
        let mut told = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), line.read_to_end(&mut told)).await;
        assert!(
            ended.is_ok(),
            "it hangs up on {:?}",
            String::from_utf8_lossy(&noise[..noise.len().min(60)])
        );
        let told = String::from_utf8_lossy(&told);
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 4"), "{told}");
    }
    assert_eq!(everything(&whole).await, before);
    assert_eq!(reserve(&whole, &[], &line("o1", "a", json!({}))).await.status, 201);
    whole.settled().await;
    whole.stop().await;
}
