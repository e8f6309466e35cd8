//! What recovery does to a lane: close it, write it anew, open it.

use fred::types::Value;

use super::error::FlashError;
use super::reply::{array, bytes, count, is_word, number, text};
use super::script::{CLOSE, OPEN, REBUILD};
use super::{Flash, queue};
use crate::domain::entry::RawEntry;
use crate::domain::lane::{Cursor, Epoch, LaneNo, Nonce, Seq};
use crate::domain::record::Record;
use crate::domain::sale::LaneSettings;
use crate::domain::time::Millis;

/// Records written per call.
pub const BUYERS_CALL: usize = 400;

/// What closing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The lane is closed at our epoch; this is how it was, if it was at all.
    Was {
        /// Its epoch.
        epoch: Option<Epoch>,
    },
    /// Another recovery, of this epoch or a later one, got there first.
    Superseded(Epoch),
}

/// A lane's meta, as an open or closed lane shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneMeta {
    /// Generation.
    pub epoch: Epoch,
    /// Whether it sells.
    pub open: bool,
    /// Last entry.
    pub seq: Seq,
    /// Its nonce.
    pub nonce: Nonce,
    /// Number of the last grant in force.
    pub grant_no: i64,
    /// Reservations of this epoch.
    pub total: u64,
    /// Of these, durable.
    pub done: u64,
}

/// The fields of a lane's hash that say these, in the order in which [`read_meta`] reads them; `lua/look.lua` has them, too.
const META: [&str; 7] = ["epoch", "state", "seq", "nonce", "grant", "total", "done"];

/// A sale as recovery writes it.
#[derive(Clone, Copy, Debug)]
pub struct SaleImage {
    /// Which.
    pub sale_no: i32,
    /// Its settings.
    pub settings: LaneSettings,
    /// Units free.
    pub free: i64,
    /// Units taken so far, cumulative, whatever became of them.
    pub taken: i64,
    /// Number of the lane's last grant, which stands for the settings'.
    pub grant_no: i64,
}

