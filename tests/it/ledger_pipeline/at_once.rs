//! Lanes are written in one statement, all of them or none, and as each alone would be.

use flashgate::domain::entry::{Entry, Touched};
use flashgate::domain::lane::{Cursor, LaneNo, Nonce};
use flashgate::domain::sale::Sale;
use flashgate::domain::time::Millis;
use flashgate::ledger::LedgerError;
use flashgate::ledger::apply::{Batch, Done};
use uuid::Uuid;

use crate::support::door::until;
use crate::support::ledger::{Desk, LANES, Lane, of_user, slip, with_key};
use crate::support::shop::commit;

type Queue = (Lane, Vec<Entry>);

/// A live sale with a limit of two a user, in three lanes that have its units.
async fn selling(desk: &Desk, name: &str) -> (Sale, Vec<Queue>) {
    let sale = desk.sale(name, 30, Some(2), 3).await;
    let mut lanes = Vec::new();
    for lane in &sale.lanes {
        let mut lane = desk.lane(*lane).await;
        desk.deliver(&mut lane).await;
        lanes.push((lane, vec![]));
    }
    (sale, lanes)
}

/// Two calls in each lane that ask for nothing that could be refused.
fn plain(sale: &Sale, lanes: &mut [Queue]) {
    for (lane, entries) in lanes {
        let no = lane.road.lane;
        let name = |what: &str| format!("{what}-{}-{no}", sale.no);
        let first = vec![
            of_user(slip(sale, &name("a"), 1), &name("u")),
            with_key(slip(sale, &name("b"), 2), &name("k")),
        ];
        entries.push(lane.road.reserve(sale.no, first));
        entries.push(
            lane.road
                .reserve(sale.no, vec![of_user(slip(sale, &name("c"), 1), &name("u"))]),
        );
    }
}

/// All that a batch may write; times aside, which are the clock's.
async fn written(desk: &Desk) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT 'r' || concat_ws(' ', order_id, user_id, sku_id, location_id, quantity, status, cause, sale_no, lane,
                    key_hash, fingerprint, explicit_key, trace_id, cart_id, stall_no, created_at, expires_at)
         FROM inventory_reservation
         UNION ALL SELECT 'k' || concat_ws(' ', k.key_hash, k.fingerprint, derived, order_id)
         FROM inventory_key k LEFT JOIN inventory_reservation ON reservation_id = subject_id
         UNION ALL SELECT 'e' || concat_ws(' ', event_type, e.sku_id, quantity_delta, reserved_delta, escrowed_delta, on_hand,
                    e.order_id, e.trace_id, reason, r.order_id)
         FROM inventory_movement e LEFT JOIN inventory_reservation r USING (reservation_id)
         UNION ALL SELECT 'b' || concat_ws(' ', sku_id, on_hand, reserved, escrowed) FROM inventory_balance
         UNION ALL SELECT 'c' || concat_ws(' ', sale_no, lane, counter, durable, rejected, drift) FROM sale_bucket
         UNION ALL SELECT 'l' || concat_ws(' ', lane, state, cursor_seq, cursor_total, grant_no) FROM lane
         ORDER BY 1",
    )
    .fetch_all(&desk.pool)
    .await
    .expect("reads")
}

