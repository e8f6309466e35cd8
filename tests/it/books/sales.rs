//! The operator: sales that are made, steered, resized and stopped.

use rand::Rng;
use serde_json::json;

use super::Play;
use super::book::{Sale, State};

impl Play {
    pub(super) async fn steer(&mut self) {
        let item = self.any_item();
        match self.random.random_range(0..100) {
            _ if self.book.items[item].sale.is_none() => self.create(item).await,
            0..8 => self.create(item).await,
            8..38 => self.resize(item).await,
            38..52 => self.act(item, "start").await,
            52..57 => self.act(item, "pause").await,
            57..69 => self.act(item, "resume").await,
            69..72 => self.act(item, "freeze").await,
            72..84 => self.act(item, "unfreeze").await,
            _ => self.act(item, "stop").await,
        }
    }

    async fn create(&mut self, item: usize) {
        let free = self.book.items[item].free().max(1);
        let allocation = self.random.random_range(1..=free + 1);
        let buckets = self.random.random_range(1..=3);
        let limit = self.chance(25).then(|| self.random.random_range(2..=6));
        let state = match self.random.random_range(0..100) {
            0..12 => State::Draft,
            12..18 => State::Scheduled,
            _ => State::Live,
        };
        let id = self.fresh("sale");
        let mut body = json!({"saleId": id, "skuId": self.book.sku(item), "locationId": self.book.location(item),
                              "allocation": allocation, "buckets": buckets});
        if let Some(limit) = limit {
            body["perUserLimit"] = json!(limit);
        }
        match state {
            State::Scheduled => body["startsAt"] = json!("2999-01-01T00:00:00.000Z"),
            State::Live => body["startsAt"] = json!("2020-01-01T00:00:00.000Z"),
            _ => {}
        }
        // Asked again, it would exist: its own key tells.
        let key = [("idempotency-key", id.as_str())];
        let ask = async || {
            let body = body.clone();
            self.door
                .admin_with(reqwest::Method::POST, "/admin/sales", body, &key)
                .await
        };
        let (told, _) = self.insist(ask).await;
        self.note(format!("sale {body}: {} {}", told.status, told.body));
        if self.book.items[item].sale.is_some() {
            return assert_eq!(told.problem(), (409, "SALE_EXISTS"));
        }
        if allocation > self.book.items[item].free() {
            return self.see_not_free(item, &told);
        }
        let told = told.expect(201);
        assert_eq!(
            (&told["state"], &told["remaining"]),
            (&json!(state.as_str()), &json!(allocation))
        );
        self.book.sales += 1;
        let stock = &mut self.book.items[item];
        stock.is.escrowed += allocation;
        stock.sale = Some(Sale {
            id,
            no: self.book.sales,
            state,
            thaws_to: state,
            allocation,
            limit,
            buckets,
            committed: 0,
        });
    }

    /// Another allocation.
    async fn resize(&mut self, item: usize) {
        let stock = &self.book.items[item];
        let Some(sale) = &stock.sale else { return };
        let (id, before) = (sale.id.clone(), sale.allocation);
        let (free, more) = (stock.is.escrowed, stock.free().max(0));
        let allocation = (before + self.random.random_range(-free - 2..=more + 2)).max(1);
        let body = json!({"allocation": allocation});
        let path = format!("/admin/sales/{id}");
        let (told, _) = self.insist(async || self.door.patch(&path, body.clone()).await).await;
        self.note(format!(
            "resize {id} from {before} to {allocation}: {} {}",
            told.status, told.body
        ));
        let added = allocation - before;
        if added > more {
            assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"));
            return assert_eq!(told.body["available"], more, "{told:?}");
        }
        if -added > free {
            assert_eq!(told.problem(), (409, "INSUFFICIENT_STOCK"));
            return assert_eq!(told.body["held"], before - free, "{told:?}");
        }
        assert_eq!(told.expect(200)["allocation"], allocation);
        let stock = &mut self.book.items[item];
        stock.is.escrowed += added;
        if let Some(sale) = &mut stock.sale {
            sale.allocation = allocation;
        }
    }

    async fn act(&mut self, item: usize, word: &str) {
        let Some(sale) = &self.book.items[item].sale else {
            return;
        };
        let id = sale.id.clone();
        // None: it does not fit; the second none: it is over.
        let next = match (word, sale.state) {
            ("start", State::Draft | State::Scheduled | State::Live) => Some(Some(State::Live)),
            ("pause" | "resume", State::Draft | State::Scheduled | State::Frozen) | ("start", _) => None,
            ("pause", _) => Some(Some(State::Paused)),
            ("resume", _) => Some(Some(State::Live)),
            ("freeze", _) => Some(Some(State::Frozen)),
            ("unfreeze", State::Frozen) => Some(Some(sale.thaws_to)),
            ("unfreeze", state) => Some(Some(state)),
            _ => Some(None),
        };
        let (told, _) = self.insist(async || self.door.act(&id, word).await).await;
        self.note(format!("{word} {id}: {} {}", told.status, told.body));
        let stock = &mut self.book.items[item];
        let Some(sale) = &mut stock.sale else { return };
        match next {
            None => {
                assert_eq!(told.problem(), (409, "INVALID_SALE_STATE"));
                assert_eq!(told.body["state"], sale.state.as_str());
            }
            Some(Some(state)) => {
                if sale.state != State::Frozen {
                    sale.thaws_to = sale.state;
                }
                sale.state = state;
                assert_eq!(told.expect(200)["state"], state.as_str());
            }
            Some(None) => {
                assert_eq!(told.expect(200)["state"], "ended");
                stock.is.escrowed = 0;
                stock.sale = None;
            }
        }
    }
}
