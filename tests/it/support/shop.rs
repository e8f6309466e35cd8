//! A ledger of one's own with an item, a sale and reservations in it, written as the batch writer leaves them.

use chrono::{DateTime, Utc};
use flashgate::domain::key::{Fingerprint, KeyHash};
use flashgate::domain::lane::{LaneNo, Nonce};
use flashgate::domain::reservation::{Ending, Status};
use flashgate::domain::reservation_id::{IdKey, Place, ReservationId};
use flashgate::domain::trace::TraceId;
use flashgate::ledger::{EndAnswer, EndAsk, ExtendAnswer, ExtendAsk, Ledger, Settings};
use sqlx::PgPool;
use std::sync::atomic::{AtomicU64, Ordering};

use super::servers::shared;

pub(crate) const LANE: LaneNo = LaneNo(3);
pub(crate) const ID_KEY: IdKey = IdKey([7; 32]);

/// 1,000 units of `sku1` at `wh1`, 100 of them set aside for the live sale `s1` in lane 3.
pub(crate) struct Shop {
    pub(crate) ledger: Ledger,
    pub(crate) pool: PgPool,
    next: AtomicU64,
}

/// What stands in the balance.
#[derive(Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Stock {
    pub(crate) on_hand: i64,
    pub(crate) reserved: i64,
    pub(crate) escrowed: i64,
    pub(crate) sold: i64,
}

/// A reservation to be made.
pub(crate) struct Wish {
    pub(crate) quantity: i64,
    pub(crate) explicit_key: Option<KeyHash>,
    /// Relative to now, in ms.
    pub(crate) created_ms: i64,
    pub(crate) expires_ms: i64,
    pub(crate) on_sale: bool,
}

impl Default for Wish {
    fn default() -> Self {
        Wish {
            quantity: 2,
            explicit_key: None,
            created_ms: 0,
            expires_ms: 900_000,
            on_sale: true,
        }
    }
}

impl Shop {
    pub(crate) async fn open() -> Shop {
        let url = shared().await.database().await;
        let pool = PgPool::connect_lazy(&url).expect("the URL is good");
        let settings = Settings {
            connections_max: 6,
            ..Settings::new(&url)
        };
        let ledger = Ledger::new(&settings).expect("the URL is good");
        ledger.migrate(16).await.expect("migrates");
        sqlx::raw_sql(
            "UPDATE deployment SET id_secret = decode(repeat('07', 32), 'hex');
             INSERT INTO location (location_id, name, kind, region) VALUES ('wh1', 'One', 'warehouse', 'eu');
             INSERT INTO sku (sku_id) VALUES ('sku1');
             INSERT INTO inventory_balance (sku_id, location_id, on_hand, escrowed) VALUES ('sku1', 'wh1', 1000, 100);
             INSERT INTO sale (sale_id, sku_id, location_id, state, allocation, hold_ms, hold_max_ms, lanes, ack_wait_ms)
                 VALUES ('s1', 'sku1', 'wh1', 'live', 100, 900000, 3600000, '{3}', 1000)",
        )
        .execute(&pool)
        .await
        .expect("the item is new");
        Shop {
            ledger,
            pool,
            next: AtomicU64::new(1),
        }
    }

    /// A reservation that has become durable; its order is `o<n>`.
    pub(crate) async fn reserve(&self, wish: Wish) -> ReservationId {
        if wish.created_ms < 0 {
            // Shortly after midnight that was yesterday.
            self.sql(&format!(
                "SELECT ensure_day(clock_timestamp() + {} * interval '1 ms')",
                wish.created_ms
            ))
            .await;
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let id = ID_KEY.seal(LANE, Place::new(1, n, 0, Nonce(n.to_be_bytes())));
        let order = format!("o{n}");
        let line = KeyHash::order_line(&order, "sku1", "wh1");
        sqlx::query(
            "WITH durable AS (
                 UPDATE inventory_balance SET reserved = reserved + $3, escrowed = escrowed - CASE WHEN $9 THEN $3 ELSE 0 END
             ), key AS (
                 INSERT INTO inventory_key (key_hash, subject_id, fingerprint, derived)
                 SELECT k, $1, 1, NOT $6 FROM UNNEST(ARRAY[$4, $5]) AS k GROUP BY k
             )
             INSERT INTO inventory_reservation (reservation_id, order_id, user_id, sku_id, location_id, quantity, status,
                 sale_no, lane, key_hash, fingerprint, explicit_key, trace_id, expires_at, created_at, updated_at)
             VALUES ($1, $2, 'u9', 'sku1', 'wh1', $3, 'RESERVED', CASE WHEN $9 THEN 1 END, CASE WHEN $9 THEN 3::int2 END,
                 $4, 1, $6, $1, clock_timestamp() + $7 * interval '1 ms', clock_timestamp() + $8 * interval '1 ms',
                 clock_timestamp())",
        )
        .bind(id.0)
        .bind(order)
        .bind(wish.quantity)
        .bind(wish.explicit_key.unwrap_or(line).to_uuid())
        .bind(line.to_uuid())
        .bind(wish.explicit_key.is_some())
        .bind(wish.expires_ms)
        .bind(wish.created_ms)
        .bind(wish.on_sale)
        .execute(&self.pool)
        .await
        .expect("the reservation is new");
        id
    }

