//! A ledger of one's own whose lanes are open, and the equations that hold at every commit.

use flashgate::domain::grant::Grant;
use flashgate::domain::id::{Item, LocationId, SaleId};
use flashgate::domain::lane::LaneNo;
use flashgate::domain::sale::{RedisDown, SaleAction};
use flashgate::domain::trace::TraceId;
use flashgate::ledger::Ledger;
use flashgate::ledger::adjust::{Adjust, Adjusted, Reason};
use flashgate::ledger::catalogue::{CatalogueSku, Location, Put};
use flashgate::ledger::once::By;
use flashgate::ledger::sale::{Acted, Created, NewSale};
use flashgate::ledger::sale_life::ActAnswer;
use sqlx::PgPool;
use tokio::sync::Mutex;

use crate::support::ledger::{Desk, Lane, fresh, slip};

pub(super) use crate::support::ledger::{LANES, sku};

pub(super) struct Books {
    pub(super) ledger: Ledger,
    pub(super) pool: PgPool,
    desk: Desk,
    lanes: Mutex<Vec<Lane>>,
}

pub(super) fn place(text: &str) -> LocationId {
    LocationId::try_from(text).expect("a location")
}

pub(super) fn item(at: &str) -> Item {
    Item {
        sku: sku("hot"),
        location: place(at),
    }
}

pub(super) fn sale_id(text: &str) -> SaleId {
    SaleId::try_from(text).expect("a sale id")
}

pub(super) fn ann() -> By {
    By {
        operator: Some("ann".into()),
        trace: Some(TraceId([7; 16])),
    }
}

pub(super) fn shelf(id: &str) -> Location {
    Location {
        id: place(id),
        name: format!("Shelf {id}"),
        kind: "warehouse".into(),
        region: "eu".into(),
        latitude: Some(52.5),
        longitude: Some(13.4),
        shipping_cost: None,
        handling_hours: None,
        daily_capacity: None,
        priority: 0,
        active: true,
    }
}

pub(super) fn hot(safety_stock: i64) -> CatalogueSku {
    CatalogueSku {
        sku: sku("hot"),
        name: Some("Hot".into()),
        exact: true,
        low_stock_threshold: None,
        safety_stock,
    }
}

pub(super) fn received(at: &str, delta: i64) -> Adjust {
    Adjust {
        item: item(at),
        delta,
        reason: Reason::StockReceived,
        reference: None,
        note: None,
        key: None,
    }
}

pub(super) fn sale_of(id: &str, allocation: i64) -> NewSale {
    NewSale {
        id: sale_id(id),
        item: item("wh1"),
        allocation,
        per_user_limit: Some(2),
        user_rate: None,
        hold_ms: 900_000,
        hold_max_ms: 3_600_000,
        buckets: 2,
        starts_at: None,
        ends_at: None,
        ack_wait_ms: 1_000,
        redis_down: RedisDown::Refuse,
        redis_down_rate: 1_000,
        undurable_max: None,
    }
}

impl Books {
    /// The SKU `hot` and two empty warehouses.
    pub(super) async fn open() -> Books {
        let desk = Desk::open().await;
        let mut lanes = Vec::new();
        for lane in 0..LANES {
            lanes.push(desk.lane(LaneNo(lane)).await);
        }
        let books = Books {
            ledger: desk.ledger.clone(),
            pool: desk.pool.clone(),
            desk,
            lanes: Mutex::new(lanes),
        };
        for at in ["wh1", "wh2"] {
            assert_eq!(
                books.ledger.put_location(&shelf(at), None).await.expect("puts"),
                Put::Done
            );
        }
        let put = books.ledger.put_sku(&hot(0), &ann(), None).await;
        assert_eq!(put.expect("puts"), Put::Done);
        books
    }

    /// The same with units of `hot` at `wh1`.
    pub(super) async fn with_stock(units: i64) -> Books {
        let books = Books::open().await;
        books.receive("wh1", units).await;
        books
    }

    pub(super) async fn receive(&self, at: &str, units: i64) {
        let adjusted = self.ledger.adjust(&received(at, units), &ann()).await.expect("adjusts");
        assert!(matches!(adjusted, Adjusted::Done(_)), "{adjusted:?}");
    }