impl Flash {
    /// The lane's meta; none where the lane does not exist.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn lane_meta(&self, lane: LaneNo) -> Result<Option<LaneMeta>, FlashError> {
        let mut args = vec![self.lane(lane).keys.meta().into()];
        args.extend(META.map(Value::from));
        read_meta(&array(self.redis.keyed("HMGET", args).await?, "a lane's meta")?)
    }

    /// The sales that the lane has: as many fields of its meta, which nobody needs often.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn lane_sales(&self, lane: LaneNo) -> Result<Vec<i32>, FlashError> {
        let args = vec![self.lane(lane).keys.meta().into()];
        let fields = array(self.redis.keyed("HKEYS", args).await?, "a lane's fields")?;
        Ok(fields
            .iter()
            .filter_map(|field| text(field).strip_prefix("sale:")?.parse().ok())
            .collect())
    }

    /// Closes the lane under a new epoch.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn close_lane(&self, lane: LaneNo, epoch: Epoch) -> Result<Closed, FlashError> {
        let reply = self
            .redis
            .eval(
                &CLOSE,
                vec![self.lane(lane).keys.meta()],
                vec![epoch.to_string().into()],
            )
            .await?;
        let parts = array(reply, "a close")?;
        let epoch_of = |value: &Value| count(value).ok().and_then(|n| u32::try_from(n).ok());
        match parts.as_slice() {
            [word, was, ..] if text(word) == "closed" => Ok(Closed::Was { epoch: epoch_of(was) }),
            [word, now] if text(word) == "superseded" => Ok(Closed::Superseded(epoch_of(now).unwrap_or(epoch))),
            _ => Err(FlashError::Broken("a close".into())),
        }
    }

    /// The entries of the lane's queue that a ledger at `cursor` may lack.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn surviving_entries(&self, lane: LaneNo, cursor: Cursor) -> Result<Vec<RawEntry>, FlashError> {
        queue::read_survivors(&self.redis, &self.lane(lane).keys, cursor).await
    }

    /// Writes a sale of a closed lane anew, without buyers. False: superseded.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn rebuild_sale(&self, lane: LaneNo, epoch: Epoch, image: &SaleImage) -> Result<bool, FlashError> {
        let s = &image.settings;
        let mut pairs = vec![
            ("no", image.sale_no.to_string()),
            ("state", s.state.as_str().to_owned()),
            ("free", image.free.to_string()),
            ("taken", image.taken.to_string()),
            ("limit", s.per_user_limit.to_string()),
            ("rate", s.rate_milli.to_string()),
            ("burst", s.rate_burst.to_string()),
            ("hold", s.hold_ms.to_string()),
            ("hold_max", s.hold_max_ms.to_string()),
            ("ends", s.ends_at_ms.to_string()),
            ("set", image.grant_no.to_string()),
        ];
        if s.undurable_max > 0 {
            pairs.push(("bound", format!("{} {}", s.undurable_max, image.taken)));
        }
        let args = pairs
            .into_iter()
            .flat_map(|(field, value)| [Value::from(field), Value::from(value)])
            .collect();
        self.rebuild(lane, epoch, "sale", image.sale_no, args).await
    }

    /// Adds records, at most [`BUYERS_CALL`], to a sale that is being written anew. False: superseded.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn rebuild_buyers(
        &self,
        lane: LaneNo,
        epoch: Epoch,
        sale_no: i32,
        buyers: &[(String, Record)],
    ) -> Result<bool, FlashError> {
        if buyers.is_empty() {
            return Ok(true);
        }
        let pair =
            |(buyer, record): &(String, Record)| [Value::from(buyer.as_str()), Value::Bytes(record.pack().into())];
        self.rebuild(lane, epoch, "buyers", sale_no, buyers.iter().flat_map(pair).collect())
            .await
    }

    /// Removes a sale that the ledger does not have in this lane. False: superseded.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn rebuild_without(&self, lane: LaneNo, epoch: Epoch, sale_no: i32) -> Result<bool, FlashError> {
        self.rebuild(lane, epoch, "drop", sale_no, Vec::new()).await
    }

    async fn rebuild(
        &self,
        lane: LaneNo,
        epoch: Epoch,
        part: &str,
        sale_no: i32,
        rest: Vec<Value>,
    ) -> Result<bool, FlashError> {
        let keys = &self.lane(lane).keys;
        let [sale, buyers, rates] = keys.of_sale(sale_no);
        let mut args = vec![epoch.to_string().into(), part.into(), sale_no.to_string().into()];
        args.extend(rest);
        Ok(text(
            &self
                .redis
                .eval(&REBUILD, vec![keys.meta(), sale, buyers, rates], args)
                .await?,
        ) == "ok")
    }

    /// Opens the lane at its new epoch. False: superseded.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn open_lane(
        &self,
        lane: LaneNo,
        epoch: Epoch,
        nonce: Nonce,
        grant_no: i64,
        now: Millis,
    ) -> Result<bool, FlashError> {
        let args = vec![
            epoch.to_string().into(),
            Value::Bytes(nonce.0.to_vec().into()),
            grant_no.to_string().into(),
            now.0.to_string().into(),
        ];
        Ok(text(&self.redis.eval(&OPEN, vec![self.lane(lane).keys.meta()], args).await?) == "ok")
    }

    /// How far this gateway has seen the lane at this epoch. Where the lane is not there any more, it has lost something.
    #[must_use]
    pub fn seen(&self, lane: LaneNo, epoch: Epoch) -> Seq {
        self.lane(lane).seen_at(epoch)
    }

    /// Takes a lane into use that is open at this epoch and has got at least as far as `seen`.
    pub fn adopt_lane(&self, lane: LaneNo, epoch: Epoch, seen: Seq) {
        self.lane(lane).adopt(epoch, seen);
    }

    /// Reports a lane that did not behave; the recovery task will look.
    pub fn suspect_lane(&self, lane: LaneNo, epoch: Epoch) {
        self.lane(lane).suspect(epoch);
    }

    /// Reports a lane whose queue does not continue the ledger: however sound it looks, it has to be recovered.
    pub fn fork_lane(&self, lane: LaneNo, epoch: Epoch) {
        self.lane(lane).fork(epoch);
    }

    /// Whether that was reported of the lane at this epoch.
    #[must_use]
    pub fn is_forked(&self, lane: LaneNo, epoch: Epoch) -> bool {
        self.lane(lane).forked_at(epoch)
    }
}

/// Reads the values of [`META`].
pub(crate) fn read_meta(values: &[Value]) -> Result<Option<LaneMeta>, FlashError> {
    let [epoch, state, seq, nonce, grant, total, done] = values else {
        return Err(FlashError::Broken("a lane's meta".into()));
    };
    if epoch.is_null() {
        return Ok(None);
    }
    let or_none = |value: &Value| if value.is_null() { Ok(0) } else { count(value) };
    Ok(Some(LaneMeta {
        epoch: u32::try_from(count(epoch)?).map_err(|_| FlashError::Broken("an epoch".into()))?,
        open: is_word(state, "open"),
        seq: or_none(seq)?,
        nonce: bytes(nonce).try_into().map(Nonce).unwrap_or_default(),
        grant_no: if grant.is_null() { 0 } else { number(grant)? },
        total: or_none(total)?,
        done: or_none(done)?,
    }))
}
