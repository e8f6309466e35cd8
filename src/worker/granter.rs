//! The granter: numbers a lane's grants in the ledger and delivers them to the lane, in order, once each.

use std::time::{Duration, Instant};

use super::writer::WriterError;
use super::{Context, repeat};
use crate::domain::lane::{Cursor, LaneNo};
use crate::flash::{Delivery, FlashError, GRANTS_STEP, Parcel};
use crate::ledger::grants::Numbered;
use crate::ledger::{LedgerError, Pace};
use crate::metric;

/// A nudge may be lost; then a grant waits this long.
const POLL: Duration = Duration::from_millis(1_000);
/// How often grants that other gateways made are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// A look rests for as many times as long as it took, up to `POLL`: beside an old snapshot it walks past all that has gone since.
const RESTS: u32 = 10;
/// Grants numbered or delivered per step.
const STEP: i64 = 500;
/// Sales whose keys one delivery may name.
const SALES_MAX: usize = 64;

/// The granter of one lane at one epoch.
#[derive(Debug)]
pub struct Granter<'a> {
    context: &'a Context,
    lane: LaneNo,
    cursor: Cursor,
    /// Every grant up to here is in force in the lane.
    in_force: i64,
}

impl<'a> Granter<'a> {
    /// A granter that goes on from what the lane has.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn new(context: &'a Context, lane: LaneNo, cursor: Cursor) -> Result<Self, FlashError> {
        let in_force = in_force(context, lane, cursor).await?;
        Ok(Granter {
            context,
            lane,
            cursor,
            in_force,
        })
    }

    /// Grants until something is wrong.
    ///
    /// # Errors
    /// Always: what was wrong.
    pub async fn run(&mut self) -> Result<(), WriterError> {
        loop {
            match self.run_once().await {
                Ok(0) => while !self.is_nudged().await && !self.look_again().await? {},
                Ok(_) => {}
                Err(WriterError::Ledger(LedgerError::Retry(_))) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for somebody who made grants; false: for long enough.
    async fn is_nudged(&self) -> bool {
        let nudged = self.context.flash.grants_nudged(self.lane);
        tokio::time::timeout(POLL, nudged).await.is_ok()
    }

    /// Asks an idle lane which grants it has, and the ledger whether there are more. A lane that stepped back by no more
    /// than a grant may look like one that is in order, and then lacks what nobody would deliver before the next grant
    /// comes. Nothing is locked for it, which the lane's writer would wait for.
    async fn look_again(&mut self) -> Result<bool, WriterError> {
        self.in_force = in_force(self.context, self.lane, self.cursor).await?;
        let (ledger, gateway) = (&self.context.ledger, self.context.gateway);
        let more = ledger.has_grants(self.lane, gateway, self.cursor.epoch, self.in_force);
        more.await?.ok_or(WriterError::NotOwner)
    }

    /// Numbers and delivers one step; returns how many grants it handled.
    ///
    /// # Errors
    /// `Fork` where the lane lacks grants that the ledger has forgotten; else whoever can't be asked.
    pub async fn run_once(&mut self) -> Result<usize, WriterError> {
        let ledger = &self.context.ledger;
        let numbered = match ledger
            .number_grants(self.lane, self.context.gateway, self.cursor.epoch, STEP)
            .await?
        {
            Numbered::Done { numbered, returned } => numbered + returned,
            Numbered::NotOwner => return Err(WriterError::NotOwner),
        };
        let waiting = ledger.undelivered(self.lane, self.in_force, STEP).await?;
        // They are numbered in the order in which they were made.
        tell_age(self.lane, waiting.first().map_or(0.0, |oldest| oldest.waits_s));
        let Some(first) = waiting.first().map(|grant| grant.grant_no) else {
            return Ok(numbered);
        };
        if first != self.in_force + 1 {
            self.context.flash.suspect_lane(self.lane, self.cursor.epoch);
            return Err(WriterError::Fork(format!(
                "the lane has grants up to {}, the ledger from {first}",
                self.in_force
            )));
        }
        let mut sales = std::collections::BTreeSet::new();
        let fits = |sale_no: i32| {
            sales.insert(sale_no);
            sales.len() <= SALES_MAX
        };
        let mut fits = fits;
        let step: Vec<_> = waiting
            .into_iter()
            .take(GRANTS_STEP)
            .take_while(|grant| fits(grant.sale_no))
            .collect();
        let parcels: Vec<Parcel> = step
            .iter()
            .map(|grant| Parcel {
                sale_no: grant.sale_no,
                body: grant.body.clone(),
            })
            .collect();
        match self
            .context
            .flash
            .deliver(self.lane, self.cursor, first, &parcels)
            .await?
        {
            Delivery::InForce(last) => {
                self.in_force = last;
                let ids: Vec<i64> = step.iter().map(|grant| grant.grant_id).collect();
                self.context.flash.tell_delivered(self.lane, &ids).await;
            }
            Delivery::Gap(last) => self.in_force = last,
        }
        Ok(numbered + step.len())
    }
}

/// Says for how long the lane's oldest grant has waited; 0: none waits here.
pub(super) fn tell_age(lane: LaneNo, seconds: f64) {
    metrics::gauge!(metric::GRANT_AGE_SECONDS, "lane" => lane.to_string()).set(seconds);
}

/// The last grant that the lane has. A lane that is gone, or another's by now, is suspect: where nobody asks for units,
/// nobody else would notice.
async fn in_force(context: &Context, lane: LaneNo, cursor: Cursor) -> Result<i64, FlashError> {
    match context.flash.lane_meta(lane).await? {
        Some(meta) if meta.epoch == cursor.epoch => Ok(meta.grant_no),
        _ => {
            context.flash.suspect_lane(lane, cursor.epoch);
            Err(FlashError::Stale)
        }
    }
}

/// Wakes the granters of lanes with grants that another gateway, or nobody's request, has made; over a connection of its
/// own, as the [expiry](super::expiry) has one.
pub(crate) async fn nudge(context: Context) {
    let context = context.apart(1, Pace::Waited);
    repeat::<LedgerError, _>(&context, "grants", LOOK_EVERY, async || {
        let begun = Instant::now();
        for lane in context.ledger.lanes_with_grants().await? {
            context.flash.nudge_grants(lane);
        }
        let rest = (begun.elapsed() * RESTS).min(POLL);
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = context.stop.cancelled() => {}
        }
        Ok(false)
    })
    .await;
    context.ledger.close().await;
}
