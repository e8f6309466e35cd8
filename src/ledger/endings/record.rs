//! What the end of a reservation changes: its row, its keys, the balance with its event, the sale's tally, and the
//! grant that carries the units back to their lane.
//!
//! Set-wise: however many reservations end together, each table is written by one statement. Commits, releases and
//! expiries all end here, so they can't differ.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::grant::Grant;
use crate::domain::key::KeyHash;
use crate::domain::lane::LaneNo;
use crate::domain::reservation::Status;
use crate::domain::reservation_id::ReservationId;
use crate::domain::sale::SaleState;
use crate::domain::trace::TraceId;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;
use crate::ledger::grants::{NewGrant, add_grants};
use crate::ledger::post::{Deltas, EventType, Movement, post};
use crate::ledger::reservation::ReservationRow;

/// A reservation that was `RESERVED`, is locked, and ends now.
pub(in crate::ledger) struct Ended {
    /// As it was read under the lock.
    pub(in crate::ledger) row: ReservationRow,
    /// How it ends: `Committed`, `Released` or `Expired`.
    pub(in crate::ledger) status: Status,
    /// The payment of a commit, the reason of a release.
    pub(in crate::ledger) detail: Option<String>,
    pub(in crate::ledger) trace: TraceId,
    pub(in crate::ledger) operator: Option<String>,
}

/// A grant that an ending made.
pub(in crate::ledger) struct Given {
    pub(in crate::ledger) reservation: Uuid,
    pub(in crate::ledger) grant_id: i64,
    pub(in crate::ledger) lane: LaneNo,
}

/// What [`record`] wrote.
pub(in crate::ledger) struct Recorded {
    /// Of every row that ended.
    pub(in crate::ledger) updated_at: DateTime<Utc>,
    /// Of those whose units go back to a lane.
    pub(in crate::ledger) given: Vec<Given>,
}

impl Ended {
    /// The lane and sale that get the units back. An ended sale's units stay in the balance, outside its escrow.
    fn goes_back_to(&self) -> Result<Option<(LaneNo, i32)>, LedgerError> {
        let selling = !matches!(self.row.sale_state()?, None | Some(SaleState::Ended));
        let lane = self.row.lane.map(LaneNo::from_i16);
        Ok(lane
            .zip(self.row.sale_no)
            .filter(|_| selling && self.status != Status::Committed))
    }

    fn movement(&self) -> Result<Movement, LedgerError> {
        let q = self.row.quantity;
        let escrowed = if self.goes_back_to()?.is_some() { q } else { 0 };
        let back = Deltas {
            reserved: -q,
            escrowed,
            ..Deltas::default()
        };
        let sold = Deltas {
            on_hand: -q,
            reserved: -q,
            sold: q,
            ..Deltas::default()
        };
        let (event, quantity_delta, deltas) = match self.status {
            Status::Committed => (EventType::Committed, -q, sold),
            Status::Released => (EventType::Released, q, back),
            Status::Expired => (EventType::Expired, q, back),
            Status::Reserved | Status::Rejected => return Err(LedgerError::Broken("no ending leads here".into())),
        };
        let detail = |of: Status| self.detail.clone().filter(|_| self.status == of);
        Ok(Movement {
            item: self.row.item()?,
            event,
            quantity_delta,
            deltas,
            reason: detail(Status::Released),
            reference_id: detail(Status::Committed),
            reservation_id: Some(self.row.reservation_id),
            order_id: Some(self.row.order_id.clone()),
            operator: self.operator.clone(),
            trace_id: Some(self.trace.to_uuid()),
            metadata: None,
        })
    }

    fn grant(&self) -> Result<Option<NewGrant>, LedgerError> {
        let Some((lane, sale_no)) = self.goes_back_to()? else {
            return Ok(None);
        };
        let quantity = u32::try_from(self.row.quantity)
            .map_err(|_| LedgerError::Broken(format!("a reservation of {} units", self.row.quantity)))?;
        let grant = Grant::End {
            place: ReservationId(self.row.reservation_id).place(),
            quantity,
            status: self.status,
            buyer: self.row.buyer(),
        };
        Ok(Some(NewGrant {
            lane,
            sale_no,
            grant,
            reservation_id: Some(self.row.reservation_id),
        }))
    }

    /// Says in the log what happened; called once it is committed.
    pub(in crate::ledger) fn log(&self) {
        tracing::info!(
            trace = %self.trace,
            reservation = %ReservationId(self.row.reservation_id),
            order = self.row.order_id,
            sku = self.row.sku_id,
            location = self.row.location_id,
            quantity = self.row.quantity,
            status = self.status.as_str(),
            detail = self.detail,
            operator = self.operator,
            "a reservation ended"
        );
    }
}

/// Writes all that these endings change.
pub(in crate::ledger) async fn record(tx: &mut Connection, ended: &[Ended]) -> Result<Recorded, LedgerError> {
    let updated_at = update_rows(tx, ended).await?;
    delete_keys(tx, ended).await?;
    let movements = ended.iter().map(Ended::movement).collect::<Result<Vec<_>, _>>()?;
    post(tx, &movements).await?;
    tally(tx, ended).await?;
    let grants: Vec<NewGrant> = ended
        .iter()
        .filter_map(|e| e.grant().transpose())
        .collect::<Result<_, _>>()?;
    let ids = add_grants(tx, &grants).await?;
    let given = grants
        .iter()
        .zip(ids)
        .filter_map(|(grant, grant_id)| {
            grant.reservation_id.map(|reservation| Given {
                reservation,
                grant_id,
                lane: grant.lane,
            })
        })
        .collect();
    Ok(Recorded { updated_at, given })
}

