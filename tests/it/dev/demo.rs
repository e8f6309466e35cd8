//! `flashgate dev` as its users start it: the demo is what is told of it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use reqwest::Method;
use serde_json::{Value, json};

use super::look::{dev_json, nix_pid, wait_for};
use crate::support::servers;
use crate::support::socket::{Heard, send};

/// A running `flashgate dev`; dropped, it is asked to stop, and is waited for.
struct Dev {
    child: Child,
    admin: SocketAddr,
    /// What it said of the demo.
    said: Option<String>,
}

impl Dev {
    async fn start(dir: &Path, demo: bool) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flashgate"));
        command.args([
            "dev",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--log-filter",
            "error",
        ]);
        command.arg("--data").arg(dir);
        if !demo {
            command.arg("--no-demo");
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut lines = lines.map_while(Result::ok);
        lines.find(|line| line.contains("is ready")).expect("it gets ready");
        let said = demo.then(|| {
            lines
                .find(|line| line.contains("\"demo\""))
                .expect("the demo is told of")
        });
        let told = wait_for("its addresses", || {
            dev_json(dir)?["adminListen"].as_str().map(str::to_owned)
        })
        .await;
        Dev {
            child,
            admin: told.parse().expect("an address"),
            said,
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> Heard {
        let headers = [("content-type", "application/json"), ("x-operator", "ann")];
        send(self.admin, method, path, &headers, body.to_string()).await
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        kill(nix_pid(self.child.id()), Signal::SIGTERM).expect("it is ours");
        self.child.wait().expect("it ends");
    }
}

#[tokio::test]
async fn the_demo_is_taken_up_where_its_loading_was_cut_short_and_told_as_it_stands() {
    let home = servers::home();
    let dev = Dev::start(home.path(), false).await;
    // As far as a load comes that is stopped before the sale starts.
    for (method, path, body) in [
        (
            Method::PUT,
            "/admin/locations/wh1",
            json!({"name": "w", "kind": "warehouse", "region": "demo", "active": true}),
        ),
        (Method::PUT, "/admin/skus/demo-hot", json!({"display": "exact"})),
        (
            Method::POST,
            "/api/inventory/adjustments",
            json!({"skuId": "demo-hot", "locationId": "wh1", "delta": 20_000, "reason": "stock_received", "referenceId": "demo"}),
        ),
        (
            Method::POST,
            "/admin/sales",
            json!({"saleId": "demo", "skuId": "demo-hot", "locationId": "wh1", "allocation": 10_000}),
        ),
    ] {
        let heard = dev.ask(method, path, body).await;
        assert!(heard.status < 300, "{path}: {}", heard.text);
    }
    drop(dev);
    let dev = Dev::start(home.path(), true).await;
    let state = async |dev: &Dev| dev.ask(Method::GET, "/admin/sales/demo", json!({})).await.body()["state"].clone();
    assert_eq!(state(&dev).await, "live");
    assert!(
        dev.said.as_ref().is_some_and(|said| said.contains("is live")),
        "{:?}",
        dev.said
    );
    let paused = dev.ask(Method::POST, "/admin/sales/demo/pause", json!({})).await;
    assert_eq!(paused.status, 200, "{}", paused.text);
    drop(dev);
    let dev = Dev::start(home.path(), true).await;
    assert_eq!(state(&dev).await, "paused");
    assert!(
        dev.said.as_ref().is_some_and(|said| said.contains("is paused")),
        "{:?}",
        dev.said
    );
}
