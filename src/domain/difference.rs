//! A difference between two things that must agree: where it is, what was expected, what was found.
//!
//! `verify` and `reconcile` speak in these; an operator reads the sentence, a program the fields.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::id::Item;
use super::lane::LaneNo;
use super::reservation_id::ReservationId;

/// What disagrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A balance is not the sum of its events.
    BalanceSum,
    /// An event does not begin where the one before it ended.
    EventGap,
    /// A balance is not the sum of its reservations.
    BalanceReservations,
    /// An event moves something else than its kind does.
    EventShape,
    /// Promised units are not on hand.
    Promises,
    /// What left one location is not what arrived at the other.
    Transfer,
    /// More came back of a reservation than it sold.
    Returns,
    /// What could still come back after a return is not what was sold less what had come back.
    Returnable,
    /// An order holds an item twice.
    OrderTwice,
    /// An adjustment's event is missing, or tells something else.
    AdjustmentEvent,
    /// A return's event is missing, or tells something else; or a return is missing.
    ReturnEvent,
    /// A transfer's event is missing, or tells something else; or a transfer is missing.
    TransferEvent,
    /// The event that a report says corrected something is missing, or is another.
    CorrectionEvent,
    /// A reservation has no event that made it.
    ReservationWithoutEvent,
    /// A reservation's events do not lead to its status, or tell other units.
    ReservationEvents,
    /// Events of a reservation that is not there.
    EventWithoutReservation,
    /// A cart's parts are not all there, or do not stand alike.
    Cart,
    /// What is set aside for an item is not what its sales have in counters, on the way and recalled.
    Escrow,
    /// A sale's units are not its allocation.
    Allocation,
    /// A sale's figures are not what its reservations say.
    Tally,
    /// A bucket's figures are not what its reservations say.
    Bucket,
    /// A user has more than the sale ever allowed.
    UserLimit,
    /// A reservation's idempotency key is missing.
    KeyMissing,
    /// A key is left that keeps an order from reserving again.
    KeyLeft,
    /// What shoppers' pages read is not what the ledger has, although it has followed so far.
    Snapshot,
    /// A lane's grants are not numbered without gaps, or say something else than their row.
    Grants,
    /// Redis does not have a lane, or has it at another epoch.
    LaneEpoch,
    /// A lane's queue does not follow the cursor entry by entry.
    QueueChain,
    /// A counter is not what queue and grants make it.
    Counter,
    /// A sale is missing in a lane, or should not be there.
    LaneSale,
    /// A buyer's record lacks a reservation.
    RecordMissing,
    /// A buyer's record holds a reservation that is not.
    RecordUnknown,
    /// A buyer's record tells a reservation wrongly.
    RecordDiffers,
    /// A buyer's record was altered: its checksum is wrong, or it can't be read.
    RecordAltered,
    /// An entry of a lane's queue was altered: its checksum or one of its slips' is wrong, or it can't be read.
    EntryAltered,
}

