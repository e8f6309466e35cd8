//! C7: units are conserved in each lane.
//!
//! A bucket counts every taking that became durable: that is the sum of its reservations, late payments counted again. A
//! sale's units are somewhere: in counters, in grants on their way, taken back, reserved or sold; while it lasts they are its
//! allocation, and once it is over no more than that, with none left in its lanes when it is drained. What was paid for after
//! the sale was over came from the shelf, and is not the sale's. What an item has set
//! aside is what its sales have free.
//!
//! Can't be seen: what Redis holds; its counters are compared with these by the writer, entry by entry, which is drift
//! (C8). And units that moved between two buckets of a sale by mistake, each of which still adds up.

use std::collections::HashMap;

use super::case::Case;
use super::verdict::Findings;
use crate::domain::account::SaleAccount;
use crate::domain::id::Item;
use crate::domain::lane::LaneNo;
use crate::domain::reservation::Status;
use crate::domain::sale::SaleState;

pub(super) fn conserved(case: &Case<'_>, out: &mut Findings) {
    let mut taken: HashMap<(i32, LaneNo), i64> = HashMap::new();
    let mut held: HashMap<i32, i64> = HashMap::new();
    for row in case.each_row().filter(|row| row.status != Status::Rejected) {
        let Some(no) = row.sale_no else { continue };
        if let Some(lane) = row.lane {
            let again = case.lives.get(&row.id).map_or(0, |life| i64::from(life.retaken));
            *taken.entry((no, lane)).or_default() += row.quantity * (1 + again);
        }
        let from_shelf = case.lives.get(&row.id).is_some_and(|life| life.from_shelf);
        if matches!(row.status, Status::Reserved | Status::Committed) && !from_shelf {
            *held.entry(no).or_default() += row.quantity;
        }
    }
    let mut free: HashMap<&Item, i64> = HashMap::new();
    for sale in &case.account.sales {
        for bucket in &sale.buckets {
            out.looked();
            let expected = taken.remove(&(sale.no, bucket.lane)).unwrap_or_default();
            if bucket.durable != expected {
                let (lane, durable) = (bucket.lane, bucket.durable);
                out.add(|| {
                    let what = format!(
                        "lane {lane} of sale {}: {durable} units became durable, and its reservations come to {expected}",
                        sale.id
                    );
                    (what, Vec::new())
                });
            }
        }
        units(sale, held.get(&sale.no).copied().unwrap_or_default(), out);
        *free.entry(&sale.item).or_default() += sale.free();
    }
    let mut nowhere: Vec<_> = taken.into_iter().filter(|(_, units)| *units != 0).collect();
    nowhere.sort_unstable();
    for ((no, lane), units) in nowhere {
        out.add(|| {
            (
                format!("{units} units of sale number {no} in lane {lane}, where it has none"),
                Vec::new(),
            )
        });
    }
    for stock in &case.account.stock {
        out.looked();
        let expected = free.get(&stock.item).copied().unwrap_or_default();
        if stock.balance.escrowed != expected {
            let (item, escrowed) = (&stock.item, stock.balance.escrowed);
            out.add(|| {
                let what = format!(
                    "{} at {}: {escrowed} units are set aside, and its sales have {expected} free",
                    item.sku, item.location
                );
                (what, Vec::new())
            });
        }
    }
}

fn units(sale: &SaleAccount, held: i64, out: &mut Findings) {
    out.looked();
    let (free, allocation, id) = (sale.free(), sale.allocation, &sale.id);
    let ended = sale.state == SaleState::Ended;
    let wrong = if sale.drained && free != 0 {
        format!("sale {id} is drained, and its lanes have {free} units")
    } else if !ended && free + held != allocation {
        format!("sale {id}: {free} units free and {held} reserved or sold, of {allocation}")
    } else if free + held > allocation {
        format!("sale {id} is over: {free} units free and {held} reserved or sold, of at most {allocation}")
    } else {
        return;
    };
    out.add(|| (wrong, Vec::new()));
}
