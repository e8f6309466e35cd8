//! The journey of one buyer over HTTP. Each call is a named request in goose's
//! report; an expected refusal (409) is a success there, a "not now" (429, 503) is
//! a failure of the request even where the retry brings the buyer through.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use goose::goose::GooseResponse;
use goose::prelude::*;
use serde_json::{Value, json};

use crate::outcome::{End, Outcome, Step, classify};
use crate::plan::Ending;
use crate::retry::backoff;
use crate::settings::Settings;
use crate::tally::Tally;

/// The longest wait for one answer: well past the gateway's own (1 s).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

const RESERVATIONS: &str = "/api/inventory/reservations";

/// What all buyers of a run share.
#[derive(Debug)]
pub(crate) struct Run {
    settings: Settings,
    buyers: AtomicU32,
    /// What happened to them.
    pub(crate) tally: Tally,
}

impl Run {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            buyers: AtomicU32::new(0),
            tally: Tally::default(),
        }
    }

    /// The user id of buyer `n`.
    fn user_id(&self, n: u32) -> String {
        let Settings { run_id, users, .. } = &self.settings;
        match n.checked_rem(*users) {
            Some(person) => format!("{run_id}-u{person}"),
            None => format!("{run_id}-goose-u{n}"),
        }
    }
}

/// One buyer, from the first look to the end.
///
/// # Errors
/// Goose cut the journey off; it is not counted.
pub(crate) async fn buyer(user: &mut GooseUser, run: &Run) -> TransactionResult {
    let n = run.buyers.fetch_add(1, Ordering::Relaxed);
    let end = journey(user, run, n).await?;
    run.tally.ended(end);
    Ok(())
}

async fn journey(user: &mut GooseUser, run: &Run, n: u32) -> Result<End, Box<TransactionError>> {
    let Settings {
        sku_id,
        location_id,
        quantity,
        seed,
        shares,
        run_id,
        ..
    } = &run.settings;
    // Ids are of characters that need no escaping in a URL.
    let item = format!("/api/inventory?skuId={sku_id}&locationId={location_id}");
    // Whatever number the page shows, the buyer tries: it may be seconds old.
    match ask(user, run, &Call::get(Step::Look, item)).await? {
        (Outcome::Looked, _) => {}
        (outcome, _) => return Ok(end_of(outcome)),
    }

    let order_id = format!("{run_id}-goose-{n}");
    let reserve = Call {
        step: Step::Reserve,
        path: RESERVATIONS.to_owned(),
        post: Some((
            format!("{order_id}:reserve"),
            json!({"orderId": order_id, "skuId": sku_id, "locationId": location_id,
                   "quantity": quantity, "userId": run.user_id(n)}),
        )),
    };
    let (outcome, reply) = ask(user, run, &reserve).await?;
    if !matches!(outcome, Outcome::Durable | Outcome::Accepted) {
        return Ok(end_of(outcome));
    }
    let Some(id) = reply["reservationId"].as_str() else {
        return Ok(End::Error);
    };
    run.tally.reserved(outcome == Outcome::Durable);

    let (step, body) = match shares.ending(*seed, n) {
        Ending::Commit => (Step::Commit, json!({"paymentId": format!("pay-{order_id}")})),
        Ending::Release => (Step::Release, json!({"reason": "changed_mind"})),
        Ending::Walk => return Ok(End::WalkedAway),
    };
    let call = Call {
        step,
        path: format!("{RESERVATIONS}/{id}/{}", step.name()),
        post: Some((format!("{order_id}:{}", step.name()), body)),
    };
    let (outcome, _) = ask(user, run, &call).await?;
    Ok(end_of(outcome))
}

/// An answer that ends the journey; one that should have led on is an error.
fn end_of(outcome: Outcome) -> End {
    match outcome {
        Outcome::Ends(end) => end,
        Outcome::Busy => End::GaveUp,
        Outcome::Looked | Outcome::Durable | Outcome::Accepted => End::Error,
    }
}

/// A request that can be sent again as it was.
struct Call {
    step: Step,
    path: String,
    /// The idempotency key and the body; without them it is a GET.
    post: Option<(String, Value)>,
}

impl Call {
    fn get(step: Step, path: String) -> Self {
        Self { step, path, post: None }
    }
}

/// Asks until the answer is more than "not now", or the attempts are used up:
/// then it is [`Outcome::Busy`] still.
async fn ask(user: &mut GooseUser, run: &Run, call: &Call) -> Result<(Outcome, Value), Box<TransactionError>> {
    let mut attempt = 1;
    loop {
        let (outcome, reply) = send(user, call).await?;
        let wait = backoff(attempt).filter(|_| outcome == Outcome::Busy);
        let Some(wait) = wait else {
            return Ok((outcome, reply));
        };
        run.tally.retried();
        tokio::time::sleep(wait).await;
        attempt += 1;
    }
}

async fn send(user: &mut GooseUser, call: &Call) -> Result<(Outcome, Value), Box<TransactionError>> {
    let method = if call.post.is_some() {
        GooseMethod::Post
    } else {
        GooseMethod::Get
    };
    let mut builder = user.get_request_builder(&method, &call.path)?.timeout(ANSWER_TIMEOUT);
    if let Some((key, body)) = &call.post {
        builder = builder.header("Idempotency-Key", key).json(body);
    }
    let request = GooseRequest::builder()
        .method(method)
        .path(call.path.as_str())
        .name(call.step.name())
        .set_request_builder(builder)
        .build();
    let GooseResponse {
        mut request, response, ..
    } = user.request(request).await?;

    let (status, text) = match response {
        Ok(response) => (Some(response.status().as_u16()), response.text().await.ok()),
        Err(_) => (None, None),
    };
    // An answer that broke off is no answer.
    let status = status.filter(|_| text.is_some());
    let text = text.unwrap_or_default();
    let reply: Value = serde_json::from_str(&text).unwrap_or_default();
    let word = match (call.step, status) {
        (Step::Look, Some(200)) => "",
        _ => reply["code"]
            .as_str()
            .or_else(|| reply["status"].as_str())
            .unwrap_or_default(),
    };
    let outcome = classify(call.step, status, word);
    match outcome {
        Outcome::Busy => {}
        Outcome::Ends(End::Error) => {
            let tag = format!("unexpected {} {word}", status.unwrap_or_default());
            // Goose's table of errors has no room for the body.
            let _ = writeln!(io::stderr(), "{}: {tag}: {text}", call.step.name());
            user.set_failure(&tag, &mut request, None, Some(&text))?;
        }
        _ => {
            // Goose has counted a 409 as an error already; not a second time.
            request.error.clear();
            user.set_success(&mut request)?;
        }
    }
    Ok((outcome, reply))
}
