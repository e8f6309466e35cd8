//! Buyers: reservations of lines and carts, their ends, late payments, and what comes back.

use std::collections::BTreeMap;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use rand::Rng;
use serde_json::{Value, json};

use super::Play;
use super::book::{Request, Status, Verdict};
use super::choice::{Open, Wish};
use crate::support::door::{Told, until};

const RESERVATIONS: &str = "/api/inventory/reservations";
/// Longest hold, and how much longer where a payment has begun; as the settings have it.
const HOLD_MAX: TimeDelta = TimeDelta::hours(1);
const PAYMENT_GRACE: TimeDelta = TimeDelta::minutes(5);

fn instant(of: &Value) -> DateTime<Utc> {
    serde_json::from_value(of.clone()).expect("an instant")
}

impl Play {
    pub(super) async fn reserve_line(&mut self) {
        let lines = vec![(self.any_item(), self.random.random_range(1..=5))];
        let request = self.request(lines);
        self.reserve(request).await;
    }

    pub(super) async fn reserve_cart(&mut self) {
        let mut lines = BTreeMap::new();
        while lines.len() < 2 || self.chance(20) {
            lines.insert(self.any_item(), self.random.random_range(1..=2));
        }
        let request = self.request(lines.into_iter().collect());
        self.reserve(request).await;
    }

    /// Mostly a new one; sometimes one that was sent before, or one that contradicts it.
    fn request(&mut self, lines: Vec<(usize, i64)>) -> Request {
        let dice = self.random.random_range(0..100);
        let named: Vec<usize> = (0..self.book.asked.len())
            .filter(|at| self.book.asked[*at].open.is_none())
            .collect();
        if let Some(before) = self.any_of(named.len()).filter(|_| dice < 30) {
            let mut request = self.book.asked[named[before]].clone();
            match dice {
                0..14 => {}
                14..22 => request.lines[0].1 += 1,
                22..26 => request.key = Some(self.fresh("k")),
                _ => request.lines = lines,
            }
            return request;
        }
        let user = self.chance(75).then(|| format!("u{}", self.random.random_range(0..3)));
        let key = self.chance(50).then(|| self.fresh("k"));
        Request {
            order: self.fresh("o"),
            user,
            key,
            open: None,
            lines,
        }
    }

    fn any_of(&mut self, count: usize) -> Option<usize> {
        (count > 0).then(|| self.random.random_range(0..count))
    }

    pub(super) async fn reserve(&mut self, mut request: Request) {
        let verdicts = self.book.judge(&mut request);
        let (told, again) = self.send(&request).await;
        self.note(format!(
            "{request:?} may come to {verdicts:?}: {} {}",
            told.status, told.body
        ));
        self.book.asked.push(request.clone());
        if told.status >= 400 {
            let (status, code) = told.problem();
            let refused = |verdict: &Verdict| matches!(verdict, Verdict::Refused(s, c) if (*s, *c) == (status, code));
            assert!(verdicts.iter().any(refused), "{told:?}, but {verdicts:?}");
            self.see_refusal(&request, &told);
            return;
        }
        if let Some(Verdict::Replay(first)) = verdicts.iter().find(|verdict| matches!(verdict, Verdict::Replay(_))) {
            let held = &self.book.reservations[*first];
            assert!(told.replayed, "{told:?}");
            assert_eq!(
                (told.id(), told.body["status"].as_str()),
                (held.id.clone(), Some(held.status.as_str()))
            );
            assert_eq!(told.status, if held.status == Status::Reserved { 201 } else { 200 });
            return;
        }
        assert_eq!(verdicts, [Verdict::Take], "{told:?}");
        assert!(told.replayed <= again, "{told:?}");
        assert_eq!((told.status, told.standing().as_str()), (201, "RESERVED durable"));
        let lines: Vec<Value> = request
            .lines
            .iter()
            .map(|(item, units)| self.line(*item, *units))
            .collect();
        assert_eq!(told.body["lines"], json!(lines));
        self.book.take(request, told.id());
    }

    fn line(&self, item: usize, units: i64) -> Value {
        json!({"skuId": self.book.sku(item), "locationId": self.book.location(item), "quantity": units})
    }

    fn wish(&self, wish: &Wish) -> Value {
        match wish.item {
            Some(item) => self.line(item, wish.units),
            None => json!({"skuId": self.book.skus[wish.sku], "quantity": wish.units}),
        }
    }

