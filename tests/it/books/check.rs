//! The comparison of everything that the ledger and Redis hold with the model.

use std::collections::HashMap;

use flashgate::domain::balance::{Balance, Image};
use flashgate::domain::id::Sku;
use flashgate::domain::reservation_id::ReservationId;
use flashgate::ledger::replay::{Replay, Subject};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Play;
use super::book::image;
use crate::support::door::until;

#[derive(sqlx::FromRow)]
struct Row {
    sku_id: String,
    location_id: String,
    on_hand: i64,
    reserved: i64,
    unavailable: i64,
    safety_stock: i64,
    escrowed: i64,
    sold: i64,
    damaged: i64,
    returned: i64,
}

pub(super) fn uuid(id: &str) -> Uuid {
    let id: ReservationId = id.parse().expect("an id");
    id.0
}

impl Play {
    /// Everything is as the book says, once nothing is on its way to a lane any more.
    pub(super) async fn check(&mut self) {
        until("grants in force", async || {
            let waiting: i64 =
                sqlx::query_scalar("SELECT count(*) FROM lane_grant JOIN sale USING (sale_no) WHERE sku_id = ANY($1)")
                    .bind(&self.book.skus)
                    .fetch_one(&self.door.pool)
                    .await
                    .ok()?;
            (waiting == 0).then_some(())
        })
        .await;
        self.check_balances().await;
        self.check_reservations().await;
        self.check_sales().await;
        if self.chance(20) {
            self.check_reads().await;
        }
    }

