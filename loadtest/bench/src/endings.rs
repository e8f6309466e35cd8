//! The gateway's part of a round in which reservations end: two thirds of those that a loop has just made are paid, since
//! that is so much faster, the others given back, each once, as fast as callers can.
//!
//! The ids come from the ledger, so the loop sends endings and nothing else, and its CPU time is theirs alone.

use std::fs::File;
use std::io::{BufWriter, Write};

use flashgate::domain::reservation_id::ReservationId;
use sqlx::types::Uuid;
use tempfile::NamedTempFile;

use crate::Failure;
use crate::disk;
use crate::gateway::{Stage, count};
use crate::ours::Sale;
use crate::settings::CONNECTIONS;
use crate::wrk::{Kind, run};

/// How reservations end: what is asked for, and what stands in the ledger then.
const ENDINGS: [(&str, &str); 2] = [("commit", "COMMITTED"), ("release", "RELEASED")];

impl Stage<'_> {
    /// Ends what was reserved of a sale, all of it durable.
    ///
    /// # Errors
    /// The gateway does not serve.
    pub(crate) async fn endings(&mut self, sale: &Sale) -> Result<(), Failure> {
        // In the order in which they were made, as buyers pay, more or less.
        let sql = "-- bench.reserved
            SELECT reservation_id FROM inventory_reservation WHERE sku_id = $1 AND status = 'RESERVED'
            ORDER BY created_at, reservation_id";
        let ids: Vec<Uuid> = sqlx::query_scalar(sql)
            .bind(&sale.name)
            .fetch_all(&self.ours.database)
            .await?;
        let (paid, given_back) = ids.split_at(ids.len() / 3 * 2);
        for ((action, status), ids) in ENDINGS.into_iter().zip([paid, given_back]) {
            self.ending(sale, action, status, ids).await?;
        }
        let progress = self.ours.progress(sale).await?;
        self.checks
            .hold(progress.drift == 0, || format!("{}, ended: {progress:?}", sale.name));
        Ok(())
    }

    async fn ending(
        &mut self,
        sale: &Sale,
        action: &'static str,
        status: &'static str,
        ids: &[Uuid],
    ) -> Result<(), Failure> {
        let list = NamedTempFile::with_prefix("flashgate-bench-")?;
        let mut lines = BufWriter::new(File::create(list.path())?);
        for id in ids {
            writeln!(lines, "{}", ReservationId(*id))?;
        }
        lines.flush()?;
        let kind = Kind::Ending {
            action,
            ids: list.path(),
        };
        let before = disk::read(&self.ours.database).await?;
        let outcome = run(
            &self.ours.target(),
            self.closed(kind, &sale.name, CONNECTIONS, self.seconds),
        )
        .await?;
        self.round.put_loop(action, &outcome);
        let answers = outcome.answers;
        self.checks.hold(outcome.refused == 0.0, || {
            format!("{action}: {} were refused", outcome.refused)
        });
        // Whoever has none left asks for the last one again, which is no ending.
        let open = f64::from(CONNECTIONS);
        let had = f64::from(u32::try_from(ids.len())?);
        self.checks.hold(answers + open <= had, || {
            format!("{action}: {had} reservations were too few for {answers} answers: shorten it")
        });
        let sql = "-- bench.ended
            SELECT count(*) FROM inventory_reservation WHERE sku_id = $1 AND status::text = $2";
        let rows: i64 = sqlx::query_scalar(sql)
            .bind(&sale.name)
            .bind(status)
            .fetch_one(&self.ours.database)
            .await?;
        self.checks.hold((answers..=answers + open).contains(&count(rows)), || {
            format!("{action}: {rows} rows are {status}, {answers} answers and up to {open} more")
        });
        let progress = self.ours.progress(sale).await?;
        let told = if status == "COMMITTED" {
            progress.committed
        } else {
            progress.released
        };
        self.checks
            .hold((rows..=rows + i64::from(CONNECTIONS)).contains(&told), || {
                format!("{action}: {rows} rows are {status}, and the sale says {progress:?}")
            });
        let wal = disk::read(&self.ours.database).await?.wal - before.wal;
        self.round
            .put(format!("{action}.wal_bytes"), wal / count(rows).max(1.0));
        Ok(())
    }
}
