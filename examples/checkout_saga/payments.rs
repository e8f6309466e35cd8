//! A payment service such as shops talk to: it holds money, takes it, lets it go and gives it back.
//!
//! It remembers the answer to each idempotency key. What it is told to do wrong is said by [`Mood`], for each payment.
//! Voiding works before, instead of and after an authorisation: a payment that was voided can't be authorised any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Json, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use serde_json::{Value, json};

/// How late an answer is that comes too late: longer than a shop waits that expects it.
const TOO_LATE: Duration = Duration::from_secs(20);

/// What befalls a payment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Fine,
    /// The bank says no to the authorisation.
    Declines,
    /// The bank says no to the capture.
    FailsCapture,
    /// Does what it is asked, and the first answer to each key gets lost.
    LosesAnswers,
    /// Holds the money and never says so.
    NeverAnswers,
    /// The buyer has to approve, and takes her time.
    Waits(Verb),
}

/// What can be asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verb {
    Authorise,
    Capture,
    Void,
    Refund,
}

/// The money of one payment, in cents.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Account {
    mood: Mood,
    pub(crate) held: u64,
    pub(crate) taken: u64,
    pub(crate) refunded: u64,
    voided: bool,
}

/// The service. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payments(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    accounts: HashMap<String, Account>,
    /// By key: for what it was sent, and what was answered.
    answers: HashMap<String, (String, StatusCode, Value)>,
}

impl Payments {
    pub(crate) fn routes(&self) -> axum::Router {
        axum::Router::new()
            .route("/payments/{payment}/{verb}", post(handle))
            .with_state(self.clone())
    }

    pub(crate) fn set_mood(&self, payment: &str, mood: Mood) {
        self.books().accounts.entry(payment.to_owned()).or_default().mood = mood;
    }

    /// As it stands; untouched where nobody has asked for anything.
    pub(crate) fn account(&self, payment: &str) -> Account {
        self.books().accounts.get(payment).copied().unwrap_or_default()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Nothing that holds it can panic halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn handle(
    State(payments): State<Payments>,
    Path((payment, verb)): Path<(String, Verb)>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let Some(key) = headers.get("idempotency-key").and_then(|key| key.to_str().ok()) else {
        return refusal(StatusCode::BAD_REQUEST, "KEY_REQUIRED").into_response();
    };
    let (answer, is_lost) = payments.books().answer(&payment, verb, key, &body);
    if is_lost {
        tokio::time::sleep(TOO_LATE).await;
    }
    answer.into_response()
}

impl Books {
    /// The answer, and whether it gets lost on its way.
    fn answer(&mut self, payment: &str, verb: Verb, key: &str, body: &Value) -> ((StatusCode, Json<Value>), bool) {
        let request = format!("{payment} {verb:?} {body}");
        let account = self.accounts.entry(payment.to_owned()).or_default();
        let is_silent = account.mood == Mood::NeverAnswers && verb == Verb::Authorise;
        if let Some((sent_for, status, body)) = self.answers.get(key) {
            if *sent_for == request {
                return ((*status, Json(body.clone())), is_silent);
            }
            return (refusal(StatusCode::UNPROCESSABLE_ENTITY, "KEY_REUSED"), false);
        }
        let is_lost = is_silent || account.mood == Mood::LosesAnswers;
        let (status, Json(told)) = account.carry_out(verb, body["cents"].as_u64().unwrap_or(0));
        // What is not decided is asked again, under the same key.
        if status != StatusCode::ACCEPTED {
            self.answers.insert(key.to_owned(), (request, status, told.clone()));
        }
        ((status, Json(told)), is_lost)
    }
}

impl Account {
    fn carry_out(&mut self, verb: Verb, cents: u64) -> (StatusCode, Json<Value>) {
        if self.mood == Mood::Waits(verb) {
            return (StatusCode::ACCEPTED, Json(json!({"status": "PENDING"})));
        }
        match verb {
            Verb::Authorise if self.voided => refusal(StatusCode::CONFLICT, "VOIDED"),
            Verb::Authorise if self.mood == Mood::Declines => refusal(StatusCode::PAYMENT_REQUIRED, "DECLINED"),
            Verb::Authorise => {
                self.held += cents;
                done("AUTHORISED")
            }
            Verb::Capture if self.mood == Mood::FailsCapture => refusal(StatusCode::PAYMENT_REQUIRED, "CAPTURE_FAILED"),
            Verb::Capture if self.held == 0 => refusal(StatusCode::CONFLICT, "NOT_AUTHORISED"),
            Verb::Capture => {
                self.taken += self.held;
                self.held = 0;
                done("CAPTURED")
            }
            Verb::Void if self.taken > 0 => refusal(StatusCode::CONFLICT, "CAPTURED"),
            Verb::Void => {
                (self.held, self.voided) = (0, true);
                done("VOIDED")
            }
            Verb::Refund if self.taken == 0 => refusal(StatusCode::CONFLICT, "NOT_CAPTURED"),
            Verb::Refund => {
                self.refunded += self.taken;
                self.taken = 0;
                done("REFUNDED")
            }
        }
    }
}

fn done(status: &str) -> (StatusCode, Json<Value>) {
    (StatusCode::OK, Json(json!({"status": status})))
}

fn refusal(status: StatusCode, code: &str) -> (StatusCode, Json<Value>) {
    (status, Json(json!({"code": code})))
}
