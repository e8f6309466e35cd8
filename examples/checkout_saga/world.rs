//! Everything around the shop: the gateway with stock of our own, the two services, the buyer, a rival. It starts a shop for
//! a checkout, another one when that has crashed, and tells how it ended.

use std::io;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::case::{Case, Trouble};
use crate::journal;
use crate::orders::Orders;
use crate::payments::{Mood, Payments};
use crate::saga::{Checkout, End, Progress};
use crate::wire::{ask, client};

/// Units of the sale: more than a tour can sell.
const STOCK: i64 = 1_000;
/// How long anything may take that comes by itself.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the tour takes place.
pub(crate) struct World {
    http: Client,
    gateway: String,
    admin: String,
    services: SocketAddr,
    pub(crate) payments: Payments,
    pub(crate) orders: Orders,
    journals: PathBuf,
    /// Begins every name, so that no two tours meet.
    run: String,
    location: String,
    next: AtomicU32,
    /// Units received of each SKU, and how many of them others bought.
    stock: Mutex<Vec<Stock>>,
}

/// What was put on the shelves.
#[derive(Clone, Debug)]
pub(crate) struct Stock {
    pub(crate) sku: String,
    pub(crate) received: i64,
    pub(crate) sold_to_others: i64,
}

/// A checkout that was played.
pub(crate) struct Played {
    pub(crate) case: Case,
    pub(crate) checkout: Checkout,
    /// As the journal has it; none where it has not ended.
    pub(crate) end: Option<End>,
    pub(crate) crashed: bool,
}

impl World {
    /// With a sale of its own.
    pub(crate) async fn open(gateway: &str, admin: &str, journals: PathBuf, run: String) -> Result<World, String> {
        let (payments, orders) = (Payments::default(), Orders::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
        let services = listener.local_addr().map_err(|e| e.to_string())?;
        let routes = payments.routes().merge(orders.routes());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let world = World {
            http: client(PATIENCE)?,
            gateway: gateway.trim_end_matches('/').to_owned(),
            admin: admin.trim_end_matches('/').to_owned(),
            services,
            payments,
            orders,
            journals,
            location: format!("{run}-shelf"),
            run,
            next: AtomicU32::new(1),
            stock: Mutex::new(Vec::new()),
        };
        let shelf = json!({"name": "The saga's shelf", "kind": "warehouse", "region": "demo", "active": true});
        let path = format!("/admin/locations/{}", world.location);
        world.manage(Method::PUT, &path, shelf).await?;
        let sku = world.run.clone();
        world.receive(&sku, STOCK).await?;
        let sale = json!({"saleId": world.run, "skuId": sku, "locationId": world.location, "allocation": STOCK});
        world.manage(Method::POST, "/admin/sales", sale).await?;
        world.sale("start").await?;
        Ok(world)
    }

    /// Starts or stops the sale.
    pub(crate) async fn sale(&self, action: &str) -> Result<(), String> {
        let path = format!("/admin/sales/{}/{action}", self.run);
        self.manage(Method::POST, &path, json!({})).await.map(drop)
    }

    async fn receive(&self, sku: &str, units: i64) -> Result<(), String> {
        let path = format!("/admin/skus/{sku}");
        self.manage(Method::PUT, &path, json!({"display": "exact"})).await?;
        let received = json!({"skuId": sku, "locationId": self.location, "delta": units, "reason": "stock_received",
                              "referenceId": sku});
        self.manage(Method::POST, "/api/inventory/adjustments", received)
            .await?;
        self.shelves(|stock| {
            stock.push(Stock {
                sku: sku.to_owned(),
                received: units,
                sold_to_others: 0,
            });
        });
        Ok(())
    }

    fn shelves<T>(&self, act: impl FnOnce(&mut Vec<Stock>) -> T) -> T {
        act(&mut self.stock.lock().expect("nothing that holds it panics"))
    }

    pub(crate) fn stock(&self) -> Vec<Stock> {
        self.shelves(|stock| stock.clone())
    }

    /// Plays a checkout to its end; where it crashes, another shop takes over, unless `no_resume`. A quiet one tells no
    /// story.
    pub(crate) async fn play(&self, case: Case, is_quiet: bool, no_resume: bool) -> Result<Played, String> {
        let saga = format!("{}-{}", self.run, self.next.fetch_add(1, Ordering::Relaxed));
        // What a rival is to snatch lies apart, off sale.
        let sku = if case.trouble == Trouble::LateAndGone {
            self.receive(&saga, 1).await?;
            saga.clone()
        } else {
            self.run.clone()
        };
        let checkout = case.checkout(&saga, &sku, &self.location);
        self.payments.set_mood(&saga, case.mood());
        if case.trouble == Trouble::OrderRefused {
            self.orders.refuse(&checkout.order);
        }
        let path = self.journals.join(format!("{saga}.jsonl"));
        let shops = async {
            let first = self.shop(case, &path, Some(&checkout), is_quiet).await?;
            let crashed = first.signal() == Some(Signal::SIGKILL as i32);
            if crashed && !no_resume {
                self.shop(case, &path, None, is_quiet).await?;
            }
            Ok::<_, String>(crashed)
        };
        let (crashed, ()) = tokio::try_join!(shops, self.meddle(case, &checkout))?;
        let entries = journal::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Played {
            case,
            end: Progress::read(&entries).and_then(|progress| progress.end),
            checkout,
            crashed,
        })
    }

