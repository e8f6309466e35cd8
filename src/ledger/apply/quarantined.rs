//! Puts aside what Postgres can't store, as it stood in the queue, for an admin to look at.

use super::ask::Ask;
use super::decide::Decided;
use crate::domain::lane::LaneNo;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;

pub(super) async fn add(
    tx: &mut Connection,
    lane: LaneNo,
    asks: &[Ask<'_>],
    decided: &Decided,
) -> Result<(), LedgerError> {
    let bad: Vec<(usize, &Ask<'_>)> = asks
        .iter()
        .enumerate()
        .filter(|(_, ask)| ask.poison.is_some())
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    let units = |at: usize, ask: &Ask<'_>| match ask.slip {
        Some(_) => Some(ask.units()),
        None => decided.missing.get(&at).copied(),
    };
    sqlx::query(
        "-- apply.quarantine
         INSERT INTO quarantine (lane, epoch, seq, idx, sale_no, reservation_id, quantity, cause, body)
         SELECT $1, * FROM UNNEST($2::int8[], $3::int8[], $4::int2[], $5::int4[], $6::uuid[], $7::int8[], $8::text[],
                                  $9::bytea[])",
    )
    .bind(lane.to_i16())
    .bind(
        bad.iter()
            .map(|(_, ask)| i64::from(ask.place.epoch))
            .collect::<Vec<_>>(),
    )
    .bind(
        bad.iter()
            .map(|(_, ask)| i64::try_from(ask.place.seq).unwrap_or(i64::MAX))
            .collect::<Vec<_>>(),
    )
    .bind(
        bad.iter()
            .map(|(_, ask)| i16::from(ask.place.index))
            .collect::<Vec<_>>(),
    )
    .bind(bad.iter().map(|(_, ask)| ask.sale_no).collect::<Vec<_>>())
    .bind(bad.iter().map(|(_, ask)| ask.id).collect::<Vec<_>>())
    .bind(bad.iter().map(|(at, ask)| units(*at, ask)).collect::<Vec<_>>())
    .bind(
        bad.iter()
            .map(|(_, ask)| ask.poison.as_deref().unwrap_or_default())
            .collect::<Vec<_>>(),
    )
    .bind(
        bad.iter()
            .map(|(_, ask)| ask.slip.map_or_else(|| ask.raw.to_vec(), |slip| slip.pack(ask.sale_no)))
            .collect::<Vec<_>>(),
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}
