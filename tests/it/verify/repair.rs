//! Repairs of Redis by numbered grants, while a gateway serves.

use flashgate::domain::difference::Kind;
use flashgate::domain::grant::Grant;
use flashgate::ledger::audit::repair::Repair;
use flashgate::worker::reconcile::{RepairReport, reconcile};
use flashgate::worker::verify::VerifyError;

use super::fair::Fair;
use super::halves::{lose_record, plant_record, raise_counter};

async fn run(fair: &Fair, repair: bool) -> RepairReport {
    let done = reconcile(&fair.context.ledger, &fair.context.flash, repair, "ann").await;
    done.expect("it can be found out")
}

#[tokio::test]
async fn drift_is_listed_and_repaired() {
    let fair = Fair::busy().await;
    let (first, second) = (fair.sale.lanes[0], fair.sale.lanes[1]);
    raise_counter(&fair, first, 4).await;
    raise_counter(&fair, second, -2).await;
    plant_record(&fair, "ghost").await;
    lose_record(&fair, "u0").await;
    let listed = run(&fair, false).await;
    assert_eq!((listed.exit_code(), listed.repaired.len()), (1, 0), "{listed}");
    assert_eq!(listed.drift, listed.left);

    let tasks = fair.serve();
    let report = run(&fair, true).await;
    assert_eq!(report.exit_code(), 0, "{report}");
    assert_eq!(report.repaired.len(), 4, "{report}");
    fair.assert_agrees().await;
    let told = "SELECT count(*) FROM inventory_movement WHERE reason = 'drift_corrected' AND operator = 'ann'
        AND event_type = 'inventory_adjusted' AND quantity_delta = 0 AND escrowed_delta = 0";
    assert_eq!(fair.desk.count(told).await, 2);
    assert_eq!(
        fair.desk.count("SELECT sum(abs(drift))::int8 FROM sale_bucket").await,
        0
    );
    assert_eq!(run(&fair, true).await.repaired, [] as [String; 0]);
    fair.context.stop.cancel();
    tasks.wait().await;
}

#[tokio::test]
async fn a_record_whose_reservation_the_ledger_lost_is_left_alone() {
    let fair = Fair::open().await;
    let id = fair.reserve("u0", "o0", 1, None).await;
    fair.settle().await;
    fair.tamper(&format!(
        "DELETE FROM inventory_reservation WHERE reservation_id = '{}'",
        id.0
    ))
    .await;
    let report = run(&fair, true).await;
    assert_eq!((report.exit_code(), report.repaired.len()), (1, 0), "{report}");
    assert!(report.notes[0].contains(&id.to_string()), "{report}");
}

#[tokio::test]
async fn a_correction_on_its_way_is_not_sent_again() {
    let fair = Fair::open().await;
    let lane = fair.sale.lanes[0];
    raise_counter(&fair, lane, 3).await;
    let correction = Repair {
        lane,
        sale_no: fair.sale.no,
        sale_id: fair.sale.id.to_string(),
        item: fair.sale.item.clone(),
        grant: Grant::Correct(-3),
    };
    fair.desk
        .ledger
        .send_repairs(&[correction], "bob")
        .await
        .expect("sends");
    let report = run(&fair, true).await;
    assert_eq!((report.exit_code(), report.repaired.len()), (1, 0), "{report}");
    assert!(report.notes.iter().any(|note| note.contains("on its way")), "{report}");
    fair.assert_finds(&[Kind::Counter]).await;
    fair.settle().await;
    fair.assert_agrees().await;
}

#[tokio::test]
async fn one_repairs_at_a_time() {
    let fair = Fair::open().await;
    let lock = fair
        .desk
        .ledger
        .repair_lock()
        .await
        .expect("Postgres answers")
        .expect("nobody has it");
    let second = reconcile(&fair.context.ledger, &fair.context.flash, true, "bob").await;
    assert!(matches!(second, Err(VerifyError::RepairRunning)), "{second:?}");
    assert_eq!(run(&fair, false).await.exit_code(), 0, "a list needs no lock");
    lock.release().await;
    assert_eq!(run(&fair, true).await.exit_code(), 0);
}
