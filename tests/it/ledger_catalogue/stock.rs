//! Catalogue, adjustments, balances and routes.

use flashgate::domain::balance::Balance;
use flashgate::domain::key::Fingerprint;
use flashgate::domain::key::KeyHash;
use flashgate::domain::sale::SaleAction;
use flashgate::ledger::adjust::{Adjust, Adjusted, Adjustment, Reason, Sign};
use flashgate::ledger::catalogue::Put;
use flashgate::ledger::once::Key;
use flashgate::ledger::read_model::stock::Source;
use flashgate::ledger::route::{Route, RouteAsk};

use super::books::{Books, ann, hot, item, place, received, sale_of, shelf, sku};

async fn adjust(books: &Books, reason: Reason, delta: i64) -> Adjusted {
    let ask = Adjust {
        reason,
        ..received("wh1", delta)
    };
    let adjusted = books.ledger.adjust(&ask, &ann()).await.expect("adjusts");
    books.check().await;
    adjusted
}

fn done(adjusted: Adjusted) -> Adjustment {
    match adjusted {
        Adjusted::Done(adjustment) => adjustment,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_reason_moves_the_balance_its_own_way() {
    let books = Books::with_stock(100).await;
    let stocked = Balance {
        on_hand: 100,
        ..Balance::default()
    };
    type Change = fn(&mut Balance);
    let table: [(Reason, i64, &str, Change); 7] = [
        (Reason::StockReceived, 5, "inventory_received", |b| b.on_hand += 5),
        (Reason::ManualCorrection, -5, "inventory_adjusted", |b| b.on_hand -= 5),
        (Reason::Damaged, -7, "inventory_damaged", |b| {
            b.unavailable += 7;
            b.damaged += 7;
        }),
        (Reason::Lost, -3, "inventory_adjusted", |b| b.on_hand -= 3),
        (Reason::ReturnProcessed, 2, "inventory_returned", |b| {
            b.on_hand += 2;
            b.returned += 2;
        }),
        (Reason::CycleCountCorrection, 4, "inventory_adjusted", |b| {
            b.on_hand += 4
        }),
        (Reason::SupplierShipmentCorrection, -4, "inventory_adjusted", |b| {
            b.on_hand -= 4;
        }),
    ];
    let mut expected = stocked;
    for (reason, delta, event, change) in table {
        let adjustment = done(adjust(&books, reason, delta).await);
        assert_eq!(adjustment.before, expected, "{reason:?}");
        change(&mut expected);
        assert_eq!(adjustment.after, expected, "{reason:?}");
        let row: (String, i64, Option<String>, Option<String>, Option<String>) = sqlx::query_as(
            "SELECT event_type::text, quantity_delta, reason, reference_id, operator FROM inventory_movement
             WHERE event_id = $1",
        )
        .bind(adjustment.event_id)
        .fetch_one(&books.pool)
        .await
        .expect("its event");
        let reference = Some(adjustment.reference);
        let said = (
            event.into(),
            delta,
            Some(reason.as_str().into()),
            reference,
            Some("ann".into()),
        );
        assert_eq!(row, said);
    }
    assert_eq!(
        (Reason::Damaged.sign(), Reason::Lost.sign()),
        (Sign::Negative, Sign::Negative)
    );
    assert_eq!(Reason::ReturnProcessed.sign(), Sign::Positive);
}

#[tokio::test]
async fn an_adjustment_happens_once_under_its_reference() {
    let books = Books::with_stock(10).await;
    let ask = Adjust {
        reference: Some("delivery-7".into()),
        ..received("wh1", 5)
    };
    let first = done(books.ledger.adjust(&ask, &ann()).await.expect("adjusts"));
    books.receive("wh1", 1).await;
    let again = books.ledger.adjust(&ask, &ann()).await.expect("adjusts");
    assert_eq!(again, Adjusted::Replayed(first));
    let other = Adjust {
        delta: 6,
        ..ask.clone()
    };
    assert_eq!(
        books.ledger.adjust(&other, &ann()).await.expect("adjusts"),
        Adjusted::KeyReused
    );
    let elsewhere = Adjust {
        item: item("wh2"),
        ..ask.clone()
    };
    done(books.ledger.adjust(&elsewhere, &ann()).await.expect("adjusts"));
    let reason = Adjust {
        reason: Reason::ManualCorrection,
        ..ask.clone()
    };
    done(books.ledger.adjust(&reason, &ann()).await.expect("adjusts"));
    let with_key = Adjust {
        key: Some(KeyHash::explicit("adjustment", "k")),
        ..ask
    };
    let keyed = done(books.ledger.adjust(&with_key, &ann()).await.expect("adjusts"));
    let again = books.ledger.adjust(&with_key, &ann()).await.expect("adjusts");
    assert_eq!(again, Adjusted::Replayed(keyed));
    assert_eq!(
        books
            .number::<i64>("SELECT on_hand FROM inventory_balance WHERE location_id = 'wh1'")
            .await,
        26
    );
    books.check().await;
}

#[tokio::test]
async fn adjustments_at_the_same_moment_under_one_reference_count_once() {
    let books = Books::with_stock(10).await;
    let ask = Adjust {
        reference: Some("delivery-7".into()),
        ..received("wh1", 5)
    };
    let by = ann();
    let answers = futures::future::join_all((0..8).map(|_| books.ledger.adjust(&ask, &by))).await;
    let mut fresh = 0;
    for answer in answers {
        match answer.expect("adjusts") {
            Adjusted::Done(_) => fresh += 1,
            Adjusted::Replayed(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fresh, 1);
    assert_eq!(books.number::<i64>("SELECT on_hand FROM inventory_balance").await, 15);
    books.check().await;
}

#[tokio::test]
async fn an_adjustment_never_takes_promised_units() {
    let books = Books::with_stock(10).await;
    books.create(&sale_of("s", 6)).await;
    done(adjust(&books, Reason::Damaged, -1).await);
    let found = Balance {
        on_hand: 10,
        unavailable: 1,
        escrowed: 6,
        damaged: 1,
        ..Balance::default()
    };
    let ask = Adjust {
        reason: Reason::Lost,
        reference: Some("theft".into()),
        ..received("wh1", -10)
    };
    for _ in 0..2 {
        // A refusal is not remembered: the second is judged anew.
        let refused = books.ledger.adjust(&ask, &ann()).await.expect("adjusts");
        assert_eq!(refused, Adjusted::Insufficient(found));
    }
    assert_eq!(
        adjust(&books, Reason::Damaged, -10).await,
        Adjusted::Insufficient(found)
    );
    books.receive("wh1", 1).await;
    // A draft gives up its units, and the broken one stays.
    let left = done(books.ledger.adjust(&ask, &ann()).await.expect("adjusts")).after;
    assert_eq!((left.on_hand, left.unavailable, left.escrowed), (1, 1, 0));
    books.check().await;
}

#[tokio::test]
async fn an_adjustment_of_what_is_not_there_is_refused() {
    let books = Books::open().await;
    let nowhere = received("wh9", 1);
    let mut nothing = received("wh1", 1);
    nothing.item.sku = sku("cold");
    assert_eq!(
        books.ledger.adjust(&nowhere, &ann()).await.expect("adjusts"),
        Adjusted::UnknownLocation
    );
    assert_eq!(
        books.ledger.adjust(&nothing, &ann()).await.expect("adjusts"),
        Adjusted::UnknownSku
    );
    assert_eq!(books.number::<i64>("SELECT count(*) FROM inventory_balance").await, 0);
}

async fn safety(books: &Books) -> Vec<(String, i64)> {
    sqlx::query_as("SELECT location_id, safety_stock FROM inventory_balance ORDER BY 1")
        .fetch_all(&books.pool)
        .await
        .expect("balances")
}

#[tokio::test]
async fn safety_stock_follows_the_sku_unless_set_apart_and_has_its_events() {
    let books = Books::with_stock(10).await;
    let by = ann();
    books.ledger.put_sku(&hot(3), &by, None).await.expect("puts");
    books.receive("wh2", 10).await;
    assert_eq!(safety(&books).await, [("wh1".into(), 3), ("wh2".into(), 3)]);
    books.check().await;
    let apart = books.ledger.put_safety_stock(&item("wh2"), Some(8), &by, None).await;
    assert_eq!(apart.expect("puts"), Put::Done);
    books.ledger.put_sku(&hot(4), &by, None).await.expect("puts");
    assert_eq!(safety(&books).await, [("wh1".into(), 4), ("wh2".into(), 8)]);
    books.check().await;
    let events = books.number::<i64>("SELECT count(*) FROM inventory_movement").await;
    books.ledger.put_sku(&hot(4), &by, None).await.expect("puts");
    books
        .ledger
        .put_safety_stock(&item("wh2"), Some(8), &by, None)
        .await
        .expect("puts");
    assert_eq!(
        books.number::<i64>("SELECT count(*) FROM inventory_movement").await,
        events
    );
    books
        .ledger
        .put_safety_stock(&item("wh2"), None, &by, None)
        .await
        .expect("puts");
    books.ledger.put_sku(&hot(5), &by, None).await.expect("puts");
    assert_eq!(safety(&books).await, [("wh1".into(), 5), ("wh2".into(), 5)]);
    let unknown = books.ledger.put_safety_stock(&item("wh9"), Some(1), &by, None).await;
    assert_eq!(unknown.expect("asks"), Put::UnknownLocation);
    // Each event tells what was kept back at its own location, before and after.
    let told: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT location_id, (metadata->'safetyStock'->>'before')::int8, (metadata->'safetyStock'->>'after')::int8
         FROM inventory_movement WHERE reason = 'safety_stock' ORDER BY location_id, event_id",
    )
    .fetch_all(&books.pool)
    .await
    .expect("events");
    let told: Vec<(&str, i64, i64)> = told
        .iter()
        .map(|(at, before, after)| (at.as_str(), *before, *after))
        .collect();
    let one = [("wh1", 0, 3), ("wh1", 3, 4), ("wh1", 4, 5)];
    let two = [("wh2", 0, 3), ("wh2", 3, 8), ("wh2", 8, 4), ("wh2", 4, 5)];
    assert_eq!(told, [&one[..], &two[..]].concat());
    books.check().await;
}

#[tokio::test]
async fn a_put_under_a_key_does_not_undo_a_later_one() {
    let books = Books::with_stock(1).await;
    let key = |fingerprint: &str| Key {
        hash: KeyHash::explicit("sku", "k"),
        fingerprint: Fingerprint::of(&[fingerprint]),
    };
    let by = ann();
    assert_eq!(
        books.ledger.put_sku(&hot(3), &by, Some(&key("3"))).await.expect("puts"),
        Put::Done
    );
    books.ledger.put_sku(&hot(4), &by, None).await.expect("puts");
    let again = books.ledger.put_sku(&hot(3), &by, Some(&key("3"))).await.expect("puts");
    assert_eq!(again, Put::Replayed);
    let other = books.ledger.put_sku(&hot(5), &by, Some(&key("5"))).await.expect("puts");
    assert_eq!(other, Put::KeyReused);
    assert_eq!(safety(&books).await, [("wh1".into(), 4)]);
    books
        .ledger
        .put_location(&shelf("wh3"), Some(&key("3")))
        .await
        .expect("puts");
}

#[tokio::test]
async fn stock_is_told_by_location() {
    let books = Books::open().await;
    let hot = async || {
        let read = books.ledger.stock(&[sku("hot"), sku("cold")]).await.expect("reads");
        assert_eq!((read.source, read.skus.len()), (Source::Ledger, 1), "cold is not known");
        (read.skus[&sku("hot")].clone(), read.as_of)
    };
    assert_eq!(hot().await.0.places, []);
    books.receive("wh2", 7).await;
    books.receive("wh1", 5).await;
    let (stock, as_of) = hot().await;
    let told = stock
        .places
        .iter()
        .map(|at| (at.location.as_str(), at.balance.on_hand, at.active));
    assert_eq!(told.collect::<Vec<_>>(), [("wh1", 5, true), ("wh2", 7, true)]);
    assert!(stock.updated_at <= as_of);
    for (at, is_known) in [("wh1", true), ("wh9", false)] {
        assert_eq!(books.ledger.knows_location(&place(at)).await.expect("reads"), is_known);
    }
}

#[tokio::test]
async fn a_request_is_routed_to_the_only_location_or_to_a_choice() {
    let books = Books::open().await;
    let ask = |name: &str, location: Option<&str>| RouteAsk {
        sku: sku(name),
        location: location.map(place),
    };
    let route = async |location: Option<&str>| {
        let told = books.ledger.routes(&[ask("hot", location)]).await.expect("routes");
        <[Route; 1]>::try_from(told).expect("one")[0].clone()
    };
    let at = |route: Route| match route {
        Route::Item { item, sale } => (item.location.to_string(), sale.map(|sale| sale.id.to_string())),
        other => panic!("{other:?}"),
    };
    assert_eq!(route(Some("wh9")).await, Route::UnknownLocation);
    assert_eq!(route(None).await, Route::Several);
    assert_eq!(at(route(Some("wh1")).await), ("wh1".into(), None));
    books.receive("wh1", 10).await;
    assert_eq!(at(route(None).await), ("wh1".into(), None));
    books.receive("wh2", 10).await;
    assert_eq!(route(None).await, Route::Several);
    books.create(&sale_of("s", 5)).await;
    assert_eq!(route(None).await, Route::Several, "a sale is one of the choices");
    assert_eq!(at(route(Some("wh2")).await), ("wh2".into(), None));
    books.act("s", SaleAction::Stop).await;
    assert_eq!(route(None).await, Route::Several);
    assert_eq!(at(route(Some("wh1")).await), ("wh1".into(), Some("s".into())));
    books.create(&sale_of("s2", 5)).await;
    assert_eq!(at(route(Some("wh1")).await), ("wh1".into(), Some("s2".into())));
    // Asked together, each is told its own, whatever the others ask.
    let asks = [
        ask("hot", Some("wh2")),
        ask("cold", None),
        ask("hot", None),
        ask("hot", Some("wh9")),
        ask("hot", Some("wh1")),
        ask("hot", Some("wh1")),
    ];
    let told = books.ledger.routes(&asks).await.expect("routes");
    let [
        second,
        Route::UnknownSku,
        Route::Several,
        Route::UnknownLocation,
        first,
        again,
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!(at(second.clone()), ("wh2".into(), None));
    assert_eq!(at(first.clone()), ("wh1".into(), Some("s2".into())));
    assert_eq!(first, again);
}
