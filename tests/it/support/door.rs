//! What a client of a gateway says and hears, over real connections.

use std::net::SocketAddr;
use std::process::{ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::process::Command;

use super::ledger::assert_books_balance;

/// Longest wait for anything that takes a moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const RESERVATIONS: &str = "/api/inventory/reservations";

/// The two listeners of a gateway, and the database behind it.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) pool: PgPool,
    redis_url: String,
    pub(crate) database_url: String,
    http: Client,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) replayed: bool,
    /// `Retry-After`, in seconds.
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: Value,
}

/// A request for units.
#[derive(Debug, Clone)]
pub(crate) struct Buy {
    body: Value,
    key: Option<String>,
    prefer: Option<String>,
}

impl Told {
    /// Status and code of a problem.
    pub(crate) fn problem(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or("no code"))
    }

    /// The body of an answer with this status.
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The reservation that it tells of.
    pub(crate) fn id(&self) -> String {
        let id = self.body["reservationId"].as_str();
        id.unwrap_or_else(|| panic!("no reservation in {self:?}")).to_owned()
    }

    /// `RESERVED durable`, `REJECTED accepted`, ...; of a problem, its code.
    pub(crate) fn standing(&self) -> String {
        let word = |name: &str| self.body[name].as_str().unwrap_or_default();
        match word("code") {
            "" => format!("{} {}", word("status"), word("ack")),
            code => code.to_owned(),
        }
    }
}

impl Buy {
    /// One unit of `hot` at `wh1` for this order.
    pub(crate) fn of(order: &str) -> Buy {
        Buy {
            body: json!({"orderId": order, "skuId": "hot", "locationId": "wh1", "quantity": 1}),
            key: None,
            prefer: None,
        }
    }

    pub(crate) fn sku(self, sku: &str) -> Buy {
        self.with("skuId", sku)
    }

    pub(crate) fn units(self, quantity: i64) -> Buy {
        self.with("quantity", quantity)
    }

    pub(crate) fn user(self, user: &str) -> Buy {
        self.with("userId", user)
    }

    pub(crate) fn ttl(self, seconds: u64) -> Buy {
        self.with("ttlSeconds", seconds)
    }

    fn with(mut self, field: &str, value: impl Into<Value>) -> Buy {
        self.body[field] = value.into();
        self
    }

    /// With an `Idempotency-Key`.
    pub(crate) fn key(mut self, key: &str) -> Buy {
        self.key = Some(key.to_owned());
        self
    }

    /// With `Prefer`, such as `wait=3` or `respond-async`.
    pub(crate) fn prefer(mut self, prefer: &str) -> Buy {
        self.prefer = Some(prefer.to_owned());
        self
    }
}

impl Door {
    /// The gateway that listens there, over these servers.
    pub(crate) fn at(public: SocketAddr, admin: SocketAddr, redis_url: &str, database_url: &str) -> Door {
        let http = Client::builder().timeout(PATIENCE).build();
        Door {
            public,
            admin,
            pool: PgPool::connect_lazy(database_url).expect("an address"),
            redis_url: redis_url.to_owned(),
            database_url: database_url.to_owned(),
            http: http.expect("a client"),
        }
    }

    /// Asks the public listener.
    pub(crate) async fn get(&self, path: &str) -> Told {
        self.ask(self.public, Method::GET, path, None, &[]).await
    }

    /// Asks the public listener; none where the connection breaks.
    pub(crate) async fn try_get(&self, path: &str) -> Option<Told> {
        self.try_ask(self.public, Method::GET, path, None, &[]).await
    }

    /// Posts to the public listener.
    pub(crate) async fn shop(&self, path: &str, body: Value) -> Told {
        self.ask(self.public, Method::POST, path, Some(body), &[]).await
    }

    /// Posts to the public listener; none where the connection breaks.
    pub(crate) async fn try_shop(&self, path: &str, body: &Value) -> Option<Told> {
        self.try_ask(self.public, Method::POST, path, Some(body), &[]).await
    }

    /// Asks for units.
    pub(crate) async fn reserve(&self, buy: &Buy) -> Told {
        self.try_reserve(buy).await.expect("the gateway answers")
    }

    /// Asks for units; none where the connection breaks.
    pub(crate) async fn try_reserve(&self, buy: &Buy) -> Option<Told> {
        let key = buy.key.as_deref().map(|key| ("idempotency-key", key));
        let prefer = buy.prefer.as_deref().map(|prefer| ("prefer", prefer));
        let headers: Vec<(&str, &str)> = key.into_iter().chain(prefer).collect();
        self.try_ask(self.public, Method::POST, RESERVATIONS, Some(&buy.body), &headers)
            .await
    }