async fn update_rows(tx: &mut Connection, ended: &[Ended]) -> Result<DateTime<Utc>, LedgerError> {
    let detail = |of: Status| {
        let pick = move |e: &Ended| e.detail.clone().filter(|_| e.status == of);
        ended.iter().map(pick).collect::<Vec<_>>()
    };
    let at: Vec<DateTime<Utc>> = sqlx::query_scalar(
        "-- ending.update: the status is asked for again, so that even a forgotten lock could not end one twice, and by its
         -- word: all that is reserved has an index, which seems as good as any on a day that was empty when this was
         -- planned. The deadline is written with the stalls that it was given, for these are not kept for ever
         UPDATE inventory_reservation r SET status = e.status, updated_at = now.at, expires_at = e.due,
             stall_no = e.stalls, payment_id = e.payment_id, end_reason = e.end_reason
         FROM UNNEST($1::uuid[], $2::timestamptz[], $3::reservation_status[], $4::timestamptz[], $5::int8[],
                     $6::text[], $7::text[])
              AS e(reservation_id, created_at, status, due, stalls, payment_id, end_reason),
              (SELECT clock_timestamp() AS at OFFSET 0) AS now
         WHERE r.reservation_id = e.reservation_id AND r.created_at = e.created_at AND r.status::text = 'RESERVED'
         RETURNING r.updated_at",
    )
    .bind(ended.iter().map(|e| e.row.reservation_id).collect::<Vec<_>>())
    .bind(ended.iter().map(|e| e.row.created_at).collect::<Vec<_>>())
    .bind(ended.iter().map(|e| e.status.as_str()).collect::<Vec<_>>())
    .bind(ended.iter().map(|e| e.row.due).collect::<Vec<_>>())
    .bind(ended.iter().map(|e| e.row.stalls).collect::<Vec<_>>())
    .bind(detail(Status::Committed))
    .bind(detail(Status::Released))
    .fetch_all(&mut *tx)
    .await?;
    match at.first() {
        Some(first) if at.len() == ended.len() => Ok(*first),
        _ => Err(LedgerError::Broken(format!(
            "{} of {} locked reservations ended",
            at.len(),
            ended.len()
        ))),
    }
}

/// After a release or an expiry the order may reserve again: the derived key and the order's line are free. A key that
/// the client chose stays.
async fn delete_keys(tx: &mut Connection, ended: &[Ended]) -> Result<(), LedgerError> {
    let mut freed: Vec<(Uuid, Uuid)> = Vec::new();
    for e in ended.iter().filter(|e| e.status != Status::Committed) {
        let mut free = |hash: Uuid, subject: Uuid| freed.push((hash, subject));
        for location in [e.row.location_id.as_str(), ""] {
            let line = KeyHash::order_line(&e.row.order_id, &e.row.sku_id, location);
            free(line.to_uuid(), e.row.reservation_id);
        }
        if !e.row.explicit_key {
            free(e.row.key_hash, e.row.reservation_id);
        }
        if let Some(cart) = e.row.cart_id {
            free(KeyHash::cart(&e.row.order_id).to_uuid(), cart);
            // That of a line without a location, which became a cart where it was split.
            free(KeyHash::order_line(&e.row.order_id, &e.row.sku_id, "").to_uuid(), cart);
        }
    }
    if freed.is_empty() {
        return Ok(());
    }
    // A derived key is mostly that of the line.
    freed.sort_unstable();
    freed.dedup();
    let (hashes, subjects): (Vec<Uuid>, Vec<Uuid>) = freed.into_iter().unzip();
    sqlx::query(
        "-- ending.free_keys: only where the row is still this reservation's
         DELETE FROM inventory_key k USING UNNEST($1::uuid[], $2::uuid[]) AS e(key_hash, subject_id)
         WHERE k.key_hash = e.key_hash AND k.subject_id = e.subject_id",
    )
    .bind(hashes)
    .bind(subjects)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Units by sale and ending, cumulative.
async fn tally(tx: &mut Connection, ended: &[Ended]) -> Result<(), LedgerError> {
    let mut sums: BTreeMap<i32, [i64; 3]> = BTreeMap::new();
    for e in ended {
        let Some(sale_no) = e.row.sale_no else { continue };
        let column = match e.status {
            Status::Committed => 0,
            Status::Released => 1,
            _ => 2,
        };
        sums.entry(sale_no).or_default()[column] += e.row.quantity;
    }
    if sums.is_empty() {
        return Ok(());
    }
    let column = |n: usize| sums.values().map(|sum| sum[n]).collect::<Vec<i64>>();
    sqlx::query(
        "-- sale_tally.add: in key order, so that two batches can't deadlock
         INSERT INTO sale_tally (sale_no, committed, released, expired)
         SELECT * FROM UNNEST($1::int4[], $2::int8[], $3::int8[], $4::int8[])
             AS t(sale_no, committed, released, expired) ORDER BY sale_no
         ON CONFLICT (sale_no) DO UPDATE SET committed = sale_tally.committed + excluded.committed,
             released = sale_tally.released + excluded.released, expired = sale_tally.expired + excluded.expired",
    )
    .bind(sums.keys().copied().collect::<Vec<_>>())
    .bind(column(0))
    .bind(column(1))
    .bind(column(2))
    .execute(&mut *tx)
    .await?;
    Ok(())
}
