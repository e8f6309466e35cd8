//! The snapshot follows the ledger, whatever the order in which transactions commit.

use flashgate::ledger::read_model::follow::Followed;
use flashgate::ledger::read_model::stock::Source;

use crate::support::ledger::{Desk, sku};

/// Runs until nothing is left to follow; how many balances changed.
pub(super) async fn caught_up(desk: &Desk) -> usize {
    let mut changed = 0;
    loop {
        match desk.ledger.follow().await.expect("Postgres answers") {
            // A run of a moment ago: its time is put back.
            Followed::Elsewhere => {
                desk.run("UPDATE snapshot_feed SET as_of = as_of - interval '1 second'")
                    .await;
            }
            Followed::Rebuilt { balances, .. } => return usize::try_from(balances).expect("few"),
            Followed::Done { balances, more, .. } => {
                changed += balances;
                if !more {
                    return changed;
                }
            }
        }
    }
}

/// Rows of the balances that the snapshot does not have, and the other way round.
async fn differences(desk: &Desk) -> i64 {
    desk.count(
        "WITH ledger AS (SELECT sku_id, location_id, on_hand, reserved, unavailable, escrowed, safety_stock, sold,
             damaged, returned, version, greatest(0, on_hand - reserved - unavailable - safety_stock) AS available
             FROM inventory_balance),
         snapshot AS (SELECT sku_id, location_id, on_hand, reserved, unavailable, escrowed, safety_stock, sold,
             damaged, returned, version, available FROM inventory_snapshot)
         SELECT (SELECT count(*) FROM (TABLE ledger EXCEPT TABLE snapshot) AS gone)
              + (SELECT count(*) FROM (TABLE snapshot EXCEPT TABLE ledger) AS extra)",
    )
    .await
}

/// Five more of an item, as a transaction of ours moves them; not committed.
const MOVE: &str = "
    UPDATE inventory_balance SET on_hand = on_hand + 5, version = version + 1 WHERE sku_id = 'late';
    INSERT INTO inventory_event (event_type, sku_id, location_id, quantity_delta, on_hand_delta, on_hand, reserved,
        unavailable, escrowed, sold, damaged, returned)
    SELECT 'inventory_adjusted', sku_id, location_id, 5, 5, on_hand, reserved, unavailable, escrowed, sold, damaged,
        returned
    FROM inventory_balance WHERE sku_id = 'late'";

#[tokio::test]
async fn the_snapshot_follows_what_is_committed() {
    let desk = Desk::open().await;
    desk.stock("a", 10).await;
    assert_eq!(caught_up(&desk).await, 1);
    assert_eq!(differences(&desk).await, 0);
    assert_eq!(caught_up(&desk).await, 0, "nothing has changed");
    for (name, units) in [("b", 5), ("c", 7)] {
        desk.stock(name, units).await;
    }
    assert_eq!(differences(&desk).await, 2);
    let (_, lane) = desk.selling("d", 9, None).await;
    drop(lane);
    caught_up(&desk).await;
    assert_eq!(differences(&desk).await, 0);
}

#[tokio::test]
async fn what_commits_late_under_an_early_id_is_not_missed() {
    let desk = Desk::open().await;
    desk.stock("late", 10).await;
    caught_up(&desk).await;
    let mut late = desk.pool.begin().await.expect("Postgres answers");
    sqlx::raw_sql(MOVE).execute(&mut *late).await.expect("it moves");
    for n in 0..5 {
        desk.stock(&format!("early{n}"), 1).await;
        assert_eq!(caught_up(&desk).await, 1, "nobody waits for the late one");
    }
    late.commit().await.expect("it commits");
    assert_eq!(differences(&desk).await, 2);
    assert_eq!(caught_up(&desk).await, 1);
    assert_eq!(differences(&desk).await, 0);
    // With no transaction in the way, what was seen is settled, and looked at no more.
    let open = "SELECT count(*) FROM snapshot_feed WHERE settled_id < (SELECT max(event_id) FROM inventory_movement)";
    while desk.count(open).await != 0 {
        caught_up(&desk).await;
    }
}

#[tokio::test]
async fn far_behind_it_catches_up_in_steps() {
    let desk = Desk::open().await;
    desk.stock("a", 10).await;
    caught_up(&desk).await;
    desk.run(
        "SELECT setval('inventory_event_id', 1200000);
         UPDATE snapshot_feed SET as_of = as_of - interval '2 minutes'",
    )
    .await;
    desk.stock("b", 5).await;
    let mut steps = 0;
    loop {
        let Followed::Done { more, .. } = desk.ledger.follow().await.expect("Postgres answers") else {
            panic!("nobody else follows");
        };
        steps += 1;
        if !more {
            break;
        }
        let read = desk.ledger.stock_snapshot(&[sku("a")]).await.expect("reads");
        assert_eq!(read.source, Source::Ledger, "it is not as fresh as it will be");
    }
    assert!(steps >= 3, "{steps}");
    assert_eq!(differences(&desk).await, 0);
}

#[tokio::test]
async fn a_lost_snapshot_is_made_anew() {
    let desk = Desk::open().await;
    desk.stock("a", 10).await;
    desk.stock("b", 20).await;
    caught_up(&desk).await;
    desk.run("TRUNCATE inventory_snapshot; DELETE FROM snapshot_feed").await;
    let read = desk.ledger.stock_snapshot(&[sku("a")]).await.expect("reads");
    assert_eq!(read.source, Source::Ledger, "meanwhile the ledger is read");
    assert_eq!(caught_up(&desk).await, 2);
    assert_eq!(differences(&desk).await, 0);
    // Damaged, it is mended where it stands.
    desk.run("UPDATE inventory_snapshot SET on_hand = 99, version = 99; DELETE FROM snapshot_feed")
        .await;
    assert_eq!(caught_up(&desk).await, 2);
    assert_eq!(differences(&desk).await, 0);
}

#[tokio::test]
async fn only_a_fresh_snapshot_is_read() {
    let desk = Desk::open().await;
    desk.stock("a", 10).await;
    caught_up(&desk).await;
    // So that the answer tells where it was read.
    desk.run("UPDATE inventory_snapshot SET on_hand = 11").await;
    for (age, source, on_hand) in [("-1 minute", Source::Snapshot, 11), ("2.1 s", Source::Ledger, 10)] {
        desk.run(&format!(
            "UPDATE snapshot_feed SET as_of = clock_timestamp() - interval '{age}'"
        ))
        .await;
        let read = desk.ledger.stock_snapshot(&[sku("a")]).await.expect("reads");
        let told = read.skus[&sku("a")].places[0].balance.on_hand;
        assert_eq!((read.source, told), (source, on_hand));
    }
}
