//! Reservations that Postgres can't store: put aside alone, and taken anew when they can be.

use flashgate::domain::entry::Slip;
use flashgate::domain::lane::Nonce;
use flashgate::domain::outcome::Durability;
use flashgate::domain::reservation::Cause;
use flashgate::ledger::LedgerError;
use flashgate::ledger::apply::{Applied, Done};
use flashgate::ledger::once::Resolution;
use flashgate::ledger::quarantine::{Rejection, Replay};
use flashgate::ledger::recovery::Settled;

use crate::support::ledger::{Desk, Lane, of_user, slip, with_key};

/// The rows of these orders can't be stored.
const FORBID: &str = "ALTER TABLE inventory_reservation ADD CONSTRAINT no_evil CHECK (order_id NOT LIKE 'evil%')";
const ALLOW: &str = "ALTER TABLE inventory_reservation DROP CONSTRAINT no_evil";

fn poisoned(done: &Done) -> Vec<u8> {
    let poison = Durability::Rejected {
        cause: Cause::Poison,
        first: None,
    };
    assert!(
        done.refused.iter().all(|refused| refused.durability == poison),
        "{done:?}"
    );
    done.refused.iter().map(|refused| refused.index).collect()
}

/// A lane that sells, with one case in quarantine.
async fn one_case(desk: &Desk) -> (flashgate::domain::sale::Sale, Lane, i64) {
    let (sale, mut lane) = desk.selling("s", 10, None).await;
    desk.run(FORBID).await;
    let done = desk
        .reserve(
            &mut lane,
            &sale,
            vec![with_key(slip(&sale, "evil", 2), "k"), slip(&sale, "b", 1)],
        )
        .await;
    assert_eq!((done.reserved, poisoned(&done)), (1, vec![0]));
    let case = desk.count("SELECT quarantine_id FROM quarantine").await;
    (sale, lane, case)
}

#[tokio::test]
async fn what_cannot_be_stored_is_put_aside_alone() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 300, None).await;
    desk.run(FORBID).await;
    let bad = [3, 40, 41, 99];
    let slips: Vec<Slip> = (0..100)
        .map(|n| {
            slip(
                &sale,
                &if bad.contains(&n) {
                    format!("evil{n}")
                } else {
                    format!("o{n}")
                },
                2,
            )
        })
        .collect();
    let done = desk.reserve(&mut lane, &sale, slips).await;
    assert_eq!((done.reserved, poisoned(&done)), (96, vec![3, 40, 41, 99]));
    assert_eq!(done.drift, []);
    assert_eq!(desk.status(desk.id(&lane, 40)).await, "REJECTED poison");
    assert_eq!(desk.status(desk.id(&lane, 42)).await, "RESERVED");
    let cases = desk.ledger.quarantined(None, 10).await.expect("reads");
    assert_eq!(cases.len(), 4);
    assert!(cases[0].cause.contains("no_evil"), "{}", cases[0].cause);
    assert_eq!(Slip::unpack(&cases[3].body, sale.no).expect("a slip").order, "evil3");
    desk.assert_books_balance().await;
    desk.deliver(&mut lane).await;
    assert_eq!((desk.counter(&sale, &lane).await, lane.road.free[&sale.no]), (108, 108));
    desk.assert_books_balance().await;
}

