//! What the lane's owner tells its lane: grants, and how far the queue is durable.

use std::collections::BTreeMap;

use fred::types::Value;

use super::Flash;
use super::call::{Fence, check_nonce};
use super::error::FlashError;
use super::notice::Notice;
use super::reply::{broken, count, number, text};
use super::script::{GRANT, SETTLE};
use crate::domain::entry::set_sale_index;
use crate::domain::lane::{Cursor, Epoch, LaneNo, Nonce, Seq};

/// Grants per call. Each is one argument of the script, and each record of an ending one lookup.
pub const GRANTS_STEP: usize = 500;

/// What delivering found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Every grant up to this number is in force.
    InForce(i64),
    /// The lane lacks grants before the first; it has them up to this number.
    Gap(i64),
}

/// A numbered grant as it is sent.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Of which sale.
    pub sale_no: i32,
    /// The packed grant.
    pub body: Vec<u8>,
}

impl Flash {
    /// Delivers grants numbered `first`, `first + 1`, … to an open lane. Repeating it changes nothing.
    ///
    /// # Errors
    /// `Stale` where the lane is not open at `epoch` or is behind `cursor`; others where Redis can't be asked, and then
    /// what was done is unknown: repeat it.
    pub async fn deliver(
        &self,
        lane: LaneNo,
        cursor: Cursor,
        first: i64,
        parcels: &[Parcel],
    ) -> Result<Delivery, FlashError> {
        let lane = self.lane(lane);
        let now = self
            .clock
            .now()
            .ok_or_else(|| FlashError::Unavailable("the time is not known yet".into()))?;
        let seen = cursor.seq.max(lane.seen());
        let fence = Fence {
            epoch: cursor.epoch,
            seen,
            nonce: Nonce(rand::random()),
            now,
        };
        let (mut keys, mut sales) = (vec![lane.keys.meta(), lane.keys.queue()], Vec::<i32>::new());
        for parcel in parcels {
            if !sales.contains(&parcel.sale_no) {
                sales.push(parcel.sale_no);
                keys.extend(lane.keys.of_sale(parcel.sale_no));
            }
        }
        let mut args = fence.args();
        args.push(first.to_string().into());
        args.extend(sales.iter().map(|no| Value::from(no.to_string())));
        for parcel in parcels {
            let index = sales.iter().position(|no| *no == parcel.sale_no).unwrap_or_default();
            let mut body = parcel.body.clone();
            set_sale_index(
                &mut body,
                u8::try_from(index + 1).map_err(|_| FlashError::Broken("too many sales".into()))?,
            );
            args.push(Value::Bytes(body.into()));
        }
        let parts = match self.redis.eval(&GRANT, keys, args).await {
            Ok(reply) => check_nonce(reply, &fence)?,
            Err(error) => return Err(self.noted(lane, cursor.epoch, error)),
        };
        match parts.as_slice() {
            [_, word, seq, last] if text(word) == "ok" => {
                lane.saw(cursor.epoch, count(seq)?);
                Ok(Delivery::InForce(number(last)?))
            }
            [_, word, last] if text(word) == "gap" => Ok(Delivery::Gap(number(last)?)),
            [_, word, ..] if text(word) == "stale" => Err(self.noted(lane, cursor.epoch, FlashError::Stale)),
            _ => Err(broken("a delivery", parts.first().unwrap_or(&Value::Null))),
        }
    }

    /// Tells who waits, here and on every gateway, that these grants are in force.
    pub async fn tell_delivered(&self, lane: LaneNo, grant_ids: &[i64]) {
        self.delivered.mark(grant_ids.iter().copied());
        let payload = grant_ids.iter().flat_map(|id| id.to_be_bytes()).collect();
        // Who misses it asks the ledger.
        let _ = self.redis.publish(self.lane(lane).keys.delivered(), payload).await;
    }

    /// Tells who waits here what became durable, up to the cursor.
    pub fn tell_durable(&self, lane: LaneNo, cursor: Cursor, notice: &Notice) {
        let lane = self.lane(lane);
        lane.waiters.tell(notice);
        lane.saw(cursor.epoch, cursor.seq);
    }

    /// Tells the lane what became durable, and through it who waits elsewhere, and trims the queue before `keep`.
    /// `settled`: units that sales which bound what they owe the ledger have taken up to the cursor, cumulative.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn settle(
        &self,
        lane: LaneNo,
        cursor: Cursor,
        keep: Option<(Epoch, Seq)>,
        notice: &Notice,
        settled: &BTreeMap<i32, i64>,
    ) -> Result<(), FlashError> {
        let lane = self.lane(lane);
        let mut keys = vec![lane.keys.meta(), lane.keys.queue()];
        keys.extend(settled.keys().map(|sale_no| lane.keys.sale(*sale_no)));
        let mut args = vec![
            cursor.epoch.to_string().into(),
            cursor.seq.to_string().into(),
            cursor.total.to_string().into(),
            keep.map_or_else(String::new, |(epoch, seq)| format!("{epoch}-{seq}"))
                .into(),
            lane.keys.notice().into(),
            Value::Bytes(notice.pack().into()),
        ];
        args.extend(settled.values().map(|units| Value::from(units.to_string())));
        match self.redis.eval(&SETTLE, keys, args).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.noted(lane, cursor.epoch, error)),
        }
    }
}
