//! Everybody at once on the same few items: buyers, the warehouse, whoever counts, corrects, decides and keeps back, and
//! operators who put the items on sale and take them off. In the end the ledger holds exactly what they were told.
//!
//! `BOOKS_DEEDS` says how much each of them does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, Utc};
use flashgate::domain::id::Sku;
use flashgate::ledger::replay::{Replay, Subject};
use flashgate::ledger::{self, Ledger};
use futures::future::{join, join_all};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};

use super::book::Moved;
use super::number;
use super::orders::tell;
use crate::support::door::{Door, PATIENCE, Told, until};
use crate::support::gateway::{Whole, migrate};
use crate::support::servers::shared;

const RESERVATIONS: &str = "/api/inventory/reservations";
const SKUS: [&str; 2] = ["hot", "warm"];
const PLACES: [&str; 2] = ["wh1", "wh2"];
/// Units of each item at first: scarce, so that everybody is in everybody's way.
const UNITS: i64 = 20;
/// Between two deeds of one client.
const PACE: Duration = Duration::from_millis(5);

/// What an item should hold by all that was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    on_hand: i64,
    unavailable: i64,
    sold: i64,
    damaged: i64,
    returned: i64,
}

type Item = (String, String);

#[derive(Clone)]
struct Client {
    doors: Vec<Door>,
    n: usize,
    sums: Arc<Mutex<BTreeMap<Item, Sum>>>,
    random: StdRng,
    next: usize,
}

impl Client {
    fn door(&self) -> &Door {
        &self.doors[(self.n + self.next) % self.doors.len()]
    }

