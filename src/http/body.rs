//! A reservation, as answers show it.

use serde::Serialize;

use crate::domain::id::{LocationId, OrderId, Sku, UserId};
use crate::domain::reservation::{Ack, Line, Reservation, Status};
use crate::domain::reservation_id::ReservationId;
use crate::domain::time::Millis;

/// One line of a reservation.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LineBody {
    /// What.
    #[schema(value_type = String)]
    pub sku_id: Sku,
    /// Where.
    #[schema(value_type = String)]
    pub location_id: LocationId,
    /// Units.
    pub quantity: i64,
}

impl From<&Line> for LineBody {
    fn from(line: &Line) -> Self {
        LineBody {
            sku_id: line.item.sku.clone(),
            location_id: line.item.location.clone(),
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
    #[schema(value_type = String)]
    pub reservation_id: ReservationId,
    /// The shop's order.
    #[schema(value_type = String)]
    pub order_id: OrderId,
    /// The buyer, where one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub user_id: Option<UserId>,
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
    #[schema(value_type = String)]
    pub expires_at: Millis,
    /// When the units were taken.
    #[schema(value_type = String)]
    pub created_at: Millis,
    /// Last change.
    #[schema(value_type = String)]
    pub updated_at: Millis,
}

impl From<Reservation> for ReservationBody {
    fn from(r: Reservation) -> Self {
        let lines: Vec<LineBody> = r.lines.iter().map(LineBody::from).collect();
        let only = match lines.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        };
        ReservationBody {
            reservation_id: r.id,
            order_id: r.order,
            user_id: r.user,
            status: r.status,
            cause: r.cause.map(|cause| cause.as_str()),
            ack: r.ack,
            lines,
            only,
            expires_at: r.expires_at,
            created_at: r.created_at,
            updated_at: r.updated_at,
        }
    }
}

/// A reservation that was accepted and lost before it was durable: all that is left of it is its id.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LostBody {
    /// Its id.
    #[schema(value_type = String)]
    pub reservation_id: ReservationId,
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
            reservation_id: id,
            status: Status::Rejected,
            cause: crate::domain::reservation::Cause::Lost.as_str(),
            ack: Ack::Accepted,
        }
    }
}