    /// Sends it until it is durable or refused.
    async fn send(&self, request: &Request) -> (Told, bool) {
        let mut body = match (&request.open, &request.lines[..]) {
            (Some(open), _) => {
                let mut body = match &open.wishes[..] {
                    [wish] => self.wish(wish),
                    wishes => json!({"lines": wishes.iter().map(|wish| self.wish(wish)).collect::<Vec<Value>>()}),
                };
                body["allowSplit"] = json!(open.split);
                body
            }
            (None, [(item, units)]) => self.line(*item, *units),
            (None, lines) => json!({"lines": lines.iter().rev().map(|(item, units)| self.line(*item, *units))
                .collect::<Vec<Value>>()}),
        };
        body["orderId"] = json!(request.order);
        if let Some(user) = &request.user {
            body["userId"] = json!(user);
        }
        if let Some(key) = &request.key {
            body["idemKey"] = json!(key);
        }
        let ask = async || {
            let mut told = self.door.shop(RESERVATIONS, body.clone()).await;
            if told.status == 202 {
                until("durability", async || {
                    (self.door.reservation(&told.id()).await.body["ack"] == "durable").then_some(())
                })
                .await;
                // Whether it became durable or was refused, a repeat tells.
                told.status = 503;
            }
            told
        };
        self.insist(ask).await
    }

    /// What a refusal says of the stock is so.
    fn see_refusal(&self, request: &Request, told: &Told) {
        if let Some(open) = &request.open {
            return self.see_open_refusal(open, told);
        }
        let free = |item: usize| {
            let stock = &self.book.items[item];
            let off_sale = stock.free().max(0);
            if stock.is_off_sale() {
                off_sale
            } else {
                stock.is.escrowed
            }
        };
        match (told.problem(), &request.lines[..]) {
            ((_, "INSUFFICIENT_STOCK"), [(item, _)]) => assert_eq!(told.body["available"], free(*item), "{told:?}"),
            ((_, "INSUFFICIENT_STOCK"), lines) => {
                for line in told.body["lines"].as_array().expect("lines that failed") {
                    let is = |(item, _): &&(usize, i64)| {
                        line["skuId"] == self.book.sku(*item) && line["locationId"] == self.book.location(*item)
                    };
                    let (item, units) = lines.iter().find(is).expect("a line of the cart");
                    assert_eq!(line["quantity"], *units, "{told:?}");
                    if line["code"] == "INSUFFICIENT_STOCK" {
                        assert_eq!(line["available"], free(*item), "{told:?}");
                    }
                }
            }
            ((_, "SALE_NOT_LIVE"), [(item, _)]) => {
                let state = self.book.items[*item].state().map(super::book::State::as_str);
                assert_eq!(told.body["state"].as_str(), state, "{told:?}");
            }
            _ => {}
        }
    }

    fn see_open_refusal(&self, open: &Open, told: &Told) {
        match (told.problem(), &open.wishes[..]) {
            ((_, "INSUFFICIENT_STOCK"), [wish]) => {
                let (together, most) = self.book.offered(wish.sku);
                let expected = if open.split { together } else { most };
                assert_eq!(told.body["available"], expected, "{told:?}");
            }
            ((_, "INSUFFICIENT_STOCK"), _) => {
                for line in told.body["lines"].as_array().expect("lines that failed") {
                    let units = |name: &str| line[name].as_i64().unwrap_or_else(|| panic!("{name} in {told:?}"));
                    if line["code"] == "INSUFFICIENT_STOCK" {
                        assert!(units("available") < units("quantity"), "{told:?}");
                    }
                }
            }
            _ => {}
        }
    }

    /// A reservation, mostly one that stands like this.
    pub(super) fn any_reservation(&mut self, status: Status) -> Option<usize> {
        let all: Vec<usize> = (0..self.book.reservations.len()).collect();
        let like = |at: &usize| self.book.reservations[*at].status == status;
        let like: Vec<usize> = all.iter().copied().filter(like).collect();
        let from = if self.chance(80) && !like.is_empty() { like } else { all };
        self.any_of(from.len()).map(|at| from[at])
    }

    async fn end(&mut self, at: usize, word: &str) -> Told {
        let id = self.book.reservations[at].id.clone();
        let path = format!("{RESERVATIONS}/{id}/{word}");
        let (told, _) = self.insist(async || self.door.shop(&path, json!({})).await).await;
        self.note(format!("{word} {id}: {} {}", told.status, told.body));
        told
    }