/// Nothing is written, whatever each lane does by itself afterwards; `reserved` and refused of it.
async fn refused(desk: &Desk, lanes: &mut [Queue], (reserved, refused): (usize, usize)) {
    let before = written(desk).await;
    let answer = desk.at_once(lanes).await;
    assert_eq!(answer.expect("answers"), None);
    assert_eq!(written(desk).await, before);
    let mut done = (0, 0);
    for (lane, entries) in lanes.iter_mut().filter(|(_, entries)| !entries.is_empty()) {
        let alone = desk.apply(lane, entries).await;
        done = (done.0 + alone.reserved, done.1 + alone.refused.len());
        entries.clear();
    }
    assert_eq!(done, (reserved, refused));
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn what_is_written_at_once_is_what_each_lane_alone_would_write() {
    let (together, apart) = (Desk::open().await, Desk::open().await);
    let now = together.ledger.now().await.expect("a time");
    let mut seen = Vec::new();
    for (desk, at_once) in [(&together, true), (&apart, false)] {
        let (a, b) = (
            desk.sale("a", 40, Some(2), LANES).await,
            desk.sale("b", 40, None, LANES).await,
        );
        let mut lanes: Vec<Queue> = Vec::new();
        for lane in &a.lanes {
            let mut lane = desk.lane(*lane).await;
            desk.deliver(&mut lane).await;
            lanes.push((lane, vec![]));
        }
        lanes.sort_by_key(|(lane, _)| std::cmp::Reverse(lane.road.lane));
        desk.run(
            "UPDATE sale_bucket SET undurable_max = 7 WHERE (sale_no, lane) = (SELECT 1, min(lane) FROM sale_bucket)",
        )
        .await;
        lanes.iter_mut().for_each(|(lane, _)| lane.road.time = now);
        plain(&a, &mut lanes);
        plain(&b, &mut lanes[1..3]);
        let done = match at_once {
            true => desk.at_once(&lanes).await.expect("answers").expect("it is plain"),
            false => {
                let mut done = Vec::new();
                for (lane, entries) in &mut lanes {
                    done.push(desk.apply(lane, entries).await);
                }
                done
            }
        };
        for (done, (lane, _)) in done.iter().zip(&lanes) {
            let row = desk.ledger.lane(lane.road.lane).await.expect("reads");
            assert_eq!((done.cursor, row.cursor), (lane.road.at, lane.road.at));
        }
        desk.assert_books_balance().await;
        let gaps = "SELECT count(*) FROM (
                 SELECT reserved - reserved_delta AS was, escrowed - escrowed_delta AS had, lag(reserved) OVER w AS reserved,
                     lag(escrowed) OVER w AS escrowed
                 FROM inventory_movement WINDOW w AS (PARTITION BY sku_id, location_id ORDER BY event_id)) e
             WHERE (was, had) <> (reserved, escrowed)";
        assert_eq!(
            desk.count(gaps).await,
            0,
            "each event goes on where the one before it ended"
        );
        let told = |done: Done| (done.reserved, done.refused, done.drift, done.grants_for, done.settled);
        let told: Vec<_> = done.into_iter().map(told).collect();
        seen.push((told, written(desk).await));
    }
    assert_eq!(seen[0], seen[1]);
    let (told, written) = &seen[0];
    let settled: Vec<_> = told
        .iter()
        .map(|(reserved, .., settled)| (*reserved, settled.len()))
        .collect();
    assert_eq!(
        settled,
        [(3, 0), (6, 0), (6, 0), (3, 1)],
        "the lane that bounds what it owes is told what is settled"
    );
    assert_eq!(written.iter().filter(|row| row.starts_with('r')).count(), 18);
}

#[tokio::test]
async fn what_could_be_refused_is_left_to_each_lane() {
    let desk = Desk::open().await;
    // Somebody has the order's line.
    let (sale, mut lanes) = selling(&desk, "line").await;
    plain(&sale, &mut lanes[2..]);
    let (lane, entries) = &mut lanes[1];
    desk.reserve(lane, &sale, vec![slip(&sale, "taken", 1)]).await;
    entries.push(
        lane.road
            .reserve(sale.no, vec![with_key(slip(&sale, "taken", 1), "other")]),
    );
    refused(&desk, &mut lanes, (3, 1)).await;
    // Two lanes want the same key.
    let (sale, mut lanes) = selling(&desk, "key").await;
    for (lane, entries) in &mut lanes {
        entries.push(lane.road.reserve(sale.no, vec![with_key(slip(&sale, "x", 1), "mine")]));
    }
    refused(&desk, &mut lanes, (1, 2)).await;
    // A user has bought what a user may: by one call, or by two.
    let (sale, mut lanes) = selling(&desk, "user").await;
    let of_u = |order: &str, units| of_user(slip(&sale, order, units), "u");
    let (lane, entries) = &mut lanes[0];
    desk.reserve(lane, &sale, vec![of_u("one", 1)]).await;
    desk.end(commit(desk.id(lane, 0), "p")).await;
    entries.push(lane.road.reserve(sale.no, vec![of_u("two", 1), of_u("three", 1)]));
    refused(&desk, &mut lanes, (1, 1)).await;
    let (lane, entries) = &mut lanes[1];
    entries.push(lane.road.reserve(sale.no, vec![of_u("four", 2)]));
    entries.push(lane.road.reserve(sale.no, vec![of_u("five", 1)]));
    refused(&desk, &mut lanes, (1, 1)).await;
    // Redis gave more than there was.
    let (sale, mut lanes) = selling(&desk, "surplus").await;
    let (lane, entries) = &mut lanes[2];
    entries.push(
        lane.road
            .reserve(sale.no, vec![slip(&sale, "all", 10), slip(&sale, "more", 1)]),
    );
    refused(&desk, &mut lanes, (1, 1)).await;
    // What nobody could have asked for, and what can't be read.
    let (sale, mut lanes) = selling(&desk, "poison").await;
    let (lane, entries) = &mut lanes[0];
    entries.push(
        lane.road
            .reserve(sale.no, vec![slip(&sale, "no id", 1), slip(&sale, "good", 1)]),
    );
    let (lane, entries) = &mut lanes[1];
    let slips = vec![Err(vec![0, 8, 1, 0, 1, 2, 3, 4]), Ok(slip(&sale, "too", 1))];
    entries.push(lane.road.reserve_raw(sale.no, slips, 1));
    refused(&desk, &mut lanes, (2, 2)).await;
}