    /// Runs a shop until it ends or crashes. Only the first one crashes, which is told what is bought; the next reads it.
    async fn shop(
        &self,
        case: Case,
        journal: &Path,
        checkout: Option<&Checkout>,
        is_quiet: bool,
    ) -> Result<ExitStatus, String> {
        let say = |error: io::Error| format!("the shop does not start: {error}");
        let mut command = Command::new(std::env::current_exe().map_err(say)?);
        command.arg("shop").arg("--journal").arg(journal);
        command.args(["--gateway", &self.gateway]);
        command.args(["--services", &format!("http://{}", self.services)]);
        command.args(["--patience-ms", &case.patience_ms().to_string()]);
        if let Some(checkout) = checkout {
            let json = serde_json::to_string(checkout).map_err(|error| error.to_string())?;
            command.args(["--checkout", &json]);
            if let Some(crash) = case.crash {
                command.args(["--crash-after", &crash.to_string()]);
            }
        }
        if is_quiet {
            command.stdout(Stdio::null());
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command.status().await.map_err(say)
    }

    /// In a late story: lets the reservation expire, perhaps buys the unit, and only then lets the buyer approve.
    async fn meddle(&self, case: Case, checkout: &Checkout) -> Result<(), String> {
        if !case.trouble.is_late() {
            return Ok(());
        }
        let since = Instant::now();
        while self.reservations(&checkout.order).await? != ["EXPIRED"] {
            if since.elapsed() > PATIENCE {
                return Err(format!("{} has no reservation that expired", checkout.order));
            }
            sleep(LOOK_EVERY).await;
        }
        if case.trouble == Trouble::LateAndGone {
            let reserve = json!({"orderId": format!("rival-{}", checkout.saga), "skuId": checkout.sku,
                                 "locationId": checkout.location, "quantity": 1});
            let bought = self.visit(Method::POST, "/api/inventory/reservations", Some(reserve));
            let bought = bought.await?;
            let id = bought["reservationId"].as_str().unwrap_or_default();
            let path = format!("/api/inventory/reservations/{id}/commit");
            self.visit(Method::POST, &path, Some(json!({}))).await?;
            self.shelves(|stock| {
                let of = stock.iter_mut().filter(|of| of.sku == checkout.sku);
                of.for_each(|of| of.sold_to_others += 1);
            });
        }
        self.payments.set_mood(&checkout.saga, Mood::Fine);
        Ok(())
    }

    /// How the reservations of an order stand, from the ledger.
    pub(crate) async fn reservations(&self, order: &str) -> Result<Vec<String>, String> {
        let path = format!("/api/orders/{order}/inventory-status");
        let told = self.visit(Method::GET, &path, None).await?;
        let all = told["reservations"].as_array().ok_or("no reservations in an order")?;
        let status = |one: &Value| one["status"].as_str().unwrap_or_default().to_owned();
        Ok(all.iter().map(status).collect())
    }

    /// An item as the ledger has it.
    pub(crate) async fn item(&self, sku: &str) -> Result<Value, String> {
        let at = format!("skuId={sku}&locationId={}", self.location);
        self.visit(Method::GET, &format!("/api/inventory?{at}&consistency=strong"), None)
            .await
    }

    /// Asks the public listener.
    async fn visit(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, String> {
        let url = format!("{}{path}", self.gateway);
        let told = ask(&self.http, method, url, &[], body)
            .await
            .and_then(|heard| heard.ok());
        told.map_err(|why| format!("{path}: {why}"))
    }

    /// Asks the admin listener.
    pub(crate) async fn manage(&self, method: Method, path: &str, body: Value) -> Result<Value, String> {
        let url = format!("{}{path}", self.admin);
        let body = (method != Method::GET).then_some(body);
        let told = ask(&self.http, method, url, &[("x-operator", "saga")], body).await;
        told.and_then(|heard| heard.ok())
            .map_err(|why| format!("{path}: {why}"))
    }
}