    pub(super) async fn commit(&mut self) {
        let Some(at) = self.any_reservation(Status::Reserved) else {
            return;
        };
        if self.book.reservations[at].status == Status::Expired {
            return self.pay(at).await;
        }
        let told = self.end(at, "commit").await;
        match self.book.reservations[at].status {
            Status::Reserved if self.book.stands_still(at) => assert_eq!(told.problem(), (409, "SALE_FROZEN")),
            Status::Reserved => {
                assert_eq!(
                    (told.status, &told.body["status"]),
                    (200, &json!("COMMITTED")),
                    "{told:?}"
                );
                self.book.end(at, Status::Committed);
            }
            Status::Committed => assert_eq!((told.status, &told.body["status"]), (200, &json!("COMMITTED"))),
            _ => assert_eq!(told.problem(), (409, "RESERVATION_RELEASED")),
        }
    }

    pub(super) async fn pay_late(&mut self) {
        let expired = |at: &usize| self.book.reservations[*at].status == Status::Expired;
        let late: Vec<usize> = (0..self.book.reservations.len()).filter(expired).collect();
        if let Some(at) = self.any_of(late.len()) {
            self.pay(late[at]).await;
        }
    }

    async fn pay(&mut self, at: usize) {
        let expected = self.book.rescue(at);
        let told = self.end(at, "commit").await;
        if self.book.stands_still(at) {
            return assert_eq!(told.problem(), (409, "SALE_FROZEN"));
        }
        let got = told.status == 200;
        assert_eq!(got, expected.unwrap_or(got), "{told:?}");
        if got {
            assert_eq!(told.body["status"], "COMMITTED");
            assert_eq!(told.body["rescued"], true, "{told:?}");
            self.book.buy_late(at);
        } else {
            assert_eq!(
                (told.problem(), &told.body["refundRequired"]),
                ((409, "RESERVATION_EXPIRED"), &json!(true))
            );
        }
    }

    pub(super) async fn release(&mut self) {
        let Some(at) = self.any_reservation(Status::Reserved) else {
            return;
        };
        let told = self.end(at, "release").await;
        match self.book.reservations[at].status {
            Status::Committed => return assert_eq!(told.problem(), (409, "RESERVATION_COMMITTED")),
            Status::Reserved => self.book.end(at, Status::Released),
            Status::Released | Status::Expired => {}
        }
        let status = self.book.reservations[at].status.as_str();
        assert_eq!(
            (told.status, told.body["status"].as_str()),
            (200, Some(status)),
            "{told:?}"
        );
    }

    pub(super) async fn extend(&mut self) {
        let Some(at) = self.any_reservation(Status::Reserved) else {
            return;
        };
        // Twice, for a payment that has begun has its grace ever after.
        for _ in 0..2 {
            self.extend_once(at).await;
        }
    }

    async fn extend_once(&mut self, at: usize) {
        let id = self.book.reservations[at].id.clone();
        let before = self.door.reservation(&id).await.expect(200);
        let ttl_s = self.random.random_range(1..5_000);
        let mut body = json!({"ttlSeconds": ttl_s});
        let pays = self.chance(30);
        if pays {
            body["reason"] = json!("payment_started");
        }
        let path = format!("{RESERVATIONS}/{id}/extend");
        let (told, _) = self.insist(async || self.door.shop(&path, body.clone()).await).await;
        self.note(format!("extend {id} {body}: {} {}", told.status, told.body));
        let code = match self.book.reservations[at].status {
            Status::Reserved if self.book.stands_still(at) => "SALE_FROZEN",
            Status::Reserved => {
                let held = &mut self.book.reservations[at];
                held.pays |= pays;
                let hold = HOLD_MAX + if held.pays { PAYMENT_GRACE } else { TimeDelta::zero() };
                let told = told.expect(200);
                let asked = instant(&told["updatedAt"]) + TimeDelta::seconds(ttl_s);
                let longest = self.made_at(&id).await + hold;
                let expected = asked.min(longest).max(instant(&before["expiresAt"]));
                return assert_eq!(instant(&told["expiresAt"]), expected, "{before} {told}");
            }
            Status::Committed => "RESERVATION_COMMITTED",
            Status::Released => "RESERVATION_RELEASED",
            Status::Expired => "RESERVATION_EXPIRED",
        };
        assert_eq!(told.problem(), (409, code));
    }

    /// When a reservation was made, of a cart its last part: each counts from its own.
    async fn made_at(&self, id: &str) -> DateTime<Utc> {
        let last: DateTime<Utc> = sqlx::query_scalar(
            "SELECT max(created_at) FROM inventory_reservation WHERE coalesce(cart_id, reservation_id) = $1",
        )
        .bind(super::check::uuid(id))
        .fetch_one(&self.door.pool)
        .await
        .expect("reads");
        last.trunc_subsecs(3)
    }

