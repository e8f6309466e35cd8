//! Sold units that come back.

use flashgate::domain::id::{Item, OrderId, ReturnId};
use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::reservation::{Line, Status};
use flashgate::domain::reservation_id::{Kind, ReservationId};
use flashgate::domain::trace::TraceId;
use flashgate::ledger::once::By;
use flashgate::ledger::returns::{Condition, Excess, ReturnAnswer, ReturnAsk, ReturnUnits};
use flashgate::ledger::{EndAnswer, TakeAnswer, TakeAsk};
use serde_json::{Value, json};

use super::stock;
use crate::support::door::{Buy, Told};
use crate::support::gateway::Whole;
use crate::support::ledger::{Desk, sku};
use crate::support::shop::commit;
use crate::support::socket::{RESERVATIONS, post};

/// A gateway that has sold `units` of ten, and the reservation.
async fn sold(units: i64) -> (Whole, String) {
    let whole = Whole::empty().await;
    whole.sell("s", 10, json!({})).await;
    let id = whole.reserve(&Buy::of("o1").units(units).prefer("wait=30")).await.id();
    whole.commit(&id).await.expect(200);
    (whole, id)
}

async fn give_back(whole: &Whole, id: &str, body: Value) -> Told {
    whole
        .shop(&format!("/api/inventory/reservations/{id}/returns"), body)
        .await
}

fn line(quantity: i64) -> Value {
    json!({"skuId": "hot", "locationId": "wh1", "quantity": quantity})
}