    pub(super) async fn create(&self, new: &NewSale) -> Acted {
        match self.ledger.create_sale(new, &ann(), None).await.expect("creates") {
            Created::Done(acted) => acted,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn act(&self, id: &str, action: SaleAction) -> Acted {
        match self.ledger.act(&sale_id(id), action, &ann(), None).await.expect("acts") {
            ActAnswer::Done(acted) => *acted,
            other => panic!("{action:?}: {other:?}"),
        }
    }

    /// A live sale `s` of 10 units in two lanes, its grants delivered.
    pub(super) async fn with_live_sale() -> Books {
        let books = Books::with_stock(20).await;
        books.create(&sale_of("s", 10)).await;
        books.act("s", SaleAction::Start).await;
        books.deliver().await;
        books.check().await;
        books
    }

    pub(super) async fn number<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect(sql)
    }

    pub(super) async fn run(&self, sql: &str) {
        sqlx::query(sql).execute(&self.pool).await.expect(sql);
    }

    /// Grants that wait, as (lane, what they say), oldest first.
    pub(super) async fn waiting(&self) -> Vec<(LaneNo, Grant)> {
        let rows: Vec<(i16, Vec<u8>)> = sqlx::query_as("SELECT lane, body FROM lane_grant ORDER BY grant_id")
            .fetch_all(&self.pool)
            .await
            .expect("grants");
        let read = |(lane, body): (i16, Vec<u8>)| (LaneNo::from_i16(lane), Grant::unpack(&body).expect("a grant"));
        rows.into_iter().map(read).collect()
    }

    /// Delivers all grants that wait and makes that durable.
    pub(super) async fn deliver(&self) {
        for lane in self.lanes.lock().await.iter_mut() {
            self.desk.deliver(lane).await;
        }
    }

    /// Makes reservations of `units`, one each, durable in a lane of sale `s`.
    pub(super) async fn reserve(&self, lane: LaneNo, units: u16) {
        let sale = self.ledger.sale(&sale_id("s")).await.expect("reads").expect("is there");
        let slips = (0..units).map(|_| slip(&sale, &fresh("o"), 1)).collect();
        let lane = &mut self.lanes.lock().await[usize::from(lane.0)];
        let done = self.desk.reserve(lane, &sale, slips).await;
        assert_eq!(done.refused, []);
    }

    /// Leaves a unit of the recalled ones of sale `s` in a lane, as if it had come late.
    pub(super) async fn leave_behind(&self, lane: LaneNo) {
        let sale = self.ledger.sale(&sale_id("s")).await.expect("reads").expect("is there");
        let lane = &mut self.lanes.lock().await[usize::from(lane.0)];
        *lane.road.free.get_mut(&sale.no).expect("it knows the sale") += 1;
        self.run(&format!(
            "UPDATE sale_bucket SET counter = counter + 1 WHERE lane = {}",
            lane.road.lane
        ))
        .await;
        self.run("UPDATE sale SET recalled = recalled - 1 WHERE sale_id = 's'")
            .await;
    }

    /// Nothing is lost between sales and balances, and every balance is the sum of its events, safety stock too.
    pub(super) async fn check(&self) {
        self.desk.assert_books_balance().await;
        let unexplained: Vec<String> = sqlx::query_scalar(
            "SELECT b.location_id FROM inventory_balance b
             LEFT JOIN inventory_movement e USING (sku_id, location_id)
             GROUP BY b.sku_id, b.location_id
             HAVING (b.on_hand, b.reserved, b.unavailable, b.escrowed, b.sold, b.damaged, b.returned, b.safety_stock)
                 IS DISTINCT FROM (coalesce(sum(on_hand_delta), 0), coalesce(sum(reserved_delta), 0),
                     coalesce(sum(unavailable_delta), 0), coalesce(sum(escrowed_delta), 0),
                     coalesce(sum(sold_delta), 0), coalesce(sum(damaged_delta), 0), coalesce(sum(returned_delta), 0),
                     -coalesce(sum(quantity_delta) FILTER (WHERE reason = 'safety_stock'), 0))",
        )
        .fetch_all(&self.pool)
        .await
        .expect("reads");
        assert_eq!(
            unexplained,
            [] as [String; 0],
            "balances that their events do not explain"
        );
    }
}
