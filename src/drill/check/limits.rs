//! C5: no user holds and has bought more than the limit, after each commit.
//!
//! The limit is the highest that the sale ever had; a lower one leaves those alone who had more before. A late payment of
//! what no sale sells any more asks for no limit, so users with one are left out.
//!
//! Can't be seen: a limit that was overstepped while it was lower than at another time, and a refusal for a limit that
//! was not reached.

use std::collections::HashMap;

use super::case::Case;
use super::verdict::Findings;
use crate::domain::account::{Kept, SaleAccount, Stock};
use crate::domain::id::UserId;
use crate::drill::history::{Kind, Operation};

/// What a user has of a sale.
type Had<'a> = HashMap<(i32, &'a UserId), i64>;

pub(super) fn kept(case: &Case<'_>, out: &mut Findings) {
    let sales: HashMap<i32, &SaleAccount> = case.account.sales.iter().map(|sale| (sale.no, sale)).collect();
    let rescued = |row: &&Kept| case.lives.get(&row.id).is_some_and(|life| life.retaken > 0);
    let left_out: HashMap<(i32, &UserId), ()> = case
        .each_row()
        .filter(rescued)
        .filter_map(|row| Some(((row.sale_no?, row.user.as_ref()?), ())))
        .collect();
    for stock in &case.account.stock {
        item(case, stock, &sales, &left_out, out);
    }
}

fn item(
    case: &Case<'_>,
    stock: &Stock,
    sales: &HashMap<i32, &SaleAccount>,
    left_out: &HashMap<(i32, &UserId), ()>,
    out: &mut Findings,
) {
    let (mut had, mut touched): (Had<'_>, Vec<(i32, &UserId)>) = (HashMap::new(), Vec::new());
    let mut told: Had<'_> = HashMap::new();
    for (at, change) in stock.changes.iter().enumerate() {
        let row = change.reservation.and_then(|id| case.rows.get(&id));
        if let Some((no, user)) = row.and_then(|row| row.sale_no.zip(row.user.as_ref())) {
            *had.entry((no, user)).or_default() += change.delta.reserved + change.delta.sold;
            touched.push((no, user));
        }
        let next = stock.changes.get(at + 1);
        if next.is_some_and(|next| next.transaction == change.transaction) {
            continue;
        }
        for of in touched.drain(..) {
            let Some((sale, limit)) = sales.get(&of.0).and_then(|sale| Some((*sale, sale.limit_peak?))) else {
                continue;
            };
            out.looked();
            let units = had[&of];
            if units > i64::from(limit) && !left_out.contains_key(&of) && told.insert(of, units).is_none() {
                let event = change.event_id;
                out.add(|| {
                    let what = format!(
                        "user {} has {units} units of sale {} after event {event}, of at most {limit}",
                        of.1, sale.id
                    );
                    (what, reserves_of(case, sale, of.1))
                });
            }
        }
    }
}

/// The reserves of a user, for a violation that is named.
fn reserves_of(case: &Case<'_>, sale: &SaleAccount, user: &UserId) -> Vec<u64> {
    let of = |op: &&Operation| {
        op.kind == Kind::Reserve && op.user_id.as_ref() == Some(user) && op.sku_id.as_ref() == Some(&sale.item.sku)
    };
    case.history.operations.iter().filter(of).map(|op| op.op).collect()
}