#[tokio::test]
async fn what_no_constraint_lets_in_is_left_to_each_lane() {
    let desk = Desk::open().await;
    let (sale, mut lanes) = selling(&desk, "s").await;
    desk.run("ALTER TABLE inventory_reservation ADD CONSTRAINT forbidden CHECK (order_id NOT LIKE 'evil%')")
        .await;
    plain(&sale, &mut lanes);
    let (lane, entries) = &mut lanes[0];
    entries.push(lane.road.reserve(sale.no, vec![slip(&sale, "evil", 1)]));
    refused(&desk, &mut lanes, (9, 1)).await;
}

#[tokio::test]
async fn counters_that_differ_are_left_to_each_lane() {
    let desk = Desk::open().await;
    for (at, name) in ["before", "between"].into_iter().enumerate() {
        let (sale, mut lanes) = selling(&desk, name).await;
        let (lane, entries) = &mut lanes[1];
        for n in 0..2 {
            if n == at {
                *lane.road.free.get_mut(&sale.no).expect("it sells") += 3;
            }
            entries.push(lane.road.reserve(sale.no, vec![slip(&sale, &format!("{name}{n}"), 1)]));
        }
        refused(&desk, &mut lanes, (2, 0)).await;
        // What is known already is no news.
        let (lane, entries) = &mut lanes[1];
        entries.push(lane.road.reserve(sale.no, vec![slip(&sale, &format!("{name}2"), 1)]));
        assert!(desk.at_once(&lanes).await.expect("answers").is_some());
        desk.assert_books_balance().await;
    }
}

#[tokio::test]
async fn grants_and_strange_times_are_left_to_each_lane() {
    let desk = Desk::open().await;
    let (sale, mut lanes) = selling(&desk, "s").await;
    plain(&sale, &mut lanes);
    let (home, to) = (lanes[0].0.road.lane, lanes[1].0.road.lane);
    desk.ledger.request_move(sale.no, home, to, 1).await.expect("asks");
    desk.number(&lanes[0].0).await;
    let (lane, entries) = &mut lanes[0];
    entries.extend(desk.deliver_only(lane).await);
    refused(&desk, &mut lanes, (9, 0)).await;

    let (lane, entries) = &mut lanes[0];
    lane.road.time = Millis(lane.road.time.0 + 13 * 3_600_000);
    entries.push(lane.road.reserve(sale.no, vec![slip(&sale, "later", 1)]));
    refused(&desk, &mut lanes, (1, 0)).await;
}