impl Kind {
    /// The word in reports and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::BalanceSum => "balance_sum",
            Kind::EventGap => "event_gap",
            Kind::BalanceReservations => "balance_reservations",
            Kind::EventShape => "event_shape",
            Kind::Promises => "promises",
            Kind::Transfer => "transfer",
            Kind::Returns => "returns",
            Kind::Returnable => "returnable",
            Kind::OrderTwice => "order_twice",
            Kind::AdjustmentEvent => "adjustment_event",
            Kind::ReturnEvent => "return_event",
            Kind::TransferEvent => "transfer_event",
            Kind::CorrectionEvent => "correction_event",
            Kind::ReservationWithoutEvent => "reservation_without_event",
            Kind::ReservationEvents => "reservation_events",
            Kind::EventWithoutReservation => "event_without_reservation",
            Kind::Cart => "cart",
            Kind::Escrow => "escrow",
            Kind::Allocation => "allocation",
            Kind::Tally => "tally",
            Kind::Bucket => "bucket",
            Kind::UserLimit => "user_limit",
            Kind::KeyMissing => "key_missing",
            Kind::KeyLeft => "key_left",
            Kind::Snapshot => "snapshot",
            Kind::Grants => "grants",
            Kind::LaneEpoch => "lane_epoch",
            Kind::QueueChain => "queue_chain",
            Kind::Counter => "counter",
            Kind::LaneSale => "lane_sale",
            Kind::RecordMissing => "record_missing",
            Kind::RecordUnknown => "record_unknown",
            Kind::RecordDiffers => "record_differs",
            Kind::RecordAltered => "record_altered",
            Kind::EntryAltered => "entry_altered",
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Where it is; what does not apply is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Site {
    /// Which lane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lane: Option<LaneNo>,
    /// Which sale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sale_id: Option<String>,
    /// Which SKU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sku_id: Option<String>,
    /// Where it lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location_id: Option<String>,
    /// Which reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation_id: Option<ReservationId>,
    /// Whose record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buyer: Option<String>,
    /// Which figure, event or entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

impl Site {
    /// A SKU at a location.
    #[must_use]
    pub fn item(sku: &str, location: &str) -> Self {
        Site {
            sku_id: Some(sku.to_owned()),
            location_id: Some(location.to_owned()),
            ..Site::default()
        }
    }

    /// The same at this item.
    #[must_use]
    pub fn with_item(self, item: &Item) -> Self {
        Site {
            sku_id: Some(item.sku.to_string()),
            location_id: Some(item.location.to_string()),
            ..self
        }
    }

    /// The same in this lane.
    #[must_use]
    pub fn with_lane(self, lane: LaneNo) -> Self {
        Site {
            lane: Some(lane),
            ..self
        }
    }

    /// The same of this sale.
    #[must_use]
    pub fn with_sale(self, sale: &str) -> Self {
        Site {
            sale_id: Some(sale.to_owned()),
            ..self
        }
    }

    /// The same of this reservation.
    #[must_use]
    pub fn with_reservation(self, id: ReservationId) -> Self {
        Site {
            reservation_id: Some(id),
            ..self
        }
    }

    /// The same of this figure, event or entry.
    #[must_use]
    pub fn with_figure(self, of: impl Into<String>) -> Self {
        Site {
            of: Some(of.into()),
            ..self
        }
    }
}

/// A number, or words where there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum Figure {
    /// Units, or a count.
    Number(i64),
    /// In words.
    Words(String),
}

impl From<i64> for Figure {
    fn from(number: i64) -> Self {
        Figure::Number(number)
    }
}

impl From<&str> for Figure {
    fn from(words: &str) -> Self {
        Figure::Words(words.to_owned())
    }
}

impl From<String> for Figure {
    fn from(words: String) -> Self {
        Figure::Words(words)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Figure::Number(number) => number.fmt(f),
            Figure::Words(words) => f.write_str(words),
        }
    }
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// What disagrees.
    pub kind: Kind,
    /// Where.
    #[serde(flatten)]
    pub site: Site,
    /// What it must be.
    pub expected: Figure,
    /// What it is.
    pub found: Figure,
    /// All of it in one sentence.
    pub message: String,
}

impl Difference {
    /// A difference; `says` is the sentence without place and figures.
    #[must_use]
    pub fn new(kind: Kind, site: Site, says: &str, expected: impl Into<Figure>, found: impl Into<Figure>) -> Self {
        let (expected, found) = (expected.into(), found.into());
        let message = format!("{site}: {says}: expected {expected}, found {found}");
        Difference {
            kind,
            site,
            expected,
            found,
            message,
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let item = match (&self.sku_id, &self.location_id) {
            (Some(sku), Some(location)) => Some(format!("{sku} at {location}")),
            (sku, location) => sku.clone().or_else(|| location.clone()),
        };
        let parts = [
            item,
            self.sale_id.as_ref().map(|sale| format!("sale {sale}")),
            self.lane.map(|lane| format!("lane {lane}")),
            self.buyer.as_ref().map(|buyer| format!("buyer {buyer}")),
            self.reservation_id.map(|id| format!("reservation {id}")),
            self.of.clone(),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_reads_as_a_sentence_and_as_fields() {
        let site = Site::item("hot", "wh1").with_sale("s1").with_lane(LaneNo(3));
        let difference = Difference::new(Kind::Counter, site, "the counter in Redis", 5, 6);
        assert_eq!(
            difference.to_string(),
            "hot at wh1, sale s1, lane 3: the counter in Redis: expected 5, found 6"
        );
        let json = serde_json::to_value(&difference).expect("serialises");
        assert_eq!(json["kind"], "counter");
        assert_eq!(json["lane"], 3);
        assert_eq!(json["saleId"], "s1");
        assert_eq!(json["found"], 6);
        assert!(json.get("buyer").is_none());
    }
}