    async fn check_balances(&self) {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT sku_id, location_id, on_hand, reserved, unavailable, safety_stock, escrowed, sold, damaged, returned
             FROM inventory_balance WHERE sku_id = ANY($1)",
        )
        .bind(&self.book.skus)
        .fetch_all(&self.door.pool)
        .await
        .expect("reads");
        for row in &rows {
            let is = |item: &usize| self.book.sku(*item) == row.sku_id && self.book.location(*item) == row.location_id;
            let item = (0..self.book.items.len()).find(is).expect("an item of the book");
            let found = Balance {
                on_hand: row.on_hand,
                reserved: row.reserved,
                unavailable: row.unavailable,
                safety_stock: row.safety_stock,
                escrowed: row.escrowed,
                sold: row.sold,
                damaged: row.damaged,
                returned: row.returned,
            };
            assert_eq!(found, self.book.items[item].is, "{} at {}", row.sku_id, row.location_id);
        }
    }

    async fn check_reservations(&self) {
        let rows: Vec<(Uuid, String, i64)> = sqlx::query_as(
            "SELECT coalesce(cart_id, reservation_id), status::text, sum(quantity)::int8 FROM inventory_reservation
             WHERE coalesce(cart_id, reservation_id) = ANY($1) GROUP BY 1, 2",
        )
        .bind(
            self.book
                .reservations
                .iter()
                .map(|held| uuid(&held.id))
                .collect::<Vec<_>>(),
        )
        .fetch_all(&self.door.pool)
        .await
        .expect("reads");
        assert_eq!(rows.len(), self.book.reservations.len(), "each stands in one way");
        let rows: HashMap<Uuid, (String, i64)> =
            rows.into_iter().map(|(id, status, sum)| (id, (status, sum))).collect();
        for held in &self.book.reservations {
            let units = held.lines.iter().map(|line| line.units).sum();
            assert_eq!(
                rows[&uuid(&held.id)],
                (held.status.as_str().to_owned(), units),
                "{}",
                held.id
            );
        }
    }

    async fn check_sales(&self) {
        for stock in &self.book.items {
            let Some(sale) = &stock.sale else { continue };
            let told = self.door.sale(&sale.id).await;
            assert_eq!(told["state"], sale.state.as_str(), "{told}");
            assert_eq!(told["allocation"], sale.allocation, "{told}");
            assert_eq!(told["remaining"], stock.is.escrowed, "{told}");
            assert_eq!(told["drift"], 0, "{told}");
            let count = |name: &str| told["counts"][name].as_i64().expect("a number");
            let held = self.book.held_of(sale.no);
            assert_eq!(count("durable") - count("released") - count("expired"), held, "{told}");
            assert_eq!(count("committed"), sale.committed, "{told}");
            assert_eq!(sale.allocation, stock.is.escrowed + held, "the book itself: {sale:?}");
        }
    }

    /// What pages show.
    async fn check_reads(&self) {
        for item in 0..self.book.items.len() {
            let (sku, location) = (self.book.sku(item), self.book.location(item));
            let path = format!("/api/inventory?skuId={sku}&locationId={location}&consistency=strong");
            let told = self.door.get(&path).await.expect(200);
            let mut expected = image(&self.book.items[item].is);
            expected.as_object_mut().expect("an object").remove("escrowed");
            for (name, units) in expected.as_object().expect("an object") {
                assert_eq!(told[name], *units, "{name} in {told}");
            }
        }
        let held = self.book.reservations.last().filter(|held| held.status.holds());
        if let Some(held) = held {
            let told = self.door.reservation(&held.id).await.expect(200);
            assert_eq!(
                (&told["status"], &told["ack"]),
                (&json!(held.status.as_str()), &json!("durable"))
            );
        }
    }

    /// At the end the events tell the same story: every image follows from the one before, the last is the balance, and
    /// a replay agrees. What pages read from the snapshot comes to agree as well.
    pub(super) async fn close(&mut self) {
        for sku in self.book.skus.clone() {
            let events = self.events(&sku).await;
            for item in 0..self.book.items.len() {
                if self.book.sku(item) != sku {
                    continue;
                }
                let mut last = json!({"onHand": 0, "reserved": 0, "unavailable": 0, "escrowed": 0, "sold": 0,
                                      "damaged": 0, "returned": 0});
                for event in events
                    .iter()
                    .filter(|event| event["locationId"] == self.book.location(item))
                {
                    assert_eq!(event["before"], last, "{event}");
                    last = event["after"].clone();
                }
                for (name, units) in last.as_object().expect("an object") {
                    assert_eq!(*units, image(&self.book.items[item].is)[name], "{name} of {sku}");
                }
            }
            self.replay(&sku).await;
            self.read_snapshot(&sku).await;
        }
    }

    /// All events of a SKU, once the newest of them is settled.
    async fn events(&self, sku: &str) -> Vec<Value> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM inventory_movement WHERE sku_id = $1")
            .bind(sku)
            .fetch_one(&self.door.pool)
            .await
            .expect("reads");
        let path = format!("/api/inventory/events?skuId={sku}&limit=1000");
        until("all events", async || {
            let told = self.door.admin(reqwest::Method::GET, &path, None).await.expect(200);
            let events = told["events"].as_array()?.clone();
            (i64::try_from(events.len()) == Ok(count)).then_some(events)
        })
        .await
    }

    /// What `flashgate replay` would tell.
    async fn replay(&self, sku: &str) {
        let subject = Subject::Stock(Sku::try_from(sku).expect("a SKU"), None);
        let Replay::Told(told) = self.ledger.replay(&subject, None).await.expect("Postgres answers") else {
            panic!("nothing is under way");
        };
        assert_eq!(told.breaks, []);
        assert_eq!(told.stock.len(), self.book.locations.len());
        for stock in &told.stock {
            let is = |item: &usize| self.book.sku(*item) == sku && self.book.location(*item) == stock.location_id;
            let item = (0..self.book.items.len()).find(is).expect("an item of the book");
            let Balance {
                safety_stock,
                on_hand,
                reserved,
                unavailable,
                escrowed,
                sold,
                damaged,
                returned,
            } = self.book.items[item].is;
            let expected = Image {
                on_hand,
                reserved,
                unavailable,
                escrowed,
                sold,
                damaged,
                returned,
            };
            assert_eq!(
                (stock.balance, stock.safety_stock),
                (expected, safety_stock),
                "{stock:?}"
            );
        }
    }

    async fn read_snapshot(&self, sku: &str) {
        let of_sku = || self.book.items.iter().filter(|stock| self.book.skus[stock.sku] == sku);
        let sum = |pick: fn(&Balance) -> i64| -> i64 { of_sku().map(|stock| pick(&stock.is)).sum() };
        let expected = [sum(|is| is.reserved), sum(|is| is.sold)];
        until("a snapshot that agrees", async || {
            let told = self.door.get(&format!("/api/inventory/{sku}")).await.body;
            ([told["reserved"].as_i64()?, told["sold"].as_i64()?] == expected).then_some(())
        })
        .await;
    }
}