    /// Asks for units as a client does that was told to come back: again until it has an answer to keep.
    pub(crate) async fn insist(&self, buy: &Buy) -> Told {
        let since = Instant::now();
        loop {
            match self.try_reserve(buy).await {
                Some(told) if told.status != 503 && told.status != 429 => return told,
                told => assert!(since.elapsed() < PATIENCE, "still no answer: {told:?}"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) async fn reservation(&self, id: &str) -> Told {
        self.get(&format!("{RESERVATIONS}/{id}")).await
    }

    pub(crate) async fn commit(&self, id: &str) -> Told {
        self.shop(&format!("{RESERVATIONS}/{id}/commit"), json!({})).await
    }

    pub(crate) async fn release(&self, id: &str) -> Told {
        self.shop(&format!("{RESERVATIONS}/{id}/release"), json!({})).await
    }

    /// Asks the admin listener.
    pub(crate) async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> Told {
        self.ask(self.admin, method, path, body, &[]).await
    }

    /// Asks the admin listener with these headers.
    pub(crate) async fn admin_with(&self, method: Method, path: &str, body: Value, headers: &[(&str, &str)]) -> Told {
        self.ask(self.admin, method, path, Some(body), headers).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Told {
        self.admin(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Told {
        self.admin(Method::POST, path, Some(body)).await
    }

    /// Posts to the admin listener; none where the connection breaks.
    pub(crate) async fn try_post(&self, path: &str, body: &Value) -> Option<Told> {
        self.try_ask(self.admin, Method::POST, path, Some(body), &[]).await
    }

    /// The same, as this person.
    pub(crate) async fn try_post_as(&self, person: &str, path: &str, body: &Value) -> Option<Told> {
        self.try_ask(self.admin, Method::POST, path, Some(body), &[("x-operator", person)])
            .await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Told {
        self.admin(Method::PATCH, path, Some(body)).await
    }

    /// Does something to a sale, without a body.
    pub(crate) async fn act(&self, sale: &str, action: &str) -> Told {
        let path = format!("/admin/sales/{sale}/{action}");
        self.admin(Method::POST, &path, None).await
    }

    /// The sale with its figures.
    pub(crate) async fn sale(&self, sale: &str) -> Value {
        let path = format!("/admin/sales/{sale}");
        self.admin(Method::GET, &path, None).await.expect(200)
    }

    /// What `/readyz` says.
    pub(crate) async fn ready(&self) -> Value {
        self.admin(Method::GET, "/readyz", None).await.body
    }

    /// The location `wh1` with units of a SKU.
    pub(crate) async fn receive(&self, sku: &str, units: i64) {
        let place = json!({"name": "One", "kind": "warehouse", "region": "eu", "active": true});
        self.put("/admin/locations/wh1", place).await.expect(200);
        self.put(&format!("/admin/skus/{sku}"), json!({"display": "exact"}))
            .await
            .expect(200);
        let received = json!({"skuId": sku, "locationId": "wh1", "delta": units, "reason": "stock_received"});
        self.post("/api/inventory/adjustments", received).await.expect(201);
    }

    /// A live sale of that name, of all `units` of a new SKU `hot`, with what `extra` says of it.
    pub(crate) async fn sell(&self, sale: &str, units: i64, extra: Value) {
        self.receive("hot", units).await;
        let mut body = json!({"saleId": sale, "skuId": "hot", "locationId": "wh1", "allocation": units});
        for (name, value) in extra.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        self.post("/admin/sales", body).await.expect(201);
        self.act(sale, "start").await.expect(200);
    }

    /// Waits until it serves and every lane is open.
    pub(crate) async fn until_open(&self) {
        until("open lanes", async || {
            let told = self.ready().await;
            (told["mode"] == "serving" && told["lanes"]["open"] != 0).then_some(())
        })
        .await;
    }

    /// Waits until nothing is on its way between Redis and the ledger.
    pub(crate) async fn until_drained(&self) {
        until("drained lanes", async || {
            let told = self.admin(Method::GET, "/admin/lanes", None).await;
            let lanes = told.body["lanes"].as_array()?;
            let still = |lane: &Value| {
                lane["state"] == "open" && lane["seq"] == lane["cursor"] && lane["granted"] == lane["lastGrant"]
            };
            if !lanes.iter().all(still) {
                return None;
            }
            let grants = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM lane_grant");
            (grants.fetch_one(&self.pool).await.ok()? == 0).then_some(())
        })
        .await;
    }

    /// Waits until everything has come to rest, and asserts that the books balance: within the ledger, and between it
    /// and the lanes, as `flashgate verify` compares them.
    pub(crate) async fn settled(&self) {
        self.until_open().await;
        self.until_drained().await;
        assert_books_balance(&self.pool).await;
        let said = self.command(&["verify"]).await;
        assert!(
            said.status.success(),
            "{}{}",
            String::from_utf8_lossy(&said.stdout),
            String::from_utf8_lossy(&said.stderr)
        );
    }

    /// What a command says that compares the servers.
    pub(crate) async fn command(&self, args: &[&str]) -> Output {
        self.comparing(args).output().await.expect("it runs")
    }

    /// How such a command ends that writes there.
    pub(crate) async fn command_into(&self, args: &[&str], out: impl Into<Stdio>) -> ExitStatus {
        self.comparing(args).stdout(out).status().await.expect("it runs")
    }

    fn comparing(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flashgate"));
        command
            .args(args)
            .args(["--log-filter", "error", "--redis-url", &self.redis_url])
            .args(["--database-url", &self.database_url]);
        command
    }

    async fn ask(
        &self,
        at: SocketAddr,
        method: Method,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Told {
        let told = self.try_ask(at, method, path, body.as_ref(), headers).await;
        told.expect("the gateway answers")
    }

    async fn try_ask(
        &self,
        at: SocketAddr,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Option<Told> {
        let mut request = self.http.request(method, format!("http://{at}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.ok()?;
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let (replayed, retry_after) = (header("idempotent-replayed"), header("retry-after"));
        Some(Told {
            status: response.status().as_u16(),
            replayed: replayed == Some("true"),
            retry_after: retry_after.and_then(|seconds| seconds.parse().ok()),
            body: response.json().await.ok()?,
        })
    }
}

/// Looks until there is something, within bounds.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "no sign of {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