#[tokio::test(flavor = "multi_thread")]
async fn units_come_back_in_steps_and_never_more_than_were_sold() {
    let (whole, id) = sold(5).await;
    let first = json!({"returnId": "r1", "quantity": 2, "condition": "sellable", "reason": "too small"});
    let told = give_back(&whole, &id, first.clone()).await;
    let body = told.clone().expect(201);
    let expected = json!({"returnId": "r1", "reservationId": id, "lines": [line(2)], "condition": "sellable",
                          "returnable": 3, "createdAt": body["createdAt"]});
    assert_eq!(body, expected);
    let damaged = json!({"returnId": "r2", "lines": [line(1), line(1)], "condition": "damaged"});
    assert_eq!(give_back(&whole, &id, damaged).await.expect(201)["returnable"], 1);
    let held = json!({"onHand": 9, "reserved": 0, "unavailable": 2, "sold": 5, "damaged": 2, "returned": 4});
    assert_eq!(stock(&whole, "wh1").await, held);

    let too_many = json!({"returnId": "r3", "quantity": 2, "condition": "sellable"});
    let told = give_back(&whole, &id, too_many).await;
    assert_eq!(told.problem(), (409, "RETURN_EXCEEDS_COMMITTED"));
    assert_eq!(told.body["returnable"], 1);
    assert_eq!(told.body["lines"][0]["returnable"], 1);
    assert_eq!(stock(&whole, "wh1").await, held);

    let rest = json!({"returnId": "r3", "condition": "sellable"});
    assert_eq!(give_back(&whole, &id, rest).await.expect(201)["returnable"], 0);
    let none = give_back(&whole, &id, json!({"returnId": "r4", "condition": "sellable"})).await;
    assert_eq!(
        (none.problem(), &none.body["returnable"]),
        ((409, "RETURN_EXCEEDS_COMMITTED"), &json!(0))
    );
    let again = give_back(&whole, &id, first).await;
    assert_eq!((again.replayed, again.body), (true, body));
    let events: Vec<(String, i64, String, String, String)> = sqlx::query_as(
        "SELECT event_type::text, quantity_delta, reason, reference_id, order_id FROM inventory_movement
         WHERE event_type = 'inventory_returned' ORDER BY event_id",
    )
    .fetch_all(&whole.pool)
    .await
    .expect("reads");
    let event = |units, reason: &str, id: &str| {
        let kind = "inventory_returned".to_owned();
        (kind, units, reason.to_owned(), id.to_owned(), "o1".to_owned())
    };
    let expected = [
        event(2, "return_sellable", "r1"),
        event(2, "return_damaged", "r2"),
        event(1, "return_sellable", "r3"),
    ];
    assert_eq!(events, expected);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_return_that_contradicts_its_id_changes_nothing() {
    let (whole, id) = sold(4).await;
    let first = json!({"returnId": "r1", "quantity": 1, "condition": "sellable"});
    give_back(&whole, &id, first.clone()).await.expect(201);
    for (field, value) in [
        ("quantity", json!(2)),
        ("condition", json!("damaged")),
        ("reason", json!("other")),
    ] {
        let mut other = first.clone();
        other[field] = value;
        let told = give_back(&whole, &id, other).await;
        assert_eq!(told.problem(), (422, "IDEMPOTENCY_KEY_REUSED"), "{field}");
    }
    let second = whole.reserve(&Buy::of("o2").prefer("wait=30")).await.id();
    let reserved = give_back(&whole, &second, json!({"returnId": "r2", "condition": "sellable"})).await;
    assert_eq!(
        (reserved.problem(), &reserved.body["reservationStatus"]),
        ((409, "NOT_COMMITTED"), &json!("RESERVED"))
    );
    whole.commit(&second).await.expect(200);
    assert_eq!(give_back(&whole, &second, first).await.status, 422);
    let unknown = "00000000-0000-0000-0000-000000000000";
    let told = give_back(&whole, unknown, json!({"returnId": "r2", "condition": "sellable"})).await;
    assert_eq!(told.problem(), (404, "UNKNOWN_RESERVATION"));
    for bad in [
        json!({"returnId": "r2"}),
        json!({"returnId": "r2", "condition": "wet"}),
        json!({"returnId": "r2", "condition": "sellable", "quantity": 0}),
        json!({"returnId": "r2", "condition": "sellable", "lines": []}),
        json!({"returnId": "r2", "condition": "sellable", "lines": [["hot", "wh1", 1]]}),
        json!({"returnId": "r2", "condition": "sellable", "lines": [line(1)], "quantity": 1}),
        json!({"returnId": "r 2", "condition": "sellable"}),
    ] {
        for id in [id.as_str(), "nonsense"] {
            let told = give_back(&whole, id, bad.clone()).await;
            assert_eq!(told.problem(), (400, "INVALID_REQUEST"), "{bad}");
        }
    }
    let elsewhere = json!({"skuId": "hot", "locationId": "wh9", "quantity": 1});
    let told = give_back(
        &whole,
        &id,
        json!({"returnId": "r2", "condition": "sellable", "lines": [elsewhere]}),
    )
    .await;
    assert_eq!(told.body["lines"][0]["returnable"], 0);
    assert_eq!(stock(&whole, "wh1").await["returned"], 1);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_for_one_return_however_its_reservation_stands() {
    let (whole, id) = sold(2).await;
    let open = whole.reserve(&Buy::of("o2").prefer("wait=30")).await.id();
    let keyed = async |reservation: &str, name: &str| {
        let path = format!("{RESERVATIONS}/{reservation}/returns");
        let body = json!({"returnId": name, "quantity": 1, "condition": "sellable"});
        post(&whole, &path, &[("idempotency-key", "k1")], &body).await
    };
    let refused = keyed(&open, "r1").await;
    assert_eq!(refused.problem(), (409, "NOT_COMMITTED".into()));
    assert_eq!(keyed(&id, "r2").await.status, 201, "what was refused keeps no key");
    for reservation in [&open, &id] {
        let told = keyed(reservation, "r1").await;
        assert_eq!(told.problem(), (422, "IDEMPOTENCY_KEY_REUSED".into()));
    }
    let again = keyed(&id, "r2").await;
    assert_eq!((again.status, again.replayed()), (201, true));
    assert_eq!(stock(&whole, "wh1").await["returned"], 1);
    whole.settled().await;
    whole.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_returns_at_once_as_many_count_as_were_sold() {
    let (whole, id) = sold(5).await;
    let tries = (0..24).map(|n| {
        // Each id is sent three times.
        let body = json!({"returnId": format!("r{}", n % 8), "quantity": 1, "condition": "sellable"});
        give_back(&whole, &id, body)
    });
    let told = futures::future::join_all(tries).await;
    let of = |status: u16| told.iter().filter(move |told| told.status == status);
    assert_eq!(of(201).filter(|told| !told.replayed).count(), 5);
    assert_eq!(of(201).count() + of(409).count(), 24, "{told:?}");
    assert_eq!(stock(&whole, "wh1").await["returned"], 5);
    whole.settled().await;
    whole.stop().await;
}

/// Two lines, taken in the ledger and committed.
async fn cart(desk: &Desk) -> (ReservationId, [Item; 2]) {
    let items = [desk.stock("a", 10).await, desk.stock("b", 10).await];
    let now = desk.ledger.now().await.expect("a time");
    let order = OrderId::try_from("o1").expect("an order");
    let line = |item: &Item| Line {
        item: item.clone(),
        quantity: 3,
    };
    let ask = TakeAsk {
        id: desk.id_key.mint(Kind::Cart, now, rand::random()),
        order,
        user: None,
        lines: items.iter().map(line).collect(),
        parts: Vec::new(),
        key: KeyHash::explicit("reserve", "k"),
        fingerprint: Fingerprint::of(&["k"]),
        explicit: true,
        ttl_ms: None,
        trace: TraceId([1; 16]),
    };
    let taken = desk.ledger.take(&[ask]).await.expect("takes").remove(0);
    let TakeAnswer::Taken(reservation) = taken else {
        panic!("{taken:?}")
    };
    let ended = desk.end(commit(reservation.id, "p")).await;
    assert!(matches!(ended, EndAnswer::Done { .. }), "{ended:?}");
    (reservation.id, items)
}

#[tokio::test]
async fn a_cart_comes_back_line_by_line() {
    let desk = Desk::open().await;
    let (cart, [a, b]) = cart(&desk).await;
    let ask = |id: &str, units: ReturnUnits| ReturnAsk {
        id: ReturnId::try_from(id).expect("an id"),
        reservation: cart,
        units,
        condition: Condition::Sellable,
        reason: None,
        key: None,
    };
    let line = |item: &Item, quantity| Line {
        item: item.clone(),
        quantity,
    };
    let give = async |ask: &ReturnAsk| desk.ledger.give_back(ask, &By::default()).await.expect("answers");
    assert_eq!(give(&ask("r1", ReturnUnits::Of(1))).await, ReturnAnswer::ManyLines);
    let too_much = ReturnUnits::Lines(vec![line(&a, 1), line(&b, 4)]);
    let excess = Excess {
        line: line(&b, 4),
        returnable: 3,
    };
    let refused = ReturnAnswer::Exceeds {
        returnable: 6,
        lines: vec![excess],
    };
    assert_eq!(give(&ask("r1", too_much)).await, refused);
    let one = give(&ask("r1", ReturnUnits::Lines(vec![line(&b, 2)]))).await;
    let ReturnAnswer::Done(done) = one else {
        panic!("{one:?}")
    };
    assert_eq!(
        (done.reservation, done.lines, done.returnable),
        (cart, vec![line(&b, 2)], 4)
    );
    let ReturnAnswer::Done(rest) = give(&ask("r2", ReturnUnits::All)).await else {
        panic!("the rest can come back")
    };
    assert_eq!((rest.lines, rest.returnable), (vec![line(&a, 3), line(&b, 1)], 0));
    let again = give(&ask("r2", ReturnUnits::All)).await;
    assert!(matches!(again, ReturnAnswer::Replayed(_)), "{again:?}");
    let back: Vec<i64> = sqlx::query_scalar("SELECT returned FROM inventory_balance ORDER BY sku_id")
        .fetch_all(&desk.pool)
        .await
        .expect("reads");
    assert_eq!(back, [3, 3]);
    assert_eq!(sku("a"), a.sku);
    desk.assert_books_balance().await;
    let reservation = desk.ledger.reservation(cart).await.expect("reads").expect("a cart");
    assert_eq!(reservation.status, Status::Committed);
}

#[tokio::test]
async fn units_come_back_when_their_day_is_cold_and_not_twice() {
    let desk = Desk::open().await;
    let (cart, [a, _]) = cart(&desk).await;
    // As the upkeep leaves a day that is over.
    desk.run(
        "CREATE TABLE cold_day PARTITION OF inventory_reservation_cold DEFAULT;
         WITH gone AS (DELETE FROM inventory_reservation RETURNING *) INSERT INTO inventory_reservation_cold SELECT * FROM gone",
    )
    .await;
    let tries = (0..8).map(|n| {
        let ask = ReturnAsk {
            id: ReturnId::try_from(format!("r{n}")).expect("an id"),
            reservation: cart,
            units: ReturnUnits::Lines(vec![Line {
                item: a.clone(),
                quantity: 2,
            }]),
            condition: Condition::Damaged,
            reason: None,
            key: None,
        };
        let ledger = desk.ledger.clone();
        async move { ledger.give_back(&ask, &By::default()).await.expect("answers") }
    });
    let answers = futures::future::join_all(tries).await;
    let done = answers.iter().filter(|a| matches!(a, ReturnAnswer::Done(_))).count();
    assert_eq!(done, 1, "{answers:?}");
    assert_eq!(
        desk.count("SELECT sum(unavailable)::int8 FROM inventory_balance").await,
        2
    );
}