    /// The answer to one ask.
    pub(crate) async fn end(&self, ask: EndAsk) -> EndAnswer {
        self.ledger.end(&[ask]).await.expect("Postgres answers").remove(0)
    }

    /// The answer to a wish for this much time from now.
    pub(crate) async fn extend(&self, id: ReservationId, ttl_ms: i64) -> ExtendAnswer {
        let answers = self.ledger.extend(&[extension(id, ttl_ms)]).await;
        answers.expect("Postgres answers").remove(0)
    }

    pub(crate) async fn status(&self, id: ReservationId) -> Status {
        let reservation = self.ledger.reservation(id).await.expect("Postgres answers");
        reservation.expect("the reservation is there").status
    }

    /// Runs SQL that the test needs; one statement or several.
    pub(crate) async fn sql(&self, statements: &str) {
        sqlx::raw_sql(statements)
            .execute(&self.pool)
            .await
            .expect("the statement is good");
    }

    /// One number from SQL.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(query)
            .fetch_one(&self.pool)
            .await
            .expect("the query is good")
    }

    /// One instant from SQL.
    pub(crate) async fn instant(&self, query: &str) -> DateTime<Utc> {
        sqlx::query_scalar(query)
            .fetch_one(&self.pool)
            .await
            .expect("the query is good")
    }

    pub(crate) async fn stock(&self) -> Stock {
        sqlx::query_as("SELECT on_hand, reserved, escrowed, sold FROM inventory_balance")
            .fetch_one(&self.pool)
            .await
            .expect("the balance is there")
    }

    /// Committed, released and expired units of the sale.
    pub(crate) async fn tally(&self) -> (i64, i64, i64) {
        sqlx::query_as("SELECT committed, released, expired FROM sale_tally")
            .fetch_optional(&self.pool)
            .await
            .expect("the query is good")
            .unwrap_or_default()
    }
}

/// Asks for a commit with this payment.
pub(crate) fn commit(id: ReservationId, payment: &str) -> EndAsk {
    EndAsk {
        id,
        ending: Ending::Commit,
        detail: Some(payment.to_owned()),
        key: None,
        trace: TraceId([5; 16]),
        operator: None,
        unless_in_cart: false,
        from_newer_sales: false,
    }
}

/// Asks for a release.
pub(crate) fn release(id: ReservationId) -> EndAsk {
    EndAsk {
        ending: Ending::Release,
        detail: Some("changed my mind".to_owned()),
        ..commit(id, "")
    }
}

/// The same with a key of the client's own; the fingerprint is that of the payment.
pub(crate) fn with_key(ask: EndAsk, key: &str) -> EndAsk {
    let detail = ask.detail.clone().unwrap_or_default();
    let operation = if ask.ending == Ending::Commit {
        "commit"
    } else {
        "release"
    };
    let hashes = (
        KeyHash::explicit(operation, key),
        Fingerprint::of(&[&ask.id.to_string(), &detail]),
    );
    EndAsk {
        key: Some(hashes),
        ..ask
    }
}

/// Asks for this much time from now.
pub(crate) fn extension(id: ReservationId, ttl_ms: i64) -> ExtendAsk {
    ExtendAsk {
        id,
        ttl_ms,
        reason: None,
        trace: TraceId([6; 16]),
    }
}