/// What is left of a queue may be many batches long, so more of it may be bad.
#[tokio::test]
async fn a_recovery_puts_aside_one_in_a_hundred() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 2_000, None).await;
    desk.run(FORBID).await;
    let entries: Vec<_> = (0..10)
        .map(|call| {
            let name = |n| {
                if n == 7 {
                    format!("evil{call}")
                } else {
                    format!("o{call}-{n}")
                }
            };
            let slips = (0..100).map(|n| slip(&sale, &name(n), 1)).collect();
            lane.road.reserve(sale.no, slips)
        })
        .collect();
    let epoch = desk
        .ledger
        .raise_epoch(&[lane.road.lane], lane.road.at.epoch)
        .await
        .expect("raises");
    let settled = desk
        .ledger
        .settle_lane(lane.road.lane, epoch, Nonce([7; 8]), &entries, &desk.id_key)
        .await
        .expect("settles");
    let Settled::Done(image) = settled else {
        panic!("superseded")
    };
    assert_eq!((image.applied, image.refused), (990, 10));
    assert_eq!(desk.count("SELECT count(*) FROM quarantine").await, 10);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn too_many_bad_ones_stop_the_lane() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 300, None).await;
    desk.run(FORBID).await;
    let slips = (0..30).map(|n| slip(&sale, &format!("evil{n}"), 1)).collect();
    let entry = lane.road.reserve(sale.no, slips);
    let answer = desk
        .try_apply(&lane, std::slice::from_ref(&entry))
        .await
        .expect("answers");
    assert!(matches!(answer, Applied::Poisoned { bad: 9.. }), "{answer:?}");
    assert_eq!(desk.count("SELECT count(*) FROM quarantine").await, 0);
    desk.run(ALLOW).await;
    assert_eq!(desk.apply(&mut lane, &[entry]).await.reserved, 30);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn what_no_client_could_have_asked_for_is_poison() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, None).await;
    let mut nul = slip(&sale, "a\0b", 1);
    nul.user = Some("u\0".into());
    let slips = vec![nul, slip(&sale, "b", 0), slip(&sale, "no id", 1), slip(&sale, "c", 1)];
    let done = desk.reserve(&mut lane, &sale, slips).await;
    assert_eq!(
        (done.reserved, poisoned(&done), done.drift.clone()),
        (1, vec![0, 1, 2], vec![])
    );
    desk.deliver(&mut lane).await;
    assert_eq!((desk.counter(&sale, &lane).await, lane.road.free[&sale.no]), (9, 9));
    let first = desk.id(&lane, 0);
    assert!(desk.ledger.reservation(first).await.is_ok());
    let case = desk.count("SELECT min(quarantine_id) FROM quarantine").await;
    let replay = desk
        .ledger
        .quarantine_replay(case, Resolution::of("ann"))
        .await
        .expect("answers");
    assert_eq!(replay, Replay::Refused("the order is no id".into()));
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn an_unreadable_slip_gives_back_what_the_counter_lacks() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, None).await;
    let slips = vec![
        Ok(slip(&sale, "a", 1)),
        Err(vec![0, 8, 1, 0, 1, 2, 3, 4]),
        Ok(slip(&sale, "b", 2)),
    ];
    let entry = lane.road.reserve_raw(sale.no, slips, 3);
    let done = desk.apply(&mut lane, &[entry]).await;
    assert_eq!(
        (done.reserved, poisoned(&done), done.drift.clone()),
        (2, vec![1], vec![])
    );
    assert_eq!(desk.status(desk.id(&lane, 1)).await, "REJECTED poison");
    assert_eq!(desk.count("SELECT quantity FROM quarantine").await, 3);
    desk.assert_books_balance().await;
    desk.deliver(&mut lane).await;
    assert_eq!((desk.counter(&sale, &lane).await, lane.road.free[&sale.no]), (7, 7));
    let case = desk.count("SELECT quarantine_id FROM quarantine").await;
    let replay = desk
        .ledger
        .quarantine_replay(case, Resolution::of("ann"))
        .await
        .expect("answers");
    assert_eq!(replay, Replay::Unreadable);
    desk.assert_books_balance().await;
}

