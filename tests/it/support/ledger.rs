//! A ledger of one's own with lanes that are open, and the equations that hold at every commit.

use flashgate::domain::entry::{Entry, Slip};
use flashgate::domain::id::{Item, LocationId, SaleId, Sku};
use flashgate::domain::lane::{Cursor, LaneNo};
use flashgate::domain::reservation_id::{IdKey, Place, ReservationId};
use flashgate::domain::sale::{RedisDown, Sale, SaleAction};
use flashgate::domain::trace::TraceId;
use flashgate::ledger::adjust::{Adjust, Adjusted, Reason};
use flashgate::ledger::apply::{Applied, Batch, Done};
use flashgate::ledger::catalogue::{CatalogueSku, Location, Put};
use flashgate::ledger::grants::Numbered;
use flashgate::ledger::once::By;
use flashgate::ledger::recovery::Settled;
use flashgate::ledger::sale::{Acted, Created, NewSale};
use flashgate::ledger::sale_life::ActAnswer;
use flashgate::ledger::{EndAnswer, EndAsk, Ledger, LedgerError, Pace, Settings};
use sqlx::{ConnectOptions, PgPool};
use uuid::Uuid;

use super::door::until;
use super::road::{HOLD_MS, Road, nonce};
pub(crate) use super::road::{fresh, of_user, slip, with_key};
use super::servers::shared;

pub(crate) const LANES: u16 = 4;

/// A migrated ledger whose lanes are open and owned.
pub(crate) struct Desk {
    pub(crate) ledger: Ledger,
    pub(crate) pool: PgPool,
    pub(crate) id_key: IdKey,
    pub(crate) owner: Uuid,
}

/// A lane with a queue that is applied as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) road: Road,
    /// As the ledger has it.
    pub(crate) durable: Cursor,
}

impl Lane {
    /// It is so far.
    pub(crate) fn note(&mut self, done: Done) -> Done {
        self.durable = done.cursor;
        done
    }
}

pub(crate) fn by() -> By {
    By {
        operator: Some("ann".into()),
        trace: Some(TraceId([7; 16])),
    }
}

pub(crate) fn sku(text: &str) -> Sku {
    Sku::try_from(text).expect("a SKU")
}

/// Units that come in.
pub(crate) fn received(item: &Item, units: i64) -> Adjust {
    Adjust {
        item: item.clone(),
        delta: units,
        reason: Reason::StockReceived,
        reference: None,
        note: None,
        key: None,
    }
}

pub(crate) fn place() -> LocationId {
    LocationId::try_from("wh1").expect("a location")
}

impl Desk {
    pub(crate) async fn open() -> Desk {
        Desk::at(&shared().await.database().await).await
    }

    /// Over this database, which is empty.
    pub(crate) async fn at(url: &str) -> Desk {
        let settings = Settings {
            connections_max: 8,
            ..Settings::new(url)
        };
        let ledger = Ledger::new(&settings).expect("an address");
        ledger.migrate(LANES).await.expect("migrates");
        let pool = PgPool::connect_lazy(url).expect("an address");
        let id_key = ledger.deployment().await.expect("is migrated").id_key;
        let desk = Desk {
            ledger,
            pool,
            id_key,
            owner: Uuid::new_v4(),
        };
        desk.put_location().await;
        desk.ledger.beat(desk.owner, "desk").await.expect("beats");
        let lanes = desk
            .ledger
            .claim_lanes(desk.owner, usize::from(LANES), &[])
            .await
            .expect("claims");
        assert_eq!(lanes.len(), usize::from(LANES));
        desk
    }

    async fn put_location(&self) {
        let location = Location {
            id: place(),
            name: "One".into(),
            kind: "warehouse".into(),
            region: "eu".into(),
            latitude: None,
            longitude: None,
            shipping_cost: None,
            handling_hours: None,
            daily_capacity: None,
            priority: 0,
            active: true,
        };
        assert_eq!(
            self.ledger.put_location(&location, None).await.expect("puts"),
            Put::Done
        );
    }

