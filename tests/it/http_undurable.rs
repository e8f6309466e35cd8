//! Ids that the ledger does not have: never made, lost, or still on their way.

use flashgate::domain::bytes::put_uint;
use flashgate::domain::entry::{RawEntry, Slip, set_sale_index};
use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::lane::Nonce;
use flashgate::domain::reservation_id::{IdKey, Place, ReservationId};
use flashgate::domain::time::Millis;
use flashgate::domain::trace::TraceId;
use fred::interfaces::{ClientLike, StreamsInterface};
use serde_json::json;

use crate::support::shop::{ID_KEY, LANE, Shop, Wish};
use crate::support::web::Web;

const NONCE: Nonce = Nonce([9; 8]);

fn made_at(epoch: u32, seq: u64) -> ReservationId {
    ID_KEY.seal(LANE, Place::new(epoch, seq, 0, NONCE))
}

/// The lane is open at this epoch and its cursor at this entry.
async fn cursor(shop: &Shop, epoch: u32, seq: u64) {
    shop.sql(&format!(
        "UPDATE lane SET epoch = {epoch}, state = 'open', cursor_epoch = {epoch}, cursor_seq = {seq} WHERE lane = 3"
    ))
    .await;
}

/// What each call answers about this id: GET, commit, release, extend.
async fn all(web: &Web, id: &str) -> [(u16, String); 4] {
    let path = format!("/api/inventory/reservations/{id}");
    let [commit, release, extend] = ["commit", "release", "extend"].map(|verb| format!("{path}/{verb}"));
    let answers = futures::join!(
        web.get(&path),
        web.post(&commit, json!({})),
        web.post(&release, json!({})),
        web.post(&extend, json!({"ttlSeconds": 60})),
    );
    [answers.0, answers.1, answers.2, answers.3].map(|answer| {
        let word = answer.body["code"].as_str().or(answer.body["status"].as_str());
        (answer.status.as_u16(), word.unwrap_or("neither").to_owned())
    })
}

fn each(status: u16, code: &str) -> [(u16, String); 4] {
    [(); 4].map(|()| (status, code.to_owned()))
}

#[tokio::test]
async fn an_id_that_was_never_made_is_unknown() {
    let shop = Shop::open().await;
    let web = Web::open(&shop).await;
    cursor(&shop, 2, 10).await;
    let forged = IdKey([8; 32]).seal(LANE, Place::new(1, 1, 0, NONCE)).to_string();
    let passed = made_at(2, 10).to_string();
    for id in ["o123", "..%2F", &forged, &passed] {
        assert_eq!(all(&web, id).await, each(404, "UNKNOWN_RESERVATION"), "{id}");
    }
}

#[tokio::test]
async fn what_a_closed_epoch_left_behind_is_lost() {
    let shop = Shop::open().await;
    let web = Web::open(&shop).await;
    cursor(&shop, 2, 0).await;
    let id = made_at(1, 5);
    let [get, endings @ ..] = all(&web, &id.to_string()).await;
    assert_eq!(get, (200, "REJECTED".to_owned()));
    for answer in endings {
        assert_eq!(answer, (409, "RESERVATION_REJECTED".to_owned()));
    }
    let body = web.get(&format!("/api/inventory/reservations/{id}")).await.body;
    let expected = json!({"reservationId": id.to_string(), "status": "REJECTED", "cause": "lost", "ack": "accepted"});
    assert_eq!(body, expected);
    let commit = web
        .post(&format!("/api/inventory/reservations/{id}/commit"), json!({}))
        .await;
    assert_eq!(commit.body["cause"], "lost");
}

#[tokio::test]
async fn during_a_recovery_nothing_is_called_lost() {
    let shop = Shop::open().await;
    let web = Web::open(&shop).await;
    shop.sql("UPDATE lane SET epoch = 2, state = 'closed', cursor_epoch = 1, cursor_seq = 4 WHERE lane = 3")
        .await;
    let [get, commit, release, extend] = all(&web, &made_at(1, 5).to_string()).await;
    assert_eq!(
        get,
        (503, "STOCK_UNAVAILABLE".to_owned()),
        "its entry may yet be settled"
    );
    for answer in [commit, release, extend] {
        assert_eq!(answer, (503, "LEDGER_UNAVAILABLE".to_owned()));
    }
}

