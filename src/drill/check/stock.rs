//! C1: never more reserved and sold than there was, after each commit.
//!
//! Every event of an item is added up in order, from nothing. Where a transaction ends, what is promised (reserved, not for
//! sale, set aside for a sale) is on hand, and nothing is below zero. Sold units have left what is on hand, so this
//! bounds reserved and sold together by all that ever came. What the events say is reserved must be what the
//! reservations ask for, and where the sums lead is the balance, and the image in each event.
//!
//! Inside of a transaction units may be promised twice for a moment: nobody can see that. Can't be seen: stock that was
//! counted wrongly when it came.

use super::case::Case;
use super::verdict::Findings;
use crate::domain::account::{Change, Deed, Stock};
use crate::domain::balance::Image;

pub(super) fn covered(case: &Case<'_>, out: &mut Findings) {
    for stock in &case.account.stock {
        item(case, stock, out);
    }
}

fn item(case: &Case<'_>, stock: &Stock, out: &mut Findings) {
    // What was overwritten before a restoration has been told, and put right.
    let restored = stock.changes.iter().rposition(|change| change.deed == Deed::Restored);
    let (mut sum, mut by_reservations) = (Image::default(), 0);
    for (at, change) in stock.changes.iter().enumerate() {
        sum = sum.plus(&change.delta);
        by_reservations += reserved(case, change);
        let next = stock.changes.get(at + 1);
        if next.is_some_and(|next| next.transaction == change.transaction) {
            continue;
        }
        out.looked();
        let wrong = wrong(&sum, by_reservations).or_else(|| {
            let follows = restored.is_some_and(|restored| at < restored) || sum == change.after;
            (!follows).then(|| format!("it says {:?}, and all events come to {sum:?}", change.after))
        });
        if let Some(wrong) = wrong {
            return tell(case, stock, change, &wrong, out);
        }
    }
    if sum != stock.balance.image() {
        let item = name(stock);
        out.add(|| {
            let what = format!(
                "{item}: the balance is {:?}, and its events come to {sum:?}",
                stock.balance.image()
            );
            (what, Vec::new())
        });
    }
}

/// The first thing wrong of an item is told; all that comes after follows from it.
fn tell(case: &Case<'_>, stock: &Stock, change: &Change, wrong: &str, out: &mut Findings) {
    out.add(|| {
        let row = change.reservation.and_then(|id| case.rows.get(&id));
        let ops = row.map(|row| case.ops_of_order(row)).unwrap_or_default();
        (
            format!("{}, after event {}: {wrong}", name(stock), change.event_id),
            ops,
        )
    });
}

fn name(stock: &Stock) -> String {
    format!("{} at {}", stock.item.sku, stock.item.location)
}

/// What an event of a reservation adds to what is reserved, by the reservation's own units; by the event's where the
/// reservation is missing, which is for others to tell.
fn reserved(case: &Case<'_>, change: &Change) -> i64 {
    let row = change.reservation.and_then(|id| case.rows.get(&id));
    match (row, change.deed) {
        (Some(row), Deed::Taken | Deed::Retaken) => row.quantity,
        (Some(row), Deed::Ended(_)) => -row.quantity,
        _ => change.delta.reserved,
    }
}

fn wrong(sum: &Image, by_reservations: i64) -> Option<String> {
    let Image {
        on_hand,
        reserved,
        unavailable,
        escrowed,
        sold,
        ..
    } = *sum;
    if on_hand < reserved + unavailable + escrowed {
        return Some(format!(
            "{reserved} reserved, {unavailable} not for sale and {escrowed} set aside, of {on_hand} on hand ({sold} sold)"
        ));
    }
    if [on_hand, reserved, unavailable, escrowed]
        .iter()
        .any(|units| *units < 0)
    {
        return Some(format!("less than nothing: {sum:?}"));
    }
    (reserved != by_reservations)
        .then(|| format!("{reserved} reserved, and the reservations come to {by_reservations}"))
}
