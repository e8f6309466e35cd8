//! The warehouse: receipts, adjustments, transfers, counts, undoing, and safety stock.

use rand::Rng;
use serde_json::{Value, json};

use super::book::{Adjustment, Approval, Mark, Moved, PLACES, State, image};
use super::orders::now;
use super::{Play, UNITS_ALONE, UNITS_CORRECTED};
use crate::support::door::Told;
use flashgate::domain::balance::Balance;

const ADJUSTMENTS: &str = "/api/inventory/adjustments";

/// The rule that wants a second person for a change by hand that leaves this, if one does.
fn second_person(delta: i64, after: &Balance) -> Option<&'static str> {
    let is_short = after.on_hand - after.reserved - after.unavailable < after.safety_stock;
    match () {
        () if delta.abs() > UNITS_ALONE => Some("size"),
        () if delta < 0 && is_short => Some("safety_stock"),
        () => None,
    }
}

impl Play {
    pub(super) async fn receive(&mut self, item: usize) {
        let units = self.random.random_range(1..=25);
        self.change(item, units, "stock_received").await;
    }

    pub(super) async fn adjust(&mut self) {
        let repeated = self.book.adjustments.len();
        if repeated > 0 && self.chance(15) {
            let at = self.random.random_range(0..repeated);
            return self.adjust_again(at).await;
        }
        let reason = [
            "manual_correction",
            "damaged",
            "lost",
            "return_processed",
            "cycle_count_correction",
            "supplier_shipment_correction",
        ][self.random.random_range(0..6)];
        let units = self.random.random_range(1..=UNITS_ALONE + 3);
        let delta = match reason {
            "damaged" | "lost" => -units,
            "return_processed" => units,
            _ if self.chance(60) => -units,
            _ => units,
        };
        let item = self.any_item();
        self.change(item, delta, reason).await;
    }

