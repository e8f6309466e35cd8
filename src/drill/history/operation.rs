//! One request of a client, and what came of it.

use serde::{Deserialize, Serialize};

use super::Moment;
use crate::domain::id::{LocationId, OrderId, SaleId, Sku, UserId};
use crate::domain::reservation::{Ack, Cause, Status};
use crate::domain::reservation_id::ReservationId;

/// What a client, or the admin, asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `POST …/reservations`, of one line.
    Reserve,
    /// `POST …/commit`.
    Commit,
    /// `POST …/release`.
    Release,
    /// `POST …/extend`.
    Extend,
    /// `GET …/{reservationId}`.
    Get,
    /// A sale's start, stop or change, by an admin: `action` says which.
    Sale,
}

/// What an admin did to a sale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It sells from here on.
    Start,
    /// It is over.
    Stop,
    /// Its settings changed, `allocation` among them where it is named.
    Patch,
}

/// What a client can know of the effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A 2xx: it has taken effect.
    Ok,
    /// A problem that decides (400, 404, 409, 422): it has none.
    Refused,
    /// The connection broke, it timed out, or 5xx, 429, 503: it may have taken effect, or still may.
    Unknown,
}

/// One request and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Operation {
    /// Its number, unique in the history.
    pub op: u64,
    /// Who asked.
    pub client: u32,
    /// Which gateway was asked.
    pub gateway: u32,
    /// For what.
    pub kind: Kind,
    /// The idempotency key, where one was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Of a reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<OrderId>,
    /// Of a reserve that names a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// The sale that the client believes to be asking, or that the admin changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sale_id: Option<SaleId>,
    /// Of a reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<Sku>,
    /// Of a reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location_id: Option<LocationId>,
    /// Units asked for, of a reserve; of others the units that the answer told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantity: Option<i64>,
    /// Before its first byte left.
    pub invoked: Moment,
    /// After its last byte came, or when the client gave up; none: it never returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<Moment>,
    /// What the client knows.
    pub outcome: Outcome,
    /// Of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Of a problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The reservation asked about, or made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_id: Option<ReservationId>,
    /// Its `status` in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_status: Option<Status>,
    /// Its `cause` in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Its `ack` in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<Ack>,
    /// What `INSUFFICIENT_STOCK` said was free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<i64>,
    /// The answer was `Idempotent-Replayed`.
    #[serde(default)]
    pub replayed: bool,
    /// Of a commit: the units had to be taken again.
    #[serde(default)]
    pub rescued: bool,
    /// Of a release: whether the units were usable again when it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restocked: Option<bool>,
    /// Of a sale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// Of a sale: the units that it has from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<i64>,
}

impl Operation {
    /// One that has been asked and has not returned: `unknown`, and nothing else known.
    #[must_use]
    pub fn asked(op: u64, kind: Kind, invoked: Moment) -> Self {
        Operation {
            op,
            client: 0,
            gateway: 0,
            kind,
            key: None,
            order_id: None,
            user_id: None,
            sale_id: None,
            sku_id: None,
            location_id: None,
            quantity: None,
            invoked,
            returned: None,
            outcome: Outcome::Unknown,
            status: None,
            code: None,
            reservation_id: None,
            reservation_status: None,
            cause: None,
            ack: None,
            available: None,
            replayed: false,
            rescued: false,
            restocked: None,
            action: None,
            allocation: None,
        }
    }
}
