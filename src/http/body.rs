//! A reservation, as answers show it.

use serde::Serialize;

use crate::domain::reservation::{Ack, Line, Reservation, Status};
use crate::domain::reservation_id::ReservationId;

/// One line of a reservation.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LineBody {
    /// What.
    pub sku_id: String,
    /// Where.
    pub location_id: String,
    /// Units.
    pub quantity: i64,
}

impl From<&Line> for LineBody {
    fn from(line: &Line) -> Self {
        LineBody {
            sku_id: line.item.sku.to_string(),
            location_id: line.item.location.to_string(),
            quantity: line.quantity,
        }
    }
}

/// A reservation.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Reservation)]
pub struct ReservationBody {
    /// Its id.
    pub reservation_id: String,
    /// The shop's order.
    pub order_id: String,
    /// The buyer, where one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// Why it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    /// How far its record has got.
    pub ack: Ack,
    /// What is reserved.
    pub lines: Vec<LineBody>,
    /// The only line's, where there is one.
    #[serde(flatten)]
    pub only: Option<LineBody>,
    /// The deadline.
    pub expires_at: String,
    /// When the units were taken.
    pub created_at: String,
    /// Last change.
    pub updated_at: String,
}

impl From<Reservation> for ReservationBody {
    fn from(r: Reservation) -> Self {
        let lines: Vec<LineBody> = r.lines.iter().map(LineBody::from).collect();
        let only = match lines.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        };
        ReservationBody {
            reservation_id: r.id.to_string(),
            order_id: r.order.to_string(),
            user_id: r.user.map(|user| user.to_string()),
            status: r.status,
            cause: r.cause.map(|cause| cause.as_str()),
            ack: r.ack,
            lines,
            only,
            expires_at: r.expires_at.to_string(),
            created_at: r.created_at.to_string(),
            updated_at: r.updated_at.to_string(),
        }
    }
}

/// A reservation that was accepted and lost before it was durable: all that is left of it is its id.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LostBody {
    /// Its id.
    pub reservation_id: String,
    /// `REJECTED`.
    pub status: Status,
    /// `lost`.
    pub cause: &'static str,
    /// `accepted`: it got no further.
    pub ack: Ack,
}

impl LostBody {
    /// Of this id.
    #[must_use]
    pub fn new(id: ReservationId) -> Self {
        LostBody {
            reservation_id: id.to_string(),
            status: Status::Rejected,
            cause: crate::domain::reservation::Cause::Lost.as_str(),
            ack: Ack::Accepted,
        }
    }
}
