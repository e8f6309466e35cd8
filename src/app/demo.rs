//! The demo: a catalogue of one SKU, a live sale of it, and three lines to try. Loaded once; a later start finds it.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use crate::domain::id::{IdError, Item, LocationId, SaleId, Sku};
use crate::domain::sale::{RedisDown, SaleAction, SaleState};
use crate::flash::Health;
use crate::http::Gateway;
use crate::ledger::LedgerError;
use crate::ledger::adjust::{Adjust, Reason};
use crate::ledger::catalogue::{CatalogueSku, Location};
use crate::ledger::once::By;
use crate::ledger::sale::NewSale;

const STOCK: i64 = 20_000;
const ALLOCATION: i64 = 10_000;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Waits until the lanes are open, loads the demo where `wanted` and it is not there, and says what to try.
pub(super) async fn run(
    gateway: &Gateway,
    wanted: bool,
    listen: SocketAddr,
    admin: SocketAddr,
) -> Result<(), DemoError> {
    while !is_open(gateway) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut out = io::stdout();
    writeln!(
        out,
        "\nflashgate is ready: http://{listen} (checkout, reading) and http://{admin} (stock, admin, /metrics)"
    )?;
    if wanted {
        let state = load(gateway).await?;
        let json = "-H 'Content-Type: application/json'";
        let pick = r#"sed -E 's/.*"reservationId":"([^"]+)".*/\1/'"#;
        let buy = r#"{"orderId":"order-'$RANDOM'","skuId":"demo-hot","locationId":"wh1","quantity":1,"userId":"user-'$RANDOM'"}"#;
        writeln!(
            out,
            "The sale \"demo\" of the SKU demo-hot is {}. Reserve, pay, read:\n",
            state.as_str()
        )?;
        writeln!(
            out,
            "RESERVATION=$(curl -s http://{listen}/api/inventory/reservations {json} -d '{buy}' | tee /dev/stderr | {pick})"
        )?;
        writeln!(
            out,
            "curl -s http://{listen}/api/inventory/reservations/$RESERVATION/commit {json} -d '{{\"paymentId\":\"pay-1\"}}'"
        )?;
        writeln!(
            out,
            "curl -s 'http://{listen}/api/inventory?skuId=demo-hot&locationId=wh1&consistency=strong'\n"
        )?;
    }
    Ok(out.flush()?)
}

fn is_open(gateway: &Gateway) -> bool {
    gateway.flash.get().is_some_and(|flash| {
        flash
            .lane_numbers()
            .all(|lane| matches!(flash.health(lane), Health::Open(_)))
    })
}

/// The state of the demo's sale, which is live where this has just loaded it. A load that was cut short is taken up.
async fn load(gateway: &Gateway) -> Result<SaleState, DemoError> {
    let ledger = &gateway.ledger;
    let id = SaleId::try_from("demo")?;
    let by = By {
        operator: Some("demo".to_owned()),
        trace: None,
    };
    match ledger.sale(&id).await? {
        None => create(gateway, &id, &by).await?,
        Some(sale) if sale.state == SaleState::Draft => {}
        Some(sale) => return Ok(sale.state),
    }
    ledger.act(&id, SaleAction::Start, &by, None).await?;
    in_force(gateway, &id).await?;
    Ok(SaleState::Live)
}

async fn create(gateway: &Gateway, id: &SaleId, by: &By) -> Result<(), DemoError> {
    let ledger = &gateway.ledger;
    let item = Item {
        sku: Sku::try_from("demo-hot")?,
        location: LocationId::try_from("wh1")?,
    };
    let location = Location {
        id: item.location.clone(),
        name: "Demo warehouse".to_owned(),
        kind: "warehouse".to_owned(),
        region: "demo".to_owned(),
        latitude: None,
        longitude: None,
        shipping_cost: None,
        handling_hours: None,
        daily_capacity: None,
        priority: 0,
        active: true,
    };
    ledger.put_location(&location, None).await?;
    let sku = CatalogueSku {
        sku: item.sku.clone(),
        name: Some("Demo sneaker, size 42".to_owned()),
        exact: true,
        low_stock_threshold: None,
        safety_stock: 0,
    };
    ledger.put_sku(&sku, by, None).await?;
    let received = Adjust {
        item: item.clone(),
        delta: STOCK,
        reason: Reason::StockReceived,
        reference: Some("demo".to_owned()),
        note: None,
        key: None,
    };
    ledger.adjust(&received, by).await?;
    let sale = NewSale {
        id: id.clone(),
        item,
        allocation: ALLOCATION,
        per_user_limit: Some(5),
        user_rate: None,
        hold_ms: 900_000,
        hold_max_ms: 3_600_000,
        buckets: 1,
        starts_at: None,
        ends_at: None,
        redis_down: RedisDown::Refuse,
        redis_down_rate: 1_000,
        undurable_max: None,
        ack_wait_ms: 1_000,
    };
    ledger.create_sale(&sale, by, None).await?;
    Ok(())
}

/// Waits until the sale's lanes have its units.
async fn in_force(gateway: &Gateway, id: &SaleId) -> Result<(), DemoError> {
    let Some(sale) = gateway.ledger.sale(id).await? else {
        return Ok(());
    };
    loop {
        for lane in &sale.lanes {
            gateway.flash.nudge_grants(*lane);
        }
        let figures = gateway.flash.lane_figures(sale.no, &sale.lanes).await;
        if figures.is_ok_and(|figures| figures.iter().map(|of| of.free).sum::<i64>() == ALLOCATION) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
