//! Bounds of what one connection, and all of them, may take: the others are served meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use flashgate::http::admission;
use flashgate::http::listen::Settings;
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http_frame::{LINE, gateway, hello, open, rest, serve, settings};

const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn where_connections_run_out_each_is_for_one_request() {
    let few = Settings {
        connections_max: 16,
        header_timeout_ms: 60_000,
        ..settings()
    };
    let served = serve(hello(), few).await;
    let mut kept = served.connect().await;
    for _ in 0..2 {
        kept.write_all(ASK).await.expect("it is sent");
        let mut answer = [0; 1024];
        let read = kept.read(&mut answer).await.expect("it is answered");
        assert!(String::from_utf8_lossy(&answer[..read]).ends_with("hello"));
    }
    let idle = join_all((0..15).map(|_| served.connect())).await;
    // Its own is the last place; the sixteenth of the others waits for it.
    let mut late = served.connect().await;
    late.write_all(ASK).await.expect("the kernel takes it");
    tokio::time::sleep(Duration::from_millis(100)).await;
    kept.write_all(ASK).await.expect("it is sent");
    let told = rest(&mut kept).await;
    assert!(told.contains("connection: close") && told.ends_with("hello"), "{told}");
    assert!(rest(&mut late).await.ends_with("hello"), "who waited is next");
    drop(idle);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_a_bounded_number_of_streams() {
    let (now, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let highest = Arc::clone(&peak);
    let slow = get(async move || {
        highest.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
        now.fetch_sub(1, Ordering::SeqCst);
    });
    let served = serve(Router::new().route("/", slow), settings()).await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .expect("a client");
    let url = format!("http://{}/", served.at);
    for answer in join_all((0..300).map(|_| client.get(&url).send())).await {
        assert_eq!(answer.expect("an answer").status(), 200);
    }
    assert_eq!(peak.load(Ordering::SeqCst), 256);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_to_send_takes_nobodys_turn() {
    let one = admission::Settings {
        in_flight_min: 1,
        in_flight_start: 1,
        delay_target_ms: 20,
        ..open()
    };
    let served = gateway(&one).await;
    let mut hanging = Vec::new();
    for _ in 0..20 {
        hanging.push(served.hang().await);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let heard = served.reserve(&[], LINE).await;
    assert_eq!(
        heard.problem(),
        (503, "LEDGER_UNAVAILABLE".into()),
        "it gets as far as that"
    );
    drop(hanging);
    served.stop().await;
}