/// A call may have been for several sales, of which the lane knows some no more.
#[tokio::test]
async fn a_call_that_named_sales_in_vain_is_plain() {
    let desk = Desk::open().await;
    let (sale, mut lanes) = selling(&desk, "s").await;
    plain(&sale, &mut lanes);
    let nowhere = Touched {
        sale_no: 0,
        free: 0,
        hold_ms: 0,
    };
    lanes[0].1[1].touched.push(nowhere);
    let (lane, entries) = &mut lanes[1];
    entries.push(lane.road.reserve(sale.no, vec![]));
    let done = desk.at_once(&lanes).await.expect("answers").expect("it is plain");
    assert_eq!(done.iter().map(|done| done.reserved).sum::<usize>(), 9);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn a_sale_that_the_lane_does_not_have_is_left_to_it() {
    let desk = Desk::open().await;
    let (sale, mut lanes) = selling(&desk, "s").await;
    let other = desk.sale("other", 5, None, 1).await;
    // Its units have not come yet.
    lanes.retain(|(lane, _)| !other.lanes.contains(&lane.road.lane));
    plain(&sale, &mut lanes);
    let (lane, entries) = &mut lanes[0];
    lane.road.free.insert(other.no, 1);
    entries.push(lane.road.reserve(other.no, vec![slip(&other, "its", 1)]));
    let before = written(&desk).await;
    assert_eq!(desk.at_once(&lanes).await.expect("answers"), None);
    assert_eq!(written(&desk).await, before);
}

#[tokio::test]
async fn only_who_names_all_cursors_as_the_owner_of_open_lanes_writes() {
    let desk = Desk::open().await;
    let (sale, mut lanes) = selling(&desk, "s").await;
    plain(&sale, &mut lanes);
    let before = written(&desk).await;
    let sales = desk.ledger.sale_identities(&[sale.no]).await.expect("reads");
    let batches = |owner: Uuid, from: &dyn Fn(&Lane) -> Cursor| {
        let batch = |(lane, entries): &Queue| (lane.road.lane, owner, from(lane), entries.clone());
        lanes.iter().map(batch).collect::<Vec<_>>()
    };
    let ask = async |batches: Vec<(LaneNo, Uuid, Cursor, Vec<Entry>)>| {
        let batches: Vec<Batch<'_>> = batches
            .iter()
            .map(|(lane, owner, from, entries)| Batch {
                lane: *lane,
                owner: *owner,
                from: *from,
                entries,
                id_key: &desk.id_key,
            })
            .collect();
        desk.ledger.apply_at_once(&sales, &batches).await
    };
    let durable = |lane: &Lane| lane.durable;
    assert_eq!(ask(batches(Uuid::new_v4(), &durable)).await.expect("answers"), None);
    assert_eq!(written(&desk).await, before);
    let mut forked = batches(desk.owner, &durable);
    (forked[0].2.nonce, forked[0].3[0].prev) = (Nonce([9; 8]), Nonce([9; 8]));
    assert_eq!(ask(forked).await.expect("answers"), None);
    // Another sale has got the number, of a ledger that fell back.
    desk.run("UPDATE sale SET created_at = created_at + interval '1 s'")
        .await;
    assert_eq!(ask(batches(desk.owner, &durable)).await.expect("answers"), None);
    desk.run("UPDATE sale SET created_at = created_at - interval '1 s'")
        .await;
    // One of them is recovered meanwhile.
    desk.ledger.raise_epoch(&[sale.lanes[2]], 0).await.expect("raises");
    let raised = written(&desk).await;
    assert_eq!(ask(batches(desk.owner, &durable)).await.expect("answers"), None);
    assert_eq!(written(&desk).await, raised);
    // The others can go on.
    let first_two = batches(desk.owner, &durable).into_iter().take(2).collect();
    assert!(ask(first_two).await.expect("answers").is_some());
    // A lost answer is no question.
    let again = batches(desk.owner, &durable).into_iter().take(2).collect();
    assert_eq!(ask(again).await.expect("answers"), None);
    let gap = batches(desk.owner, &|lane| Cursor {
        seq: lane.durable.seq + 1,
        ..lane.durable
    });
    let error = ask(gap).await.expect_err("they do not follow");
    assert!(matches!(error, LedgerError::Broken(_)), "{error}");
    desk.assert_books_balance().await;
}

/// Writes these lanes while another transaction does this, for whose commit they wait; the answer, and how it was before.
async fn written_behind(desk: &Desk, sale: &Sale, lanes: &[Queue], sql: &str) -> (Option<Vec<Done>>, Vec<String>) {
    let mut other = desk.pool.begin().await.expect("begins");
    let key = slip(sale, &format!("c-{}-{}", sale.no, sale.lanes[0]), 1).line;
    let query = sqlx::query(sql);
    let query = if sql.contains("$1") {
        query.bind(key.to_uuid())
    } else {
        query
    };
    query.execute(&mut *other).await.expect(sql);
    // Over connections that are patient, so that it waits until the commit.
    let (answer, before) = tokio::join!(desk.at_once_over(&desk.ledger, lanes), async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                     AND wait_event_type = 'Lock' AND query LIKE '-- apply.at_once%'";
        until("the statement to wait", async || {
            (desk.count(waits).await > 0).then_some(())
        })
        .await;
        other.commit().await.expect("commits");
        written(desk).await
    });
    (answer.expect("answers"), before)
}

