//! Looking at a lane without changing it: for `verify`, for figures, and for reservations that are not durable yet.

use fred::types::Value;

use super::Flash;
use super::error::FlashError;
use super::queue::read_one;
use super::recover::{LaneMeta, read_meta};
use super::reply::{array, bytes, entries, number, text};
use super::script::LOOK;
use crate::domain::entry::{Accepted, Body, Entry, RawEntry};
use crate::domain::id::{OrderId, UserId};
use crate::domain::lane::{Epoch, LaneNo, Seq};
use crate::domain::reservation_id::ReservationId;
use crate::domain::time::Millis;

/// One consistent view of a lane and some of its sales.
#[derive(Clone, Debug)]
pub struct LaneView {
    /// The lane; none where it does not exist.
    pub meta: Option<LaneMeta>,
    /// The counters asked for; none where the lane does not know the sale.
    pub free: Vec<Option<i64>>,
    /// The records asked for, empty where there is none.
    pub records: Vec<Vec<u8>>,
    /// The queue after the place asked for.
    pub entries: Vec<RawEntry>,
}

/// A sale in one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneFigures {
    /// Which lane.
    pub lane: LaneNo,
    /// Units free.
    pub free: i64,
    /// Units reserved so far, cumulative.
    pub taken: i64,
    /// Reservations of the lane that wait for the ledger.
    pub queue_depth: u64,
}

/// A reservation as its queue entry tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// Of which sale.
    pub sale_no: i32,
    /// The shop's order.
    pub order: OrderId,
    /// The buyer, where one was named.
    pub user: Option<UserId>,
    /// Units.
    pub quantity: u32,
    /// The lane's time.
    pub created_at: Millis,
    /// Its deadline.
    pub expires_at: Millis,
}

impl Flash {
    /// A consistent view of a lane: meta, counters of `sales`, records of `buyers` of the first of these, and the queue
    /// after (`epoch`, `seq`), at most `count` entries.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn look(
        &self,
        lane: LaneNo,
        sales: &[i32],
        after: (Epoch, Seq),
        count: usize,
        buyers: &[String],
    ) -> Result<LaneView, FlashError> {
        let keys = &self.lane(lane).keys;
        // No sale has the number 0.
        let records = keys.buyers(sales.first().copied().unwrap_or(0));
        let mut named = vec![keys.meta(), keys.queue(), records];
        named.extend(sales.iter().map(|sale_no| keys.sale(*sale_no)));
        let mut args = vec![
            Value::from(format!("{}-{}", after.0, after.1)),
            count.to_string().into(),
        ];
        args.extend(buyers.iter().map(|buyer| Value::from(buyer.as_str())));
        let reply = self.redis.eval(&LOOK, named, args).await?;
        let mut parts = array(reply, "a look")?.into_iter();
        let mut next = || parts.next().ok_or_else(|| FlashError::Broken("a short look".into()));
        let meta = read_meta(&array(next()?, "a lane's meta")?)?;
        let counter = |free: &Value| (!free.is_null()).then(|| number(free)).transpose();
        let free: Vec<Option<i64>> = array(next()?, "counters")?
            .iter()
            .map(counter)
            .collect::<Result<_, _>>()?;
        if free.len() != sales.len() {
            return Err(FlashError::Broken("a look without all counters".into()));
        }
        let records = array(next()?, "records")?.iter().map(bytes).collect();
        Ok(LaneView {
            meta,
            free,
            records,
            entries: entries(next()?)?,
        })
    }

    /// The buyers with a record, one step of a scan: the step's buyers and where to go on, none at the end.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn scan_buyers(
        &self,
        lane: LaneNo,
        sale_no: i32,
        at: Option<String>,
    ) -> Result<(Vec<String>, Option<String>), FlashError> {
        let key = self.lane(lane).keys.buyers(sale_no);
        let args = vec![
            key.into(),
            at.unwrap_or_else(|| "0".into()).into(),
            "COUNT".into(),
            "500".into(),
        ];
        let mut parts = array(self.redis.keyed("HSCAN", args).await?, "a scan")?;
        let (Some(pairs), Some(next)) = (parts.pop(), parts.pop()) else {
            return Err(FlashError::Broken("a short scan".into()));
        };
        let buyers = array(pairs, "a scan")?.iter().step_by(2).map(text).collect();
        let next = text(&next);
        Ok((buyers, (next != "0").then_some(next)))
    }

    /// A sale's figures in its lanes; a lane that does not know the sale counts nothing.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn lane_figures(&self, sale_no: i32, lanes: &[LaneNo]) -> Result<Vec<LaneFigures>, FlashError> {
        let figures = lanes.iter().map(|lane| self.figures_of(sale_no, *lane));
        futures::future::try_join_all(figures).await
    }

    async fn figures_of(&self, sale_no: i32, lane: LaneNo) -> Result<LaneFigures, FlashError> {
        let keys = &self.lane(lane).keys;
        let sale_args = vec![keys.sale(sale_no).into(), "free".into(), "taken".into()];
        let meta_args = vec![keys.meta().into(), "total".into(), "done".into()];
        let (sale, meta) = futures::future::try_join(
            self.redis.keyed("HMGET", sale_args),
            self.redis.keyed("HMGET", meta_args),
        )
        .await?;
        let value = |values: &[Value], i: usize| match values.get(i) {
            None | Some(Value::Null) => Ok(0),
            Some(value) => number(value),
        };
        let (sale, meta) = (array(sale, "a sale")?, array(meta, "a meta")?);
        let depth = value(&meta, 0)? - value(&meta, 1)?;
        Ok(LaneFigures {
            lane,
            free: value(&sale, 0)?,
            taken: value(&sale, 1)?,
            queue_depth: u64::try_from(depth).unwrap_or(0),
        })
    }

    /// The reservation of this id as its queue entry tells it, while the queue holds that.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn peek(&self, id: ReservationId) -> Result<Option<Peeked>, FlashError> {
        let Some(lane) = self.lanes.get(usize::from(id.lane().0)) else {
            return Ok(None);
        };
        let place = id.place();
        let Some(raw) = read_one(&self.redis, &lane.keys, place.epoch, place.seq).await? else {
            return Ok(None);
        };
        let entry = Entry::decode(&raw)?;
        let Body::Reserve(slips) = &entry.body else {
            return Ok(None);
        };
        let Some(Ok(Accepted { sale, slip })) = slips.get(usize::from(place.index)) else {
            return Ok(None);
        };
        if entry.nonce.tail() != place.nonce {
            return Ok(None);
        }
        let touched = entry.touched[*sale];
        let hold_ms = if slip.ttl_ms > 0 { slip.ttl_ms } else { touched.hold_ms };
        let order = OrderId::try_from(slip.order.as_str()).map_err(|e| FlashError::Broken(e.to_string()))?;
        let user = slip
            .user
            .as_deref()
            .map(UserId::try_from)
            .transpose()
            .map_err(|e| FlashError::Broken(e.to_string()))?;
        Ok(Some(Peeked {
            sale_no: touched.sale_no,
            order,
            user,
            quantity: slip.quantity,
            created_at: entry.at,
            expires_at: entry.at.plus_ms(hold_ms.into()),
        }))
    }
}