    /// Moves a reservation's clock.
    pub(super) async fn expire(&mut self) {
        let open = |at: &usize| self.book.reservations[*at].status == Status::Reserved && !self.book.stands_still(*at);
        let open: Vec<usize> = (0..self.book.reservations.len()).filter(open).collect();
        let Some(at) = self.any_of(open.len()).map(|at| open[at]) else {
            return;
        };
        let id = self.book.reservations[at].id.clone();
        self.note(format!("expire {id}"));
        sqlx::query(
            "UPDATE inventory_reservation SET expires_at = created_at - interval '1 day'
             WHERE coalesce(cart_id, reservation_id) = $1",
        )
        .bind(super::check::uuid(&id))
        .execute(&self.door.pool)
        .await
        .expect("writes");
        until("the expiry", async || {
            (self.door.reservation(&id).await.body["status"] == "EXPIRED").then_some(())
        })
        .await;
        self.book.end(at, Status::Expired);
    }

    pub(super) async fn give_back(&mut self) {
        let repeated = self.any_of(self.book.returns.len()).filter(|_| self.chance(25));
        if let Some(n) = repeated {
            return self.give_back_again(n).await;
        }
        let Some(at) = self.any_reservation(Status::Committed) else {
            return;
        };
        let held = &self.book.reservations[at];
        let lines: Vec<(usize, i64)> = held
            .lines
            .iter()
            .map(|line| (line.item, line.units - line.returned))
            .collect();
        let left: i64 = lines.iter().map(|(_, left)| left).sum();
        let condition = if self.chance(60) { "sellable" } else { "damaged" };
        let mut body = json!({"returnId": self.fresh("r"), "condition": condition});
        let wanted: Vec<(usize, i64)> = if self.chance(30) {
            lines.iter().copied().filter(|(_, left)| *left > 0).collect()
        } else if lines.len() == 1 && self.chance(50) {
            let units = self.random.random_range(1..=3);
            body["quantity"] = json!(units);
            vec![(lines[0].0, units)]
        } else {
            let (item, _) = lines[self.random.random_range(0..lines.len())];
            let units = self.random.random_range(1..=3);
            body["lines"] = json!([self.line(item, units)]);
            vec![(item, units)]
        };
        let told = self.send_back(at, &body).await;
        if self.book.reservations[at].status != Status::Committed {
            return assert_eq!(told.problem(), (409, "NOT_COMMITTED"));
        }
        let fits = |(item, units): &(usize, i64)| lines.iter().any(|(of, left)| of == item && left >= units);
        if wanted.is_empty() || !wanted.iter().all(fits) {
            assert_eq!(told.problem(), (409, "RETURN_EXCEEDS_COMMITTED"));
            return assert_eq!(told.body["returnable"], left);
        }
        let back: i64 = wanted.iter().map(|(_, units)| units).sum();
        let shown: Vec<Value> = wanted.iter().map(|(item, units)| self.line(*item, *units)).collect();
        let told = told.expect(201);
        assert_eq!(
            (&told["lines"], &told["returnable"]),
            (&json!(shown), &json!(left - back))
        );
        for (item, units) in wanted {
            let of = |line: &&mut super::book::Line| line.item == item;
            let line = self.book.reservations[at].lines.iter_mut().find(of).expect("it has it");
            line.returned += units;
            let is = &mut self.book.items[item].is;
            is.returned += units;
            if condition == "damaged" {
                is.unavailable += units;
                is.damaged += units;
            }
            self.book.move_on_hand(item, units, None);
        }
        let id = body["returnId"].as_str().expect("text").to_owned();
        self.book.returns.push((id, body, at, told));
    }

    /// The same again is answered as at first; another under its name is refused.
    async fn give_back_again(&mut self, n: usize) {
        let (_, mut body, at, first) = self.book.returns[n].clone();
        if self.chance(50) {
            let told = self.send_back(at, &body).await;
            return assert_eq!((told.status, told.replayed, told.body), (201, true, first));
        }
        let other = if body["condition"] == "damaged" {
            "sellable"
        } else {
            "damaged"
        };
        body["condition"] = json!(other);
        let told = self.send_back(at, &body).await;
        assert_eq!(told.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    }

    async fn send_back(&mut self, at: usize, body: &Value) -> Told {
        let path = format!("{RESERVATIONS}/{}/returns", self.book.reservations[at].id);
        let (told, _) = self.insist(async || self.door.shop(&path, body.clone()).await).await;
        self.note(format!("return {body}: {} {}", told.status, told.body));
        told
    }
}
