//! What an event's row says of its balance: what it changed, and what it left. Whatever reads events flattens these in.

use crate::domain::balance::Image;

/// The columns that tell what an event changed.
#[derive(sqlx::FromRow)]
pub(super) struct DeltaRow {
    on_hand_delta: i64,
    reserved_delta: i64,
    unavailable_delta: i64,
    escrowed_delta: i64,
    sold_delta: i64,
    damaged_delta: i64,
    returned_delta: i64,
}

impl DeltaRow {
    pub(super) fn read(&self) -> Image {
        Image {
            on_hand: self.on_hand_delta,
            reserved: self.reserved_delta,
            unavailable: self.unavailable_delta,
            escrowed: self.escrowed_delta,
            sold: self.sold_delta,
            damaged: self.damaged_delta,
            returned: self.returned_delta,
        }
    }
}

/// The columns that tell what it left.
#[derive(sqlx::FromRow)]
pub(super) struct AfterRow {
    on_hand: i64,
    reserved: i64,
    unavailable: i64,
    escrowed: i64,
    sold: i64,
    damaged: i64,
    returned: i64,
}

impl AfterRow {
    pub(super) fn read(&self) -> Image {
        Image {
            on_hand: self.on_hand,
            reserved: self.reserved,
            unavailable: self.unavailable,
            escrowed: self.escrowed,
            sold: self.sold,
            damaged: self.damaged,
            returned: self.returned,
        }
    }
}