/// They are no fault of the tables, so the lane goes on, and whoever is beyond doubt has what they got.
#[tokio::test]
async fn however_many_were_altered_the_others_are_stored() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 100, None).await;
    let altered = |n: u8| {
        let mut packed = slip(&sale, &format!("o{n}"), 2).pack(sale.no);
        packed[2] = 1;
        packed[30] ^= 1;
        Slip::unpack(&packed, sale.no).map_err(|_| packed)
    };
    let slips = (0..40).map(|n| {
        if n % 2 == 0 {
            altered(n)
        } else {
            Ok(slip(&sale, &format!("o{n}"), 2))
        }
    });
    let entry = lane.road.reserve_raw(sale.no, slips.collect(), 40);
    let done = desk.apply(&mut lane, &[entry]).await;
    let even: Vec<u8> = (0..40).step_by(2).collect();
    assert_eq!((done.reserved, poisoned(&done), done.drift.clone()), (20, even, vec![]));
    let set_aside = format!(
        "SELECT count(*) FROM quarantine WHERE sale_no = {} AND seq = {}",
        sale.no, lane.road.at.seq
    );
    assert_eq!(desk.count(&set_aside).await, 20);
    desk.deliver(&mut lane).await;
    assert_eq!((desk.counter(&sale, &lane).await, lane.road.free[&sale.no]), (60, 60));
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn a_replay_takes_the_units_anew_under_the_old_id() {
    let desk = Desk::open().await;
    let (sale, mut lane, case) = one_case(&desk).await;
    let id = desk.id(&lane, 0);
    let refused = desk
        .ledger
        .quarantine_replay(case, Resolution::of("ann"))
        .await
        .expect("answers");
    assert_eq!(refused, Replay::Refused("no_evil".into()));
    desk.run(ALLOW).await;
    let asked = desk
        .ledger
        .quarantine_replay(
            case,
            Resolution {
                note: Some("fixed"),
                ..Resolution::of("ann")
            },
        )
        .await
        .expect("answers");
    assert!(matches!(asked, Replay::Asked { .. }), "{asked:?}");
    let twice = desk
        .ledger
        .quarantine_replay(case, Resolution::of("ann"))
        .await
        .expect("answers");
    assert_eq!(twice, Replay::NotWaiting);
    let rejected = desk
        .ledger
        .quarantine_reject(case, Resolution::of("ann"))
        .await
        .expect("answers");
    assert_eq!(rejected, Rejection::NotWaiting);
    desk.deliver(&mut lane).await; // the end of the refused one, then the taking
    assert_eq!(desk.status(id).await, "RESERVED");
    let reservation = desk.ledger.reservation(id).await.expect("reads").expect("is there");
    assert_eq!((reservation.order.as_str(), reservation.lines[0].quantity), ("evil", 2));
    let left = reservation.expires_at.0 - desk.ledger.now().await.expect("a time").0;
    assert!((890_000..=900_000).contains(&left), "{left}");
    let again = desk
        .ledger
        .quarantine_replay(case, Resolution::of("ann"))
        .await
        .expect("answers");
    assert_eq!(again, Replay::Before);
    let rejected = desk
        .ledger
        .quarantine_reject(case, Resolution::of("ann"))
        .await
        .expect("answers");
    assert_eq!(rejected, Rejection::NotWaiting);
    let case = &desk.ledger.quarantined(None, 1).await.expect("reads")[0];
    assert_eq!((case.state.as_str(), case.note.as_deref()), ("replayed", Some("fixed")));
    assert_eq!((desk.counter(&sale, &lane).await, lane.road.free[&sale.no]), (7, 7));
    assert_eq!(desk.count("SELECT count(*) FROM inventory_key").await, 3);
    desk.assert_books_balance().await;
    // Its key is in force again.
    let done = desk
        .reserve(&mut lane, &sale, vec![with_key(slip(&sale, "evil", 2), "k")])
        .await;
    let replay = Durability::Rejected {
        cause: Cause::Replay,
        first: Some(id),
    };
    assert_eq!(done.refused[0].durability, replay);
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn a_replay_without_units_or_with_a_taken_order_leaves_it_rejected() {
    let desk = Desk::open().await;
    let (sale, mut lane, case) = one_case(&desk).await;
    let id = desk.id(&lane, 0);
    desk.run(ALLOW).await;
    desk.deliver(&mut lane).await;
    // Sold out
    desk.reserve(&mut lane, &sale, vec![slip(&sale, "c", 9)]).await;
    let rest = desk.id(&lane, 0);
    desk.ledger
        .quarantine_replay(case, Resolution::of("ann"))
        .await
        .expect("answers");
    desk.deliver(&mut lane).await;
    assert_eq!(desk.status(id).await, "REJECTED poison");
    // Somebody else has the order by now
    desk.end(crate::support::shop::release(rest)).await;
    desk.deliver(&mut lane).await;
    desk.reserve(&mut lane, &sale, vec![slip(&sale, "evil", 1)]).await;
    desk.ledger
        .quarantine_replay(case, Resolution::of("ann"))
        .await
        .expect("answers");
    let done = desk.deliver(&mut lane).await.expect("a retake");
    assert_eq!(done.grants_for, [lane.road.lane]);
    assert_eq!(desk.status(id).await, "REJECTED poison");
    desk.assert_books_balance().await;
    desk.deliver(&mut lane).await;
    assert_eq!((desk.counter(&sale, &lane).await, lane.road.free[&sale.no]), (8, 8));
    let rejected = desk
        .ledger
        .quarantine_reject(
            case,
            Resolution {
                note: Some("gave up"),
                ..Resolution::of("ann")
            },
        )
        .await
        .expect("answers");
    assert_eq!(rejected, Rejection::Done);
    let again = desk
        .ledger
        .quarantine_reject(case, Resolution::of("bob"))
        .await
        .expect("answers");
    assert_eq!(again, Rejection::Before);
    assert_eq!(
        desk.ledger
            .quarantine_reject(99, Resolution::of("ann"))
            .await
            .expect("answers"),
        Rejection::Unknown
    );
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn a_replay_takes_no_more_than_its_user_may_have() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, Some(2)).await;
    desk.run(FORBID).await;
    let evil = of_user(slip(&sale, "evil", 2), "u");
    desk.reserve(&mut lane, &sale, vec![evil]).await;
    let id = desk.id(&lane, 0);
    let case = desk.count("SELECT quarantine_id FROM quarantine").await;
    desk.deliver(&mut lane).await;
    // Told that it was refused, the user orders again.
    let again = of_user(slip(&sale, "good", 1), "u");
    assert_eq!(desk.reserve(&mut lane, &sale, vec![again]).await.reserved, 1);
    let held = desk.id(&lane, 0);
    desk.run(ALLOW).await;
    desk.ledger
        .quarantine_replay(case, Resolution::of("ann"))
        .await
        .expect("answers");
    desk.deliver(&mut lane).await;
    assert_eq!(desk.status(id).await, "REJECTED poison");
    desk.deliver(&mut lane).await;
    assert_eq!((desk.counter(&sale, &lane).await, lane.road.free[&sale.no]), (9, 9));
    desk.assert_books_balance().await;
    // Their allowance heals, and the case still waits.
    desk.end(crate::support::shop::release(held)).await;
    desk.deliver(&mut lane).await;
    desk.ledger
        .quarantine_replay(case, Resolution::of("ann"))
        .await
        .expect("answers");
    desk.deliver(&mut lane).await;
    assert_eq!(desk.status(id).await, "RESERVED");
    desk.assert_books_balance().await;
}

