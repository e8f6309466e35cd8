//! Requests to the gateway and to the two services: JSON there, JSON back, or no answer.

use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::Value;

/// An answer.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Heard {
    /// Its `code`, where it is a problem.
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("an answer without a code")
    }

    /// The body of a success.
    pub(crate) fn ok(self) -> Result<Value, String> {
        if (200..300).contains(&self.status) {
            Ok(self.body)
        } else {
            Err(format!("{} {}", self.status, self.body))
        }
    }
}

pub(crate) fn client(patience: Duration) -> Result<Client, String> {
    Client::builder()
        .timeout(patience)
        .build()
        .map_err(|error| error.to_string())
}

/// Asks once; an error where no whole answer came in time.
pub(crate) async fn ask(
    client: &Client,
    method: Method,
    url: String,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> Result<Heard, String> {
    let mut request = client.request(method, url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.map_err(|error| say(&error))?;
    Ok(Heard {
        status: response.status().as_u16(),
        body: response.json().await.map_err(|error| say(&error))?,
    })
}

fn say(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        error.to_string()
    }
}