    /// Units of a new SKU.
    pub(crate) async fn stock(&self, name: &str, units: i64) -> Item {
        let new = CatalogueSku {
            sku: sku(name),
            name: None,
            exact: true,
            low_stock_threshold: None,
            safety_stock: 0,
        };
        assert_eq!(self.ledger.put_sku(&new, &by(), None).await.expect("puts"), Put::Done);
        let item = Item {
            sku: sku(name),
            location: place(),
        };
        let received = received(&item, units);
        let adjusted = self.ledger.adjust(&received, &by()).await.expect("adjusts");
        assert!(matches!(adjusted, Adjusted::Done(_)), "{adjusted:?}");
        item
    }

    /// A live sale of all units of a new SKU, in as many lanes as said; its grants wait.
    pub(crate) async fn sale(&self, name: &str, units: i64, limit: Option<u32>, buckets: u16) -> Sale {
        let item = self.stock(name, units).await;
        let new = NewSale {
            id: SaleId::try_from(name).expect("a sale id"),
            item,
            allocation: units,
            per_user_limit: limit,
            user_rate: None,
            hold_ms: HOLD_MS,
            hold_max_ms: 3_600_000,
            buckets,
            starts_at: None,
            ends_at: None,
            ack_wait_ms: 1_000,
            redis_down: RedisDown::Refuse,
            redis_down_rate: 1_000,
            undurable_max: None,
        };
        match self.ledger.create_sale(&new, &by(), None).await.expect("creates") {
            Created::Done(_) => self.act(name, SaleAction::Start).await.sale,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn act(&self, sale: &str, action: SaleAction) -> Acted {
        let id = SaleId::try_from(sale).expect("a sale id");
        match self.ledger.act(&id, action, &by(), None).await.expect("acts") {
            ActAnswer::Done(acted) => *acted,
            other => panic!("{action:?}: {other:?}"),
        }
    }

    /// Opens a lane at a new epoch, as recovery does, with nothing surviving.
    pub(crate) async fn lane(&self, lane: LaneNo) -> Lane {
        let nonce = nonce();
        let epoch = self.ledger.raise_epoch(&[lane], 0).await.expect("raises");
        let settled = self
            .ledger
            .settle_lane(lane, epoch, nonce, &[], &self.id_key)
            .await
            .expect("settles");
        let Settled::Done(image) = settled else {
            panic!("{settled:?}")
        };
        assert!(self.ledger.open_lane(lane, epoch).await.expect("opens"));
        let at = Cursor {
            epoch,
            seq: 0,
            nonce,
            total: 0,
        };
        let road = Road {
            lane,
            at,
            free: image.sales.iter().map(|sale| (sale.sale.no, sale.counter)).collect(),
            grant_no: image.grant_no,
            time: self.ledger.now().await.expect("a time"),
        };
        Lane { road, durable: at }
    }

    /// A live sale in one lane, which is open and has its units.
    pub(crate) async fn selling(&self, name: &str, units: i64, limit: Option<u32>) -> (Sale, Lane) {
        let sale = self.sale(name, units, limit, 1).await;
        let mut lane = self.lane(sale.lanes[0]).await;
        self.deliver(&mut lane).await;
        assert_eq!(lane.road.free.get(&sale.no), Some(&units));
        (sale, lane)
    }

    pub(crate) async fn try_apply(&self, lane: &Lane, entries: &[Entry]) -> Result<Applied, LedgerError> {
        let batch = Batch {
            lane: lane.road.lane,
            owner: self.owner,
            from: lane.durable,
            entries,
            id_key: &self.id_key,
        };
        self.ledger.apply(batch).await
    }

    /// Tries to make the entries of these lanes durable in one statement, as gateways do.
    pub(crate) async fn at_once(&self, queues: &[(Lane, Vec<Entry>)]) -> Result<Option<Vec<Done>>, LedgerError> {
        let ledger = self.ledger.apart(1, Pace::Tried);
        let done = self.at_once_over(&ledger, queues).await;
        ledger.close().await;
        done
    }

    pub(crate) async fn at_once_over(
        &self,
        ledger: &Ledger,
        queues: &[(Lane, Vec<Entry>)],
    ) -> Result<Option<Vec<Done>>, LedgerError> {
        let with_entries = queues.iter().filter(|(_, entries)| !entries.is_empty());
        let batches: Vec<Batch<'_>> = with_entries
            .map(|(lane, entries)| Batch {
                lane: lane.road.lane,
                owner: self.owner,
                from: lane.durable,
                entries,
                id_key: &self.id_key,
            })
            .collect();
        let entries = batches.iter().flat_map(|batch| batch.entries);
        let sales: Vec<i32> = entries
            .flat_map(|entry| &entry.touched)
            .map(|touched| touched.sale_no)
            .collect();
        let sales = ledger.sale_identities(&sales).await?;
        ledger.apply_at_once(&sales, &batches).await
    }

    /// Makes entries durable.
    pub(crate) async fn apply(&self, lane: &mut Lane, entries: &[Entry]) -> Done {
        match self.try_apply(lane, entries).await.expect("applies") {
            Applied::Done(done) => lane.note(done),
            other => panic!("{other:?}"),
        }
    }

    /// Accepts these slips in one call and makes them durable.
    pub(crate) async fn reserve(&self, lane: &mut Lane, sale: &Sale, slips: Vec<Slip>) -> Done {
        let entry = lane.road.reserve(sale.no, slips);
        self.apply(lane, &[entry]).await
    }

    /// The id of the reservation at `index` of the last call.
    pub(crate) fn id(&self, lane: &Lane, index: u8) -> ReservationId {
        let at = lane.road.at;
        self.id_key
            .seal(lane.road.lane, Place::new(at.epoch, at.seq, index, at.nonce))
    }

    pub(crate) async fn number(&self, lane: &Lane) -> Numbered {
        let (lane_no, epoch) = (lane.road.lane, lane.road.at.epoch);
        self.ledger
            .number_grants(lane_no, self.owner, epoch, 1_000)
            .await
            .expect("numbers")
    }

    /// Numbers what waits for the lane, delivers it and makes that durable.
    pub(crate) async fn deliver(&self, lane: &mut Lane) -> Option<Done> {
        assert_ne!(self.number(lane).await, Numbered::NotOwner);
        let entry = self.deliver_only(lane).await?;
        Some(self.apply(lane, &[entry]).await)
    }

    /// Delivers what has a number; the entry is not durable yet.
    pub(crate) async fn deliver_only(&self, lane: &mut Lane) -> Option<Entry> {
        let road = &mut lane.road;
        let grants = self
            .ledger
            .undelivered(road.lane, road.grant_no, 1_000)
            .await
            .expect("reads");
        (!grants.is_empty()).then(|| road.deliver(&grants))
    }

    pub(crate) async fn end(&self, ask: EndAsk) -> EndAnswer {
        self.ledger.end(&[ask]).await.expect("ends").remove(0)
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect(sql)
    }

    /// A ledger of one's own, whose sessions can be ended.
    pub(crate) fn own(&self) -> Ledger {
        let url = self.pool.connect_options().to_url_lossy();
        Ledger::new(&Settings::new(url.as_str())).expect("an address")
    }

    /// What Postgres counts of a table once the sessions have ended: then they tell.
    pub(crate) async fn counted(&self, what: &str, table: &str) -> i64 {
        let sessions = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name = 'flashgate'";
        until("the end of the sessions", async || {
            (self.count(sessions).await == 0).then_some(())
        })
        .await;
        let sum = format!(
            "SELECT sum({what})::int8 FROM pg_stat_user_tables JOIN pg_statio_user_tables USING (relid, schemaname, relname)
             WHERE relname LIKE '{table}'"
        );
        self.count(&sum).await
    }

    pub(crate) async fn run(&self, sql: &str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.expect(sql);
    }

    /// Status and cause of a reservation.
    pub(crate) async fn status(&self, id: ReservationId) -> String {
        sqlx::query_scalar(
            "SELECT concat_ws(' ', status::text, cause) FROM inventory_reservation WHERE reservation_id = $1",
        )
        .bind(id.0)
        .fetch_optional(&self.pool)
        .await
        .expect("reads")
        .unwrap_or_default()
    }

    /// The ledger's counter of a sale in a lane.
    pub(crate) async fn counter(&self, sale: &Sale, lane: &Lane) -> i64 {
        sqlx::query_scalar("SELECT counter FROM sale_bucket WHERE sale_no = $1 AND lane = $2")
            .bind(sale.no)
            .bind(lane.road.lane.to_i16())
            .fetch_one(&self.pool)
            .await
            .expect("a bucket")
    }

    pub(crate) async fn assert_books_balance(&self) {
        assert_books_balance(&self.pool).await;
    }
}

/// What holds at every commit, seen in one snapshot: escrow lies in counters, on the way or at the sale; balances are
/// the sums of their events; what is reserved is what reservations say; an allocation is all there.
pub(crate) async fn assert_books_balance(pool: &PgPool) {
    let wrong: Vec<(String, String, i64, i64)> = sqlx::query_as(
        "WITH sale_books AS (
                 SELECT s.*,
                     coalesce((SELECT sum(counter) FROM sale_bucket b WHERE b.sale_no = s.sale_no), 0)
                   + coalesce((SELECT sum(units) FROM lane_grant g
                               WHERE g.sale_no = s.sale_no AND kind IN ('units', 'end')), 0)
                   + s.recalled AS unsold,
                     coalesce((SELECT sum(quantity) FROM inventory_reservation r
                               WHERE r.sale_no = s.sale_no AND status IN ('RESERVED', 'COMMITTED')), 0) AS promised
                 FROM sale s
             ), books AS (
                 SELECT b.*,
                     coalesce((SELECT sum(unsold) FROM sale_books s
                               WHERE (s.sku_id, s.location_id) = (b.sku_id, b.location_id)), 0) AS unsold,
                     coalesce((SELECT sum(quantity) FROM inventory_reservation r
                               WHERE (r.sku_id, r.location_id) = (b.sku_id, b.location_id)
                                 AND status = 'RESERVED'), 0) AS promised
                 FROM inventory_balance b
             )
             SELECT 'escrowed', sku_id, escrowed, unsold::int8 FROM books WHERE escrowed <> unsold
             UNION ALL
             SELECT 'reserved', sku_id, reserved, promised::int8 FROM books WHERE reserved <> promised
             UNION ALL
             SELECT 'allocation', sale_id, allocation, (unsold + promised)::int8 FROM sale_books
             WHERE state <> 'ended' AND allocation <> unsold + promised
             UNION ALL
             SELECT 'events', b.sku_id, b.on_hand, sum(e.on_hand_delta)::int8
             FROM inventory_balance b LEFT JOIN inventory_movement e USING (sku_id, location_id)
             GROUP BY b.sku_id, b.location_id
             HAVING (b.on_hand, b.reserved, b.unavailable, b.escrowed, b.sold) IS DISTINCT FROM
                 (coalesce(sum(e.on_hand_delta), 0), coalesce(sum(e.reserved_delta), 0),
                  coalesce(sum(e.unavailable_delta), 0), coalesce(sum(e.escrowed_delta), 0),
                  coalesce(sum(e.sold_delta), 0))
             UNION ALL
             SELECT 'keys', k.subject_id::text, 0, 0 FROM inventory_key k
             JOIN inventory_reservation r ON r.reservation_id = k.subject_id WHERE r.status = 'REJECTED'",
    )
    .fetch_all(pool)
    .await
    .expect("reads");
    assert_eq!(wrong, [], "(what, of, it says, it should say)");
}