    /// The same again is answered as at first; another delta under its reference is refused.
    async fn adjust_again(&mut self, at: usize) {
        let first = &self.book.adjustments[at];
        let (mut sent, told) = (first.sent.clone(), first.told.clone());
        if self.chance(50) {
            let (again, _) = self.post_as("ann", ADJUSTMENTS, &sent).await;
            return assert_eq!((again.status, again.replayed, again.body), (201, true, told));
        }
        let delta = sent["delta"].as_i64().expect("a number");
        sent["delta"] = json!(delta * 2);
        let (other, _) = self.post_as("ann", ADJUSTMENTS, &sent).await;
        assert_eq!(other.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
    }

    async fn change(&mut self, item: usize, delta: i64, reason: &'static str) {
        let sent = json!({"skuId": self.book.sku(item), "locationId": self.book.location(item), "delta": delta,
                          "reason": reason, "referenceId": self.fresh("a")});
        let (told, again) = self.post_as("ann", ADJUSTMENTS, &sent).await;
        self.note(format!("adjust {sent}: {} {}", told.status, told.body));
        let stock = &self.book.items[item];
        let missing = -delta - stock.unpromised();
        if missing > stock.is.escrowed {
            return self.see_shortage(item, &told);
        }
        let is_manual = !matches!(reason, "stock_received" | "return_processed");
        let after = Moved::by(reason, delta).of(stock.is);
        let why = second_person(delta, &after).filter(|_| is_manual);
        let Some(why) = why else {
            assert!(told.replayed <= again);
            return self.see_adjusted(item, delta, reason, &sent, told.expect(201));
        };
        let told = told.expect(202);
        assert_eq!(
            (&told["status"], &told["why"]),
            (&json!("PENDING_APPROVAL"), &json!(why))
        );
        assert_eq!((&told["before"], &told["after"]), (&image(&stock.is), &image(&after)));
        self.book.approvals.push(Approval {
            id: told["approvalId"].as_str().expect("an id").to_owned(),
            item,
            delta,
            reason,
            sent,
            status: "PENDING",
            told: None,
        });
    }

    /// What stands in the way of a correction is told.
    pub(super) fn see_shortage(&self, item: usize, told: &Told) {
        self.see_short(item, told, self.book.items[item].unpromised());
    }

    /// What stands in the way of setting units aside, or sending them elsewhere, is told.
    pub(super) fn see_not_free(&self, item: usize, told: &Told) {
        let stock = &self.book.items[item];
        self.see_short(item, told, stock.free().max(0));
        assert_eq!(told.body["safetyStock"], stock.is.safety_stock, "{told:?}");
    }

    fn see_short(&self, item: usize, told: &Told, available: i64) {
        let stock = &self.book.items[item];
        assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"));
        for (name, units) in [
            ("available", available),
            ("onHand", stock.is.on_hand),
            ("reserved", stock.is.reserved),
            ("escrowed", stock.is.escrowed),
            ("unavailable", stock.is.unavailable),
        ] {
            assert_eq!(told.body[name], units, "{name} in {told:?}");
        }
    }

    /// An adjustment is carried out; what is missing comes from the item's sale.
    pub(super) fn see_adjusted(&mut self, item: usize, delta: i64, reason: &str, sent: &Value, told: Value) {
        let stock = &mut self.book.items[item];
        stock.give_up(-delta - stock.unpromised());
        assert_eq!(told["before"], image(&stock.is), "{told}");
        let moved = Moved::by(reason, delta);
        self.book.carry_out(item, moved);
        assert_eq!(told["after"], image(&self.book.items[item].is), "{told}");
        self.book.adjustments.push(Adjustment {
            step: self.book.step,
            event: told["eventId"].as_i64().expect("a number"),
            item,
            moved,
            sent: sent.clone(),
            told,
            undone: None,
        });
    }

    pub(super) async fn transfer(&mut self) {
        const TRANSFERS: &str = "/api/inventory/transfers";
        let known = self.book.transfers.len();
        if known > 0 && self.chance(25) {
            let (mut body, first) = self.book.transfers[self.random.random_range(0..known)].clone();
            if self.chance(50) {
                let (again, _) = self.post_as("ann", TRANSFERS, &body).await;
                return assert_eq!((again.status, again.replayed, again.body), (201, true, first));
            }
            body["quantity"] = json!(body["quantity"].as_i64().expect("a number") + 1);
            let (other, _) = self.post_as("ann", TRANSFERS, &body).await;
            return assert_eq!(other.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
        }
        let from = self.any_item();
        // Items of one SKU lie side by side.
        let further = from % PLACES + self.random.random_range(1..PLACES);
        let to = from - from % PLACES + further % PLACES;
        let units = self.random.random_range(1..=8);
        let body = json!({"transferId": self.fresh("t"), "skuId": self.book.sku(from), "quantity": units,
                          "fromLocationId": self.book.location(from), "toLocationId": self.book.location(to)});
        let (told, _) = self.post_as("ann", TRANSFERS, &body).await;
        self.note(format!("transfer {body}: {} {}", told.status, told.body));
        if self.book.closed[self.book.items[to].location] {
            return assert_eq!(told.problem(), (409, "LOCATION_INACTIVE"));
        }
        if units > self.book.items[from].free() {
            return self.see_not_free(from, &told);
        }
        let told = told.expect(201);
        for (side, item, delta) in [("from", from, -units), ("to", to, units)] {
            assert_eq!(told[side]["before"], image(&self.book.items[item].is));
            self.book.move_on_hand(item, delta, None);
            assert_eq!(told[side]["after"], image(&self.book.items[item].is));
            self.book.firm.push(told[side]["eventId"].as_i64().expect("a number"));
        }
        self.book.transfers.push((body, told));
    }

    /// Somebody counts now, and will send it later.
    pub(super) async fn mark(&mut self) {
        let at = now(&self.door).await;
        let step = self.book.step;
        self.book.marks.push(Mark { step, at });
        // What comes next must lie in a later millisecond.
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }

    pub(super) async fn count(&mut self) {
        const COUNTS: &str = "/api/inventory/counts";
        let known = self.book.counts.len();
        if known > 0 && self.chance(20) {
            let (mut body, first) = self.book.counts[self.random.random_range(0..known)].clone();
            if self.chance(50) {
                let (again, _) = self.post_as("ann", COUNTS, &body).await;
                return assert_eq!((again.status, again.replayed, again.body), (201, true, first));
            }
            body["lines"][0]["counted"] = json!(body["lines"][0]["counted"].as_i64().expect("a number") + 1);
            let (other, _) = self.post_as("ann", COUNTS, &body).await;
            return assert_eq!(other.problem(), (422, "IDEMPOTENCY_KEY_REUSED"));
        }
        if self.book.marks.is_empty() || self.chance(60) {
            self.mark().await;
        }
        let at = self.random.random_range(0..self.book.marks.len());
        let at = if self.chance(60) { self.book.marks.len() - 1 } else { at };
        let mark = self.book.marks[at];
        let place = self.random.random_range(0..self.book.locations.len());
        let here = |item: &usize| self.book.items[*item].location == place;
        let mut items: Vec<usize> = (0..self.book.items.len()).filter(here).collect();
        if self.chance(50) {
            items.truncate(1);
        }
        let mut lines = Vec::new();
        for item in items {
            let off = self.random.random_range(-UNITS_CORRECTED - 1..=UNITS_CORRECTED + 1);
            let off = if self.chance(30) { 0 } else { off };
            lines.push((item, (self.then_on_hand(item, mark) + off).max(0)));
        }
        let source = if self.chance(50) { "warehouse" } else { "seller_feed" };
        let shown: Vec<Value> = lines
            .iter()
            .map(|(item, counted)| json!({"skuId": self.book.sku(*item), "counted": counted}))
            .collect();
        let body = json!({"countId": self.fresh("c"), "source": source, "countedAt": mark.at, "lines": shown,
                          "locationId": self.book.locations[place]});
        let (told, _) = self.post_as("ann", COUNTS, &body).await;
        self.note(format!("count {body}: {} {}", told.status, told.body));
        if lines
            .iter()
            .any(|(item, _)| self.book.items[*item].counted_at >= Some(mark.at))
        {
            return assert_eq!(told.problem(), (409, "STALE_COUNT"));
        }
        let told = told.expect(201);
        self.see_counted(&lines, mark, &told);
        self.book.counts.push((body, told));
    }

    /// On hand at a mark, as a count is compared with it: what moved since is taken out, but for corrections by counts
    /// that were made before.
    fn then_on_hand(&self, item: usize, mark: Mark) -> i64 {
        let stock = &self.book.items[item];
        let later = stock.moves.iter().filter(|(step, _, counted_at)| {
            *step > mark.step && counted_at.is_none_or(|counted_at| counted_at > mark.at)
        });
        stock.is.on_hand - later.map(|(_, delta, _)| delta).sum::<i64>()
    }

    fn see_counted(&mut self, lines: &[(usize, i64)], mark: Mark, told: &Value) {
        assert_eq!(told["compared"], lines.len(), "{told}");
        let found = told["discrepancies"].as_array().expect("discrepancies");
        let mut different = 0;
        for (item, counted) in lines {
            let expected = self.then_on_hand(*item, mark);
            let delta = counted - expected;
            let of = |found: &&Value| found["skuId"] == self.book.sku(*item);
            let said = found.iter().find(of);
            if delta == 0 {
                assert_eq!(said, None, "{told}");
                self.book.items[*item].counted_at = Some(mark.at);
                continue;
            }
            different += 1;
            let said = said.unwrap_or_else(|| panic!("{delta} are not told: {told}"));
            assert_eq!(
                (&said["expected"], &said["found"]),
                (&json!(expected), &json!(counted)),
                "{told}"
            );
            let stock = &mut self.book.items[*item];
            let missing = -delta - stock.unpromised();
            let is_promised = missing > stock.is.escrowed || missing > 0 && stock.state() == Some(State::Frozen);
            if delta.abs() > UNITS_CORRECTED || is_promised {
                assert_eq!(said["status"], "manual_review", "{told}");
                assert!(said["eventId"].is_null(), "{told}");
                continue;
            }
            stock.give_up(missing);
            stock.counted_at = Some(mark.at);
            self.book.move_on_hand(*item, delta, Some(mark.at));
            self.book
                .firm
                .push(said["eventId"].as_i64().expect("the event that corrected it"));
        }
        assert_eq!(found.len(), different, "{told}");
    }

    pub(super) async fn undo(&mut self) {
        if !self.book.firm.is_empty() && self.chance(20) {
            let event = self.book.firm[self.random.random_range(0..self.book.firm.len())];
            let (told, _) = self
                .post_as("bob", &format!("/admin/events/{event}/undo"), &json!({}))
                .await;
            return assert_eq!(told.problem(), (409, "NOT_UNDOABLE"));
        }
        if self.book.adjustments.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.book.adjustments.len());
        let wrong = &self.book.adjustments[at];
        let (event, item, moved, before) = (wrong.event, wrong.item, wrong.moved.reversed(), wrong.undone.clone());
        let step = wrong.step;
        let (told, again) = self
            .post_as("bob", &format!("/admin/events/{event}/undo"), &json!({}))
            .await;
        self.note(format!("undo {event}: {} {}", told.status, told.body));
        if let Some(first) = before {
            return assert_eq!((told.status, told.replayed, told.body), (201, true, first));
        }
        if moved.on_hand != 0 && self.book.is_counted_since(item, step) {
            return assert_eq!(told.problem(), (409, "NOT_UNDOABLE"));
        }
        let is = self.book.items[item].is;
        let after = moved.of(is);
        let missing = after.reserved + after.unavailable + after.escrowed - after.on_hand;
        if after.unavailable < 0 || after.damaged < 0 || after.returned < 0 || missing > is.escrowed {
            return self.see_shortage(item, &told);
        }
        assert!(told.replayed <= again);
        let delta = -self.book.adjustments[at].sent["delta"].as_i64().expect("units");
        if let Some(why) = second_person(delta, &after) {
            return self.reject_undo(event, why, told.expect(202)).await;
        }
        let told = told.expect(201);
        self.book.items[item].give_up(missing);
        assert_eq!(told["before"], image(&self.book.items[item].is), "{told}");
        self.book.carry_out_as_of(step, item, moved);
        assert_eq!(told["after"], image(&self.book.items[item].is), "{told}");
        self.book.firm.push(told["eventId"].as_i64().expect("a number"));
        self.book.adjustments[at].undone = Some(told);
    }

    /// What is large takes two people to undo as well; this one is not undone.
    async fn reject_undo(&mut self, event: i64, why: &str, told: Value) {
        assert_eq!(
            (&told["status"], &told["why"], &told["undoes"]),
            (&json!("PENDING_APPROVAL"), &json!(why), &json!(event))
        );
        let id = told["approvalId"].as_str().expect("an id");
        let (told, _) = self
            .post_as("ann", &format!("/admin/approvals/{id}/reject"), &json!({}))
            .await;
        assert_eq!(told.expect(200)["status"], "REJECTED");
    }

    /// Units that shoppers are not offered: of a SKU everywhere, or at one location.
    pub(super) async fn keep_back(&mut self) {
        let item = self.any_item();
        let units = self.random.random_range(0..=6);
        let (sku, location) = (self.book.items[item].sku, self.book.location(item).to_owned());
        let path = format!("/admin/skus/{}", self.book.skus[sku]);
        if self.chance(40) {
            self.note(format!("keep back {units} of {path}"));
            let body = json!({"display": "exact", "safetyStock": units});
            self.door.put(&path, body).await.expect(200);
            self.book.safety[sku] = units;
        } else {
            let apart = self.chance(70).then_some(units);
            self.note(format!("keep back {apart:?} of {path} at {location}"));
            let body = json!({"safetyStock": apart});
            self.door
                .put(&format!("{path}/locations/{location}"), body)
                .await
                .expect(200);
            self.book.items[item].apart = apart.is_some();
            self.book.items[item].is.safety_stock = apart.unwrap_or(self.book.safety[sku]);
        }
        let safety = self.book.safety[sku];
        let follows = |stock: &&mut super::book::Stock| stock.sku == sku && !stock.apart;
        for stock in self.book.items.iter_mut().filter(follows) {
            stock.is.safety_stock = safety;
        }
    }
}
