//! Lanes and their grants: numbers without gaps, rows that say what their message says, and what an operator should
//! know of lanes that nobody serves.

use uuid::Uuid;

use super::{Audit, rows_max};
use crate::domain::difference::{Difference, Kind, Site};
use crate::domain::grant::Grant;
use crate::domain::lane::LaneNo;
use crate::domain::reservation_id::ReservationId;
use crate::ledger::LedgerError;
use crate::ledger::connection::Connection;
use crate::ledger::grants::units;

#[derive(sqlx::FromRow)]
struct Numbers {
    lane: i16,
    grant_no: i64,
    first: i64,
    last: i64,
    rows: i64,
}

#[derive(sqlx::FromRow)]
struct Row {
    lane: i16,
    sale_id: String,
    grant_id: i64,
    kind: String,
    units: i64,
    reservation_id: Option<Uuid>,
    body: Vec<u8>,
    status: Option<String>,
}

#[derive(sqlx::FromRow)]
struct State {
    lane: i16,
    open: bool,
    owned: bool,
    waiting: i64,
}

pub(super) async fn check(tx: &mut Connection, audit: &mut Audit) -> Result<(), LedgerError> {
    check_grants(tx, audit).await?;
    notes(tx, audit).await
}

/// Numbers and messages of grants that wait.
pub(super) async fn check_grants(tx: &mut Connection, audit: &mut Audit) -> Result<(), LedgerError> {
    let numbers = numbers(tx).await?;
    audit.take(numbers.iter().map(Numbers::difference).collect());
    let rows = rows(tx).await?;
    let mut wrong: Vec<Difference> = rows.iter().filter_map(Row::difference).collect();
    wrong.truncate(usize::try_from(rows_max()).unwrap_or(usize::MAX));
    audit.take(wrong);
    Ok(())
}

async fn numbers(tx: &mut Connection) -> Result<Vec<Numbers>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.grant_numbers: what waits is the end of the lane's numbers, without a gap
         SELECT l.lane, l.grant_no, min(g.grant_no) AS first, max(g.grant_no) AS last, count(*) AS rows
         FROM lane l JOIN lane_grant g ON g.lane = l.lane AND g.grant_no IS NOT NULL
         GROUP BY l.lane
         HAVING max(g.grant_no) <> l.grant_no OR max(g.grant_no) - min(g.grant_no) + 1 <> count(*)
         ORDER BY l.lane",
    )
    .fetch_all(tx)
    .await?)
}

impl Numbers {
    fn difference(&self) -> Difference {
        let site = Site::default().with_lane(LaneNo::from_i16(self.lane));
        let expected = format!("{} to {}, each once", self.grant_no - self.rows + 1, self.grant_no);
        let found = format!("{} grants from {} to {}", self.rows, self.first, self.last);
        Difference::new(Kind::Grants, site, "numbers of grants that wait", expected, found)
    }
}

async fn rows(tx: &mut Connection) -> Result<Vec<Row>, LedgerError> {
    Ok(sqlx::query_as(
        "-- audit.grants
         SELECT g.lane, sale_id, grant_id, kind::text AS kind, units, g.reservation_id, body, r.status::text AS status
         FROM lane_grant g JOIN sale USING (sale_no)
         LEFT JOIN (SELECT reservation_id, status FROM inventory_reservation
                    UNION ALL SELECT reservation_id, status FROM inventory_reservation_cold) r
             ON g.kind = 'end' AND r.reservation_id = g.reservation_id
         ORDER BY grant_id",
    )
    .fetch_all(tx)
    .await?)
}

impl Row {
    fn difference(&self) -> Option<Difference> {
        let mut site = Site::default()
            .with_lane(LaneNo::from_i16(self.lane))
            .with_sale(&self.sale_id)
            .with_figure(format!("grant {}", self.grant_id));
        site.reservation_id = self.reservation_id.map(ReservationId);
        let says = match Grant::unpack(&self.body) {
            Ok(grant) if (grant.kind(), units(&grant)) == (self.kind.as_str(), self.units) => None,
            Ok(grant) => Some(format!("{} {}", grant.kind(), units(&grant))),
            Err(_) => Some("unreadable".to_owned()),
        };
        if let Some(says) = says {
            let expected = format!("{} {}", self.kind, self.units);
            return Some(Difference::new(
                Kind::Grants,
                site,
                "the message of a grant",
                expected,
                says,
            ));
        }
        let status = self.status.as_deref().unwrap_or("not in the ledger");
        let unended = self.kind == "end" && !matches!(status, "RELEASED" | "EXPIRED" | "REJECTED");
        unended.then(|| {
            let says = "a grant gives back units of a reservation that has not ended so";
            Difference::new(Kind::Grants, site, says, "RELEASED, EXPIRED or REJECTED", status)
        })
    }
}

async fn notes(tx: &mut Connection, audit: &mut Audit) -> Result<(), LedgerError> {
    let lanes: Vec<State> = sqlx::query_as(
        "-- audit.lanes
         SELECT lane, state = 'open' AS open, owner IS NOT NULL AS owned,
             (SELECT count(*) FROM lane_grant g WHERE g.lane = l.lane) AS waiting
         FROM lane l ORDER BY lane",
    )
    .fetch_all(&mut *tx)
    .await?;
    let list = |pick: fn(&State) -> bool| {
        let chosen: Vec<String> = lanes.iter().filter(|l| pick(l)).map(|l| l.lane.to_string()).collect();
        (!chosen.is_empty()).then(|| chosen.join(", "))
    };
    audit
        .notes
        .extend(list(|l| !l.open).map(|l| format!("lanes that are closed: {l}")));
    audit
        .notes
        .extend(list(|l| !l.owned).map(|l| format!("lanes that no gateway owns: {l}")));
    audit
        .notes
        .extend(list(|l| l.waiting > 0).map(|l| format!("lanes with grants that are not durably delivered: {l}")));
    let quarantined: i64 =
        sqlx::query_scalar("-- audit.quarantine\n SELECT count(*) FROM quarantine WHERE state = 'waiting'")
            .fetch_one(tx)
            .await?;
    if quarantined > 0 {
        audit
            .notes
            .push(format!("entries that wait in quarantine: {quarantined}"));
    }
    Ok(())
}