#[tokio::test]
async fn what_changes_between_the_look_and_the_writing_undoes_it() {
    for sql in [
        "UPDATE lane SET cursor_seq = cursor_seq + 1 WHERE lane = (SELECT max(lane) FROM sale_bucket)",
        "INSERT INTO inventory_key (key_hash, subject_id, fingerprint, derived) SELECT $1, gen_random_uuid(), 1, true",
        "UPDATE sale_bucket SET counter = counter - 1, drift = drift + 2
         WHERE lane = (SELECT max(lane) FROM sale_bucket)",
        "UPDATE inventory_balance SET escrowed = 5, unavailable = unavailable + escrowed - 5",
    ] {
        let desk = Desk::open().await;
        let (sale, mut lanes) = selling(&desk, "s").await;
        plain(&sale, &mut lanes);
        let (answer, before) = written_behind(&desk, &sale, &lanes, sql).await;
        assert_eq!(answer, None, "{sql}");
        assert_eq!(written(&desk).await, before, "{sql}");
        assert_eq!(
            desk.count("SELECT count(*) FROM inventory_reservation").await,
            0,
            "{sql}"
        );
    }
}

#[tokio::test]
async fn what_others_may_change_meanwhile_is_kept() {
    for (sql, kept) in [
        (
            "UPDATE lane SET grant_no = grant_no + 50",
            "SELECT min(grant_no) >= 50 FROM lane",
        ),
        (
            "UPDATE sale_bucket SET durable = durable + 5, undurable_max = 1",
            "SELECT min(durable) = 9 AND max(durable) = 9 FROM sale_bucket",
        ),
        (
            "UPDATE inventory_balance SET damaged = damaged + 5",
            "SELECT min(b.damaged) = 5 AND min(e.damaged) = 5 FROM inventory_balance b, inventory_movement e
             WHERE event_type = 'inventory_reserved'",
        ),
    ] {
        let desk = Desk::open().await;
        let (sale, mut lanes) = selling(&desk, "s").await;
        plain(&sale, &mut lanes);
        let (answer, _) = written_behind(&desk, &sale, &lanes, sql).await;
        let settled = if sql.contains("durable") {
            vec![(sale.no, 9)]
        } else {
            vec![]
        };
        for done in answer.expect(sql) {
            assert_eq!((done.reserved, &done.settled), (3, &settled), "{sql}");
        }
        assert_eq!(desk.count(&format!("SELECT ({kept})::int4::int8")).await, 1, "{sql}");
        assert_eq!(
            desk.count("SELECT count(*) FROM inventory_reservation").await,
            9,
            "{sql}"
        );
        desk.assert_books_balance().await;
    }
}

#[tokio::test]
async fn nobody_waits_long_for_a_lock() {
    let desk = Desk::open().await;
    let (sale, mut lanes) = selling(&desk, "s").await;
    plain(&sale, &mut lanes);
    let mut other = desk.pool.begin().await.expect("begins");
    sqlx::query("SELECT FROM lane WHERE lane = $1 FOR UPDATE")
        .bind(sale.lanes[2].to_i16())
        .execute(&mut *other)
        .await
        .expect("locks");
    // It would wait as long as the lock is kept.
    assert_eq!(desk.at_once(&lanes).await.expect("answers"), None);
    lanes.truncate(2);
    assert!(desk.at_once(&lanes).await.expect("answers").is_some());
    other.rollback().await.expect("ends");
    desk.assert_books_balance().await;
}