#[tokio::test]
async fn of_two_who_decide_on_a_case_at_once_only_the_first_does() {
    let desk = Desk::open().await;
    let (_, _, case) = one_case(&desk).await;
    desk.run(ALLOW).await;
    let waiting = |lockers: i64| {
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let desk = &desk;
        async move {
            while desk.count(waits).await < lockers {
                tokio::task::yield_now().await;
            }
        }
    };
    // Both come while the case is locked, the replay first.
    let mut tx = desk.pool.begin().await.expect("begins");
    sqlx::query("SELECT 1 FROM quarantine FOR UPDATE")
        .execute(&mut *tx)
        .await
        .expect("locks");
    let replay = desk.ledger.quarantine_replay(case, Resolution::of("ann"));
    let reject = async {
        waiting(1).await;
        desk.ledger.quarantine_reject(case, Resolution::of("bob")).await
    };
    let unlock = async {
        waiting(2).await;
        tx.rollback().await.expect("unlocks");
    };
    let (replayed, rejected, ()) = tokio::join!(replay, reject, unlock);
    assert!(matches!(replayed.expect("answers"), Replay::Asked { .. }));
    assert_eq!(rejected.expect("answers"), Rejection::NotWaiting);
}

#[tokio::test]
async fn a_batch_that_fails_for_no_fault_of_a_reservation_is_an_error() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("s", 10, None).await;
    desk.run("ALTER TABLE inventory_balance ADD CONSTRAINT never CHECK (reserved <> 2)")
        .await;
    let entry = lane
        .road
        .reserve(sale.no, vec![slip(&sale, "a", 1), slip(&sale, "b", 1)]);
    let error = desk.try_apply(&lane, &[entry]).await.expect_err("can't");
    assert!(
        matches!(&error, LedgerError::Data { constraint, .. } if constraint == "never"),
        "{error}"
    );
    desk.assert_books_balance().await;
}