    fn fresh(&mut self, what: &str) -> String {
        self.next += 1;
        format!("{what}{}-{}", self.n, self.next)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn any(&mut self) -> Item {
        let pick = |random: &mut StdRng, of: [&str; 2]| of[random.random_range(0..2)].to_owned();
        (pick(&mut self.random, SKUS), pick(&mut self.random, PLACES))
    }

    /// Asks until there is an answer to keep. Only 503 may be repeated, and nothing else may go wrong.
    async fn insist(&self, mut ask: impl AsyncFnMut(&Door) -> Told) -> Told {
        let since = Instant::now();
        for attempt in self.n + self.next.. {
            let told = ask(&self.doors[attempt % self.doors.len()]).await;
            let code = told.body["code"].as_str().unwrap_or_default().to_owned();
            assert!(told.status < 500 || told.status == 503, "{told:?}");
            let honest = ["OVERLOADED", "STOCK_UNAVAILABLE", "LEDGER_UNAVAILABLE"];
            assert!(told.status != 503 || honest.contains(&code.as_str()), "{told:?}");
            if told.status != 503 {
                return told;
            }
            assert!(since.elapsed() < PATIENCE, "still no answer: {told:?}");
            tokio::time::sleep(PACE * 4).await;
        }
        unreachable!("attempts do not end");
    }

    async fn post_as(&self, person: &str, path: &str, body: &Value) -> Told {
        let headers = [("x-operator", person)];
        self.insist(async |door| door.admin_with(Method::POST, path, body.clone(), &headers).await)
            .await
    }

    /// Writes down what an answer says has happened.
    fn add(&self, item: &Item, change: impl FnOnce(&mut Sum)) {
        let mut sums = self.sums.lock().expect("nobody panics with it");
        change(sums.entry(item.clone()).or_default());
    }

    fn moved(&self, item: &Item, moved: Moved) {
        self.add(item, |sum| {
            sum.on_hand += moved.on_hand;
            sum.unavailable += moved.unavailable;
            sum.damaged += moved.damaged;
            sum.returned += moved.returned;
        });
    }

    /// Reserves a line or a cart; then pays, gives back, pays too late, or goes away.
    async fn buy(&mut self) {
        let order = self.fresh("o");
        let mut lines = BTreeMap::new();
        lines.insert(self.any(), self.random.random_range(1..=2));
        while self.chance(40) {
            lines.insert(self.any(), 1);
        }
        let line = |((sku, place), units): (&Item, &i64)| json!({"skuId": sku, "locationId": place, "quantity": units});
        let mut shown: Vec<Value> = lines.iter().map(line).collect();
        if self.chance(50) {
            shown.reverse();
        }
        let mut body = json!({"orderId": order, "lines": shown, "idemKey": order});
        if self.chance(70) {
            body["userId"] = json!(format!("u{}", self.n));
        }
        let fate = self.random.random_range(0..100);
        if fate >= 80 {
            body["ttlSeconds"] = json!(1);
        }
        let told = self
            .insist(async |door| door.shop(RESERVATIONS, body.clone()).await)
            .await;
        if !matches!(told.status, 200..300) {
            assert_eq!(told.status, 409, "{told:?}");
            return;
        }
        let id = told.id();
        let status = until("durability", async || {
            let told = self.door().reservation(&id).await.body;
            (told["ack"] == "durable").then(|| told["status"].clone())
        })
        .await;
        if status == "REJECTED" {
            return;
        }
        match fate {
            0..8 => self.hear(&order, &id, &lines, "paid").await,
            8..14 => self.hear(&order, &id, &lines, "cancelled").await,
            14..45 => self.pay(&id, &lines).await,
            45..72 => {
                let path = format!("{RESERVATIONS}/{id}/release");
                let told = self.insist(async |door| door.shop(&path, json!({})).await).await;
                assert_eq!(told.status, 200, "{told:?}");
            }
            90.. => {
                let own = super::check::uuid(&id);
                until("the expiry", async || {
                    // A freeze moves deadlines by half a minute and more.
                    sqlx::query(
                        "UPDATE inventory_reservation SET expires_at = created_at - interval '1 day'
                         WHERE coalesce(cart_id, reservation_id) = $1 AND status = 'RESERVED'",
                    )
                    .bind(own)
                    .execute(&self.door().pool)
                    .await
                    .expect("writes");
                    (self.door().reservation(&id).await.body["status"] == "EXPIRED").then_some(())
                })
                .await;
                self.pay(&id, &lines).await;
            }
            _ => {}
        }
    }

    /// The order system tells what became of the order, and mostly the shop itself does what follows at the same time.
    async fn hear(&mut self, order: &str, id: &str, lines: &BTreeMap<Item, i64>, state: &str) {
        let word = if state == "paid" { "commit" } else { "release" };
        let path = format!("{RESERVATIONS}/{id}/{word}");
        let is_done = self.chance(60);
        let own = async {
            let told = self.insist(async |door| door.shop(&path, json!({})).await);
            if is_done { Some(told.await) } else { None }
        };
        let post = async |path: &str, body: Value| self.post_as("ann", path, &body).await;
        let (own, found) = join(own, tell(self.door(), order, state, post)).await;
        let told = self.insist(async |door| door.reservation(id).await).await;
        let status = told.expect(200)["status"].clone();
        match &own {
            Some(own) if own.status == 200 => assert_eq!(own.body["status"], status, "{own:?}"),
            Some(own) => assert_eq!(own.problem(), (409, "SALE_FROZEN")),
            None => {}
        }
        for found in found.iter().flatten().filter(|found| found["status"] == "corrected") {
            let expected = if state == "paid" { "COMMITTED" } else { "RELEASED" };
            assert_eq!(status, expected, "{found}");
        }
        let is_left = status == "RESERVED" && own.is_none();
        let waits = |found: &Value| found["status"] == "manual_review";
        assert!(
            !is_left || found.is_none_or(|found| found.iter().any(waits)),
            "nobody ended {id}"
        );
        if status == "COMMITTED" {
            self.bought(lines);
        }
    }

    fn bought(&self, lines: &BTreeMap<Item, i64>) {
        for (item, units) in lines {
            self.add(item, |sum| {
                sum.on_hand -= units;
                sum.sold += units;
            });
        }
    }

    async fn pay(&mut self, id: &str, lines: &BTreeMap<Item, i64>) {
        let path = format!("{RESERVATIONS}/{id}/commit");
        let told = self.insist(async |door| door.shop(&path, json!({})).await).await;
        if told.status == 409 {
            let code = told.problem().1;
            return assert!(matches!(code, "RESERVATION_EXPIRED" | "SALE_FROZEN"), "{told:?}");
        }
        assert_eq!(
            (told.status, &told.body["status"]),
            (200, &json!("COMMITTED")),
            "{told:?}"
        );
        self.bought(lines);
        if !self.chance(50) {
            return;
        }
        let is_broken = self.chance(40);
        let condition = if is_broken { "damaged" } else { "sellable" };
        let body = json!({"returnId": self.fresh("r"), "condition": condition});
        let path = format!("{RESERVATIONS}/{id}/returns");
        let told = self.insist(async |door| door.shop(&path, body.clone()).await).await;
        assert_eq!(told.status, 201, "{told:?}");
        for (item, units) in lines {
            let broken = if is_broken { *units } else { 0 };
            self.moved(
                item,
                Moved {
                    on_hand: *units,
                    unavailable: broken,
                    damaged: broken,
                    returned: *units,
                },
            );
        }
    }

    /// Something comes in, breaks, is lost or was counted wrong; and now and then that was a mistake.
    async fn adjust(&mut self) {
        let item = self.any();
        let reasons = [
            "stock_received",
            "manual_correction",
            "damaged",
            "lost",
            "return_processed",
            "cycle_count_correction",
            "supplier_shipment_correction",
        ];
        let reason = reasons[self.random.random_range(0..reasons.len())];
        let units = self.random.random_range(1..=4);
        let delta = match reason {
            "stock_received" | "return_processed" => units,
            "damaged" | "lost" => -units,
            _ if self.chance(50) => -units,
            _ => units,
        };
        let body = json!({"skuId": item.0, "locationId": item.1, "delta": delta, "reason": reason,
                          "referenceId": self.fresh("a")});
        let told = self.post_as("ann", "/api/inventory/adjustments", &body).await;
        if told.status != 201 {
            return assert!(matches!(told.status, 202 | 409), "{told:?}");
        }
        let moved = Moved::by(reason, delta);
        self.moved(&item, moved);
        if self.chance(25) {
            let path = format!("/admin/events/{}/undo", told.body["eventId"]);
            let told = self.post_as("bob", &path, &json!({})).await;
            if told.status == 201 {
                return self.moved(&item, moved.reversed());
            }
            // Where it would go below what is promised, it waits for a second person as an adjustment does; and what was
            // counted meanwhile is right.
            let refused = ["INSUFFICIENT_STOCK", "NOT_UNDOABLE"].map(|code| (409, code));
            assert!(told.status == 202 || refused.contains(&told.problem()), "{told:?}");
        }
    }

    async fn transfer(&mut self) {
        let (sku, from) = self.any();
        let to = if from == PLACES[0] { PLACES[1] } else { PLACES[0] };
        let units = self.random.random_range(1..=4);
        let body = json!({"transferId": self.fresh("t"), "skuId": sku, "fromLocationId": from, "toLocationId": to,
                          "quantity": units});
        let told = self.post_as("ann", "/api/inventory/transfers", &body).await;
        if told.status != 201 {
            return assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"));
        }
        self.add(&(sku.clone(), from), |sum| sum.on_hand -= units);
        self.add(&(sku, to.to_owned()), |sum| sum.on_hand += units);
    }

    /// Counts a location, a little wrong.
    async fn count(&mut self) {
        let place = PLACES[self.random.random_range(0..2)];
        let (now, found): (DateTime<Utc>, Vec<i64>) = sqlx::query_as(
            "SELECT clock_timestamp(), array_agg(on_hand ORDER BY sku_id) FROM inventory_balance WHERE location_id = $1",
        )
        .bind(place)
        .fetch_one(&self.door().pool)
        .await
        .expect("reads");
        let mut lines = Vec::new();
        for (sku, units) in SKUS.iter().zip(found) {
            lines.push(json!({"skuId": sku, "counted": (units + self.random.random_range(-2..=2)).max(0)}));
        }
        let body = json!({"countId": self.fresh("c"), "source": "warehouse", "locationId": place,
                          "countedAt": now.trunc_subsecs(3), "lines": lines});
        let told = self.post_as("ann", "/api/inventory/counts", &body).await;
        if told.status != 201 {
            return assert_eq!(told.problem(), (409, "STALE_COUNT"));
        }
        for found in told.body["discrepancies"].as_array().expect("discrepancies") {
            if found["eventId"].is_null() {
                continue;
            }
            let of = |name: &str| found[name].as_i64().expect("a number");
            let item = (found["skuId"].as_str().expect("a SKU").to_owned(), place.to_owned());
            self.add(&item, |sum| sum.on_hand += of("found") - of("expected"));
        }
    }

    /// What the adjustment of this event did.
    async fn moved_by(&self, event: i64) -> Moved {
        let (reason, delta): (String, i64) = sqlx::query_as("SELECT reason, delta FROM adjustment WHERE event_id = $1")
            .bind(event)
            .fetch_one(&self.door().pool)
            .await
            .expect("reads");
        Moved::by(&reason, delta)
    }

    /// Somebody who neither adjusts nor undoes, and decides whatever waits.
    async fn decide(&mut self) {
        let pending = self
            .insist(async |door| door.admin(Method::GET, "/admin/approvals?status=PENDING", None).await)
            .await;
        for approval in pending.body["approvals"].as_array().expect("approvals") {
            let id = approval["approvalId"].as_str().expect("an id");
            let word = if self.chance(60) { "approve" } else { "reject" };
            let path = format!("/admin/approvals/{id}/{word}");
            let told = self.post_as("cat", &path, &json!({})).await;
            if told.status != 200 {
                let refused = ["INSUFFICIENT_STOCK", "NOT_UNDOABLE"].map(|code| (409, code));
                assert!(refused.contains(&told.problem()), "{told:?}");
            } else if word == "approve" {
                let text = |name: &str| approval[name].as_str().expect("text").to_owned();
                let moved = match approval["undoes"].as_i64() {
                    Some(event) => self.moved_by(event).await.reversed(),
                    None => Moved::by(&text("reason"), approval["delta"].as_i64().expect("a number")),
                };
                self.moved(&(text("skuId"), text("locationId")), moved);
            }
        }
    }

    async fn keep_back(&mut self) {
        let (sku, place) = self.any();
        let units = self.random.random_range(0..=3);
        let (path, body) = if self.chance(50) {
            (
                format!("/admin/skus/{sku}"),
                json!({"display": "exact", "safetyStock": units}),
            )
        } else {
            let apart = self.chance(50).then_some(units);
            (
                format!("/admin/skus/{sku}/locations/{place}"),
                json!({"safetyStock": apart}),
            )
        };
        let told = self.insist(async |door| door.put(&path, body.clone()).await).await;
        assert_eq!(told.status, 200, "{told:?}");
    }

    /// Puts an item on sale, steers the sale, and takes it off again.
    async fn operate(&mut self) {
        let (sku, place) = self.any();
        let sale = self.fresh("s");
        let body = json!({"saleId": sale, "skuId": sku, "locationId": place, "startsAt": "2020-01-01T00:00:00.000Z",
                          "allocation": self.random.random_range(1..=12), "buckets": self.random.random_range(1..=2)});
        let key = [("idempotency-key", sale.as_str())];
        let told = self
            .insist(async |door| door.admin_with(Method::POST, "/admin/sales", body.clone(), &key).await)
            .await;
        if told.status != 201 {
            return assert_eq!(told.status, 409, "{told:?}");
        }
        for _ in 0..self.random.random_range(0..4) {
            tokio::time::sleep(PACE * 4).await;
            let told = match self.random.random_range(0..5) {
                0 => self.insist(async |door| door.act(&sale, "pause").await).await,
                1 => self.insist(async |door| door.act(&sale, "freeze").await).await,
                2 => self.insist(async |door| door.act(&sale, "unfreeze").await).await,
                _ => {
                    let body = json!({"allocation": self.random.random_range(1..=15)});
                    let path = format!("/admin/sales/{sale}");
                    self.insist(async |door| door.patch(&path, body.clone()).await).await
                }
            };
            assert!(matches!(told.status, 200 | 409), "{told:?}");
            if self.chance(60) {
                let told = self.insist(async |door| door.act(&sale, "resume").await).await;
                assert!(matches!(told.status, 200 | 409), "{told:?}");
            }
        }
        let told = self.insist(async |door| door.act(&sale, "stop").await).await;
        assert_eq!((told.status, &told.body["state"]), (200, &json!("ended")), "{told:?}");
    }

    async fn live(mut self, deeds: usize) {
        for _ in 0..deeds {
            match self.n {
                0..9 => self.buy().await,
                9..12 => self.adjust().await,
                12..14 => self.transfer().await,
                14 => self.count().await,
                15 => self.decide().await,
                16 => self.keep_back().await,
                _ => self.operate().await,
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

/// What stands in the ledger.
async fn found(door: &Door) -> BTreeMap<Item, Sum> {
    let rows: Vec<(String, String, i64, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT sku_id, location_id, on_hand, unavailable, sold, damaged, returned FROM inventory_balance",
    )
    .fetch_all(&door.pool)
    .await
    .expect("reads");
    let sum = |(sku, place, on_hand, unavailable, sold, damaged, returned)| {
        let sum = Sum {
            on_hand,
            unavailable,
            sold,
            damaged,
            returned,
        };
        ((sku, place), sum)
    };
    rows.into_iter().map(sum).collect()
}

/// Whoever went away lets go.
async fn let_go(door: &Door) {
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar(
        "SELECT DISTINCT coalesce(cart_id, reservation_id) FROM inventory_reservation WHERE status = 'RESERVED'",
    )
    .fetch_all(&door.pool)
    .await
    .expect("reads");
    for id in ids {
        let id = flashgate::domain::reservation_id::ReservationId(id).to_string();
        until("a release", async || {
            (door.release(&id).await.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_at_once_leaves_what_they_were_told() {
    let (redis_url, database_url) = (shared().await.redis(), shared().await.database().await);
    migrate(&database_url).await;
    let one = Whole::over(&redis_url, &database_url).await;
    let other = Whole::over(&redis_url, &database_url).await;
    let client = Client {
        doors: vec![(*one).clone(), (*other).clone()],
        n: 0,
        sums: Arc::default(),
        random: StdRng::seed_from_u64(number("BOOKS_SEED").unwrap_or(1)),
        next: 0,
    };
    for place in PLACES {
        let body = json!({"name": "A place", "kind": "warehouse", "region": "eu", "active": true});
        let path = format!("/admin/locations/{place}");
        client
            .insist(async |door| door.put(&path, body.clone()).await)
            .await
            .expect(200);
    }
    for sku in SKUS {
        let (path, body) = (format!("/admin/skus/{sku}"), json!({"display": "exact"}));
        client
            .insist(async |door| door.put(&path, body.clone()).await)
            .await
            .expect(200);
        for place in PLACES {
            let body = json!({"skuId": sku, "locationId": place, "delta": UNITS, "reason": "stock_received",
                              "referenceId": format!("first-{sku}-{place}")});
            client
                .post_as("ann", "/api/inventory/adjustments", &body)
                .await
                .expect(201);
            client.add(&(sku.to_owned(), place.to_owned()), |sum| sum.on_hand += UNITS);
        }
    }
    let deeds = usize::try_from(number("BOOKS_DEEDS").unwrap_or(20)).expect("few");
    let clients = (0..20).map(|n| {
        let mut client = client.clone();
        client.random = StdRng::seed_from_u64(client.random.random::<u64>() ^ n);
        client.n = usize::try_from(n).expect("few");
        Box::pin(client.live(deeds))
    });
    join_all(clients).await;
    let_go(&one).await;
    one.settled().await;
    assert_eq!(found(&one).await, *client.sums.lock().expect("nobody panicked with it"));
    let held: i64 = sqlx::query_scalar("SELECT sum(reserved + escrowed)::int8 FROM inventory_balance")
        .fetch_one(&one.pool)
        .await
        .expect("reads");
    assert_eq!(held, 0, "nobody holds anything, and no sale does");
    let replayer = Ledger::new(&ledger::Settings::new(&database_url)).expect("an address");
    for sku in SKUS {
        let subject = Subject::Stock(Sku::try_from(sku).expect("a SKU"), None);
        let Replay::Told(told) = replayer.replay(&subject, None).await.expect("Postgres answers") else {
            panic!("nothing is under way");
        };
        assert_eq!(told.breaks, []);
    }
    let deadlocks: i64 =
        sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            .fetch_one(&one.pool)
            .await
            .expect("reads");
    assert_eq!(deadlocks, 0, "locks are taken in one order");
    other.stop().await;
    one.stop().await;
}