#[tokio::test]
async fn an_accepted_reservation_reads_from_the_queue() {
    let shop = Shop::open().await;
    let web = Web::open(&shop).await;
    cursor(&shop, 2, 0).await;
    let now = shop.ledger.now().await.expect("Postgres answers");
    queue(&web, 2, 1, now).await;
    // A silence since then is in the deadline already.
    shop.sql("INSERT INTO stall (from_at, until_at) VALUES (now() - interval '1 h', now() + interval '10 s')")
        .await;
    let id = made_at(2, 1);
    let body = web.get(&format!("/api/inventory/reservations/{id}")).await.body;
    assert_eq!(
        (&body["status"], &body["ack"]),
        (&json!("RESERVED"), &json!("accepted"))
    );
    assert_eq!(
        (&body["orderId"], &body["skuId"], &body["quantity"]),
        (&json!("o77"), &json!("sku1"), &json!(3))
    );
    assert_eq!(body["createdAt"], now.to_string());
    let due: chrono::DateTime<chrono::Utc> = serde_json::from_value(body["expiresAt"].clone()).expect("an instant");
    let moved = due.timestamp_millis() - now.0 - 900_000;
    assert!((40_000..42_000).contains(&moved), "{moved}");
    let [_, commit, release, extend] = all(&web, &id.to_string()).await;
    for answer in [commit, release, extend] {
        assert_eq!(
            answer,
            (503, "LEDGER_UNAVAILABLE".to_owned()),
            "endings answer only when durable"
        );
    }
}

#[tokio::test]
async fn a_commit_waits_for_its_reservation_to_become_durable() {
    let shop = Shop::open().await;
    let web = Web::open(&shop).await;
    // The fixture makes its reservations in epoch 1, from seq 1 on.
    cursor(&shop, 1, 0).await;
    let id = ID_KEY.seal(LANE, Place::new(1, 1, 0, Nonce(1u64.to_be_bytes())));
    let path = format!("/api/inventory/reservations/{id}/commit");
    let commit = web.post(&path, json!({"paymentId": "p1"}));
    let durable = async {
        tokio::task::yield_now().await;
        assert_eq!(shop.reserve(Wish::default()).await, id);
        cursor(&shop, 1, 1).await;
    };
    let (answer, ()) = futures::join!(commit, durable);
    assert_eq!(
        (answer.status.as_u16(), &answer.body["status"]),
        (200, &json!("COMMITTED"))
    );
}

#[tokio::test]
async fn without_redis_what_is_durable_ends_and_the_rest_is_503() {
    let shop = Shop::open().await;
    // A port that nobody listens on.
    let web = Web::with_redis(&shop, "redis://127.0.0.1:1".to_owned()).await;
    cursor(&shop, 2, 0).await;
    let id = shop.reserve(Wish::default()).await;
    let path = format!("/api/inventory/reservations/{id}");
    assert_eq!(web.get(&path).await.status, 200);
    assert_eq!(web.post(&format!("{path}/commit"), json!({})).await.status, 200);
    assert_eq!(
        all(&web, &made_at(2, 1).to_string()).await,
        each(503, "STOCK_UNAVAILABLE")
    );
}

/// Writes the entry of a call that reserved 3 units of the sale.
async fn queue(web: &Web, epoch: u32, seq: u64, at: Millis) {
    let slip = Slip {
        explicit_key: false,
        quantity: 3,
        ttl_ms: 0,
        key: KeyHash::order_line("o77", "sku1", "wh1"),
        line: KeyHash::order_line("o77", "sku1", "wh1"),
        fingerprint: Fingerprint([1; 8]),
        trace: TraceId([2; 16]),
        order: "o77".into(),
        user: None,
    };
    let mut body = slip.pack(1);
    set_sale_index(&mut body, 1);
    let mut items = Vec::new();
    for value in [1, 97, 900_000] {
        put_uint(&mut items, value, 4);
    }
    let raw = RawEntry {
        id: (epoch, seq),
        kind: b"reserve".into(),
        nonce: NONCE.0.into(),
        prev: vec![0; 8],
        time: at.0.to_string().into(),
        total: b"1".into(),
        first: b"0".into(),
        items,
        body,
        sum: Vec::new(),
    };
    let sum = raw.digest().expect("one slip").into();
    let fields: Vec<(&str, Vec<u8>)> = vec![
        ("kind", raw.kind),
        ("nonce", raw.nonce),
        ("prev", raw.prev),
        ("time", raw.time),
        ("total", raw.total),
        ("first", raw.first),
        ("items", raw.items),
        ("body", raw.body),
        ("sum", sum),
    ];
    let config = fred::types::config::Config::from_url(&web.redis_url).expect("the URL is good");
    let client = fred::clients::Client::new(config, None, None, None);
    client.init().await.expect("Redis answers");
    let key = format!("fg:{{{}-{LANE}}}:queue", web.namespace);
    let fields: Vec<(&str, &[u8])> = fields.iter().map(|(name, value)| (*name, value.as_slice())).collect();
    let _: String = client
        .xadd(key, false, None::<()>, format!("{epoch}-{seq}"), fields)
        .await
        .expect("Redis answers");
    client.quit().await.expect("Redis answers");
}
