//! Why stock is adjusted, and what each reason does to a balance.

use super::post::{Deltas, EventType};

/// Why stock is adjusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Units came in.
    StockReceived,
    /// Someone knows better.
    ManualCorrection,
    /// Units are there, but can't be sold any more.
    Damaged,
    /// Units are gone.
    Lost,
    /// A customer sent units back, and they can be sold.
    ReturnProcessed,
    /// Counting found more or fewer.
    CycleCountCorrection,
    /// The supplier had sent more or fewer than said.
    SupplierShipmentCorrection,
}

/// Which deltas a reason takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Above 0.
    Positive,
    /// Below 0.
    Negative,
    /// Anything but 0.
    Either,
}

impl Reason {
    const ALL: [Reason; 7] = [
        Reason::StockReceived,
        Reason::ManualCorrection,
        Reason::Damaged,
        Reason::Lost,
        Reason::ReturnProcessed,
        Reason::CycleCountCorrection,
        Reason::SupplierShipmentCorrection,
    ];

    /// The word in requests, rows and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::StockReceived => "stock_received",
            Reason::ManualCorrection => "manual_correction",
            Reason::Damaged => "damaged",
            Reason::Lost => "lost",
            Reason::ReturnProcessed => "return_processed",
            Reason::CycleCountCorrection => "cycle_count_correction",
            Reason::SupplierShipmentCorrection => "supplier_shipment_correction",
        }
    }

    /// The word's reason.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// A person's word is all that speaks for it: no delivery and no customer does.
    #[must_use]
    pub fn is_manual(self) -> bool {
        !matches!(self, Reason::StockReceived | Reason::ReturnProcessed)
    }

    /// Which deltas it takes.
    #[must_use]
    pub fn sign(self) -> Sign {
        match self {
            Reason::StockReceived | Reason::ReturnProcessed => Sign::Positive,
            Reason::Damaged | Reason::Lost => Sign::Negative,
            Reason::ManualCorrection | Reason::CycleCountCorrection | Reason::SupplierShipmentCorrection => {
                Sign::Either
            }
        }
    }

    pub(super) fn event(self) -> EventType {
        match self {
            Reason::StockReceived => EventType::Received,
            Reason::Damaged => EventType::Damaged,
            Reason::ReturnProcessed => EventType::Returned,
            Reason::Lost
            | Reason::ManualCorrection
            | Reason::CycleCountCorrection
            | Reason::SupplierShipmentCorrection => EventType::Adjusted,
        }
    }

    /// What `delta` units do to the balance: damage moves units from sellable to unavailable, all else moves on_hand.
    pub(super) fn deltas(self, delta: i64) -> Deltas {
        match self {
            Reason::Damaged => Deltas {
                unavailable: -delta,
                damaged: -delta,
                ..Deltas::default()
            },
            Reason::ReturnProcessed => Deltas {
                on_hand: delta,
                returned: delta,
                ..Deltas::default()
            },
            _ => Deltas {
                on_hand: delta,
                ..Deltas::default()
            },
        }
    }
}
