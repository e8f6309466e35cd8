//! Alarms: what a batch shows to be wrong with the fast half, left where the sales' clock finds it.

use std::collections::BTreeMap;

use super::ask::Ask;
use super::book::Books;
use super::decide::{Decided, Fate};
use crate::domain::lane::LaneNo;
use crate::domain::reconciliation::FreezeCause;
use crate::domain::reservation::Cause;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

/// Raises one alarm for each sale of which units were refused as surplus, and one for each whose counter drifted.
pub(super) async fn raise(
    tx: &mut Connection,
    lane: LaneNo,
    asks: &[Ask<'_>],
    decided: &Decided,
    books: &Books,
) -> Result<(), LedgerError> {
    let mut alarms: BTreeMap<(i32, &str), i64> = BTreeMap::new();
    for (ask, fate) in asks.iter().zip(&decided.fates) {
        if matches!(
            fate,
            Fate::Refused {
                cause: Cause::Surplus,
                ..
            }
        ) {
            let refused = (ask.sale_no, FreezeCause::OversellAttempt.as_str());
            *alarms.entry(refused).or_default() += ask.units();
        }
    }
    for drift in &decided.drift {
        let now = books.get(drift.sale_no)?.drift;
        if now != 0 {
            alarms.insert((drift.sale_no, FreezeCause::Drift.as_str()), now);
        }
    }
    if alarms.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "-- apply.raise_alarms
         INSERT INTO alarm (sale_no, lane, cause, units)
         SELECT sale_no, $1, cause, units FROM UNNEST($2::int4[], $3::text[], $4::int8[]) AS a(sale_no, cause, units)
         ORDER BY sale_no, cause",
    )
    .bind(lane.to_i16())
    .bind(alarms.keys().map(|(sale_no, _)| *sale_no).collect::<Vec<_>>())
    .bind(alarms.keys().map(|(_, cause)| *cause).collect::<Vec<_>>())
    .bind(alarms.values().copied().collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}
