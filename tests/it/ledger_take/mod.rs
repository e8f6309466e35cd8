//! The ledger engine: what no sale serves, and carts.

mod at_once;
mod carts;
mod lines;
mod races;
mod rescue;

use flashgate::domain::id::{Item, OrderId, UserId};
use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::reservation::{Ending, Line, Reservation};
use flashgate::domain::reservation_id::{Kind, ReservationId};
use flashgate::domain::trace::TraceId;
use flashgate::ledger::{EndAnswer, EndAsk, TakeAnswer, TakeAsk};

use crate::support::ledger::Desk;

/// Units of one item for an order, without a key.
fn line(desk: &Desk, order: &str, item: &Item, quantity: i64) -> TakeAsk {
    ask(desk, Kind::Ledger, order, vec![(item, quantity)], Vec::new())
}

/// A cart of these items, in any order, and of these parts, without a key.
fn cart(desk: &Desk, order: &str, items: &[(&Item, i64)], parts: Vec<ReservationId>) -> TakeAsk {
    ask(desk, Kind::Cart, order, items.to_vec(), parts)
}

fn ask(desk: &Desk, kind: Kind, order: &str, mut items: Vec<(&Item, i64)>, parts: Vec<ReservationId>) -> TakeAsk {
    items.sort();
    let told: Vec<String> = items.iter().map(|(item, units)| format!("{item:?}{units}")).collect();
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    let key = match (kind, items.first()) {
        (Kind::Ledger, Some((item, _))) => KeyHash::order_line(order, item.sku.as_str(), item.location.as_str()),
        _ => KeyHash::cart(order),
    };
    TakeAsk {
        id: desk
            .id_key
            .mint(kind, flashgate::domain::time::Millis(1_700_000_000_000), rand::random()),
        order: OrderId::try_from(order).expect("an order"),
        user: UserId::try_from("ann").ok(),
        lines: items
            .into_iter()
            .map(|(item, quantity)| Line {
                item: item.clone(),
                quantity,
            })
            .collect(),
        parts,
        key,
        fingerprint: Fingerprint::of(&told),
        explicit: false,
        ttl_ms: None,
        trace: TraceId([8; 16]),
    }
}

fn keyed(ask: TakeAsk, key: &str) -> TakeAsk {
    TakeAsk {
        key: KeyHash::explicit("reserve", key),
        explicit: true,
        ..ask
    }
}

async fn take(desk: &Desk, asks: &[TakeAsk]) -> Vec<TakeAnswer> {
    let answers = desk.ledger.take(asks).await.expect("Postgres answers");
    desk.assert_books_balance().await;
    answers
}

/// The one that must succeed.
async fn taken(desk: &Desk, ask: TakeAsk) -> Reservation {
    match take(desk, &[ask]).await.remove(0) {
        TakeAnswer::Taken(reservation) => reservation,
        other => panic!("{other:?}"),
    }
}

async fn end(desk: &Desk, id: ReservationId, ending: Ending) -> EndAnswer {
    let ask = EndAsk {
        id,
        ending,
        detail: Some("p1".into()),
        key: None,
        trace: TraceId([9; 16]),
        operator: None,
        unless_in_cart: false,
        from_newer_sales: false,
    };
    let answer = desk.end(ask).await;
    desk.assert_books_balance().await;
    answer
}

/// The reservation as it stands, and its standing.
async fn read(desk: &Desk, id: ReservationId) -> Reservation {
    let found = desk.ledger.reservation(id).await.expect("Postgres answers");
    found.expect("it is there")
}

/// Makes every deadline past, and expires.
async fn expire(desk: &Desk) -> usize {
    desk.run(
        "UPDATE inventory_reservation SET expires_at = clock_timestamp() - interval '1 s' WHERE status = 'RESERVED'",
    )
    .await;
    let run = desk.ledger.expire_due(100).await.expect("Postgres answers");
    desk.assert_books_balance().await;
    run.expired
}

async fn reserved(desk: &Desk, item: &Item) -> i64 {
    desk.count(&format!(
        "SELECT reserved FROM inventory_balance WHERE sku_id = '{}'",
        item.sku
    ))
    .await
}

async fn assert_sound(desk: &Desk) {
    let audit = desk.ledger.audit().await.expect("Postgres answers");
    assert_eq!(audit.differences, [], "the ledger agrees with itself");
}
