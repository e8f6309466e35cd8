//! The sales' clock, as a process runs it: what is wrong with one sale keeps no other waiting.

use flashgate::domain::sale::SaleAction::Stop;
use flashgate::worker::sales;

use super::fair::Fair;

#[tokio::test]
async fn a_sale_that_fails_keeps_no_other_from_its_step() {
    let fair = Fair::open().await;
    let desk = &fair.desk;
    for sale in ["odd", "next", "shrunk"] {
        desk.sale(sale, 10, None, 1).await;
    }
    fair.settle().await;
    desk.act("hot", Stop).await;
    desk.act("next", Stop).await;
    fair.settle().await;
    // The first has nothing to give back, and the second has no name.
    desk.run(
        "UPDATE inventory_balance SET escrowed = 0 WHERE sku_id = 'hot';
         UPDATE sale SET recalled = 2, recalled_at = now() - interval '11 s' WHERE sku_id IN ('odd', 'shrunk');
         INSERT INTO alarm (sale_no, lane, cause, units)
             SELECT sale_no, lanes[1], 'oversell_attempt', 1 FROM sale WHERE sku_id IN ('odd', 'shrunk');
         UPDATE sale SET sale_id = '' WHERE sku_id = 'odd'",
    )
    .await;
    sales::run_once(&fair.context).await.expect("Postgres answers");
    let rows: Vec<(String, String, bool, i64, i64)> = sqlx::query_as(
        "SELECT sku_id, state::text, drained, recalled, (SELECT count(*) FROM alarm a WHERE a.sale_no = sale.sale_no)
         FROM sale ORDER BY sale_no",
    )
    .fetch_all(&desk.pool)
    .await
    .expect("reads");
    let rows: Vec<_> = rows
        .iter()
        .map(|(sku, state, drained, recalled, alarms)| (sku.as_str(), state.as_str(), *drained, *recalled, *alarms))
        .collect();
    assert_eq!(
        rows,
        [
            ("hot", "ended", false, 100, 0),
            ("odd", "live", false, 2, 1),
            ("next", "ended", true, 0, 0),
            ("shrunk", "frozen", false, 0, 0),
        ],
        "(SKU, state, drained, recalled, alarms)"
    );
}

/// Somebody has a balance open in a session of his own, and waits for lunch.
#[tokio::test]
async fn a_sale_whose_balance_is_kept_locked_keeps_no_other_from_its_step() {
    let fair = Fair::open().await;
    let desk = &fair.desk;
    desk.sale("next", 10, None, 1).await;
    fair.settle().await;
    desk.act("hot", Stop).await;
    desk.act("next", Stop).await;
    fair.settle().await;
    let mut session = desk.pool.begin().await.expect("Postgres answers");
    let locked = sqlx::query("SELECT FROM inventory_balance WHERE sku_id = 'hot' FOR UPDATE")
        .execute(&mut *session)
        .await;
    assert_eq!(locked.expect("it locks").rows_affected(), 1);
    sales::run_once(&fair.context).await.expect("Postgres answers");
    let drained: Vec<String> = sqlx::query_scalar("SELECT sku_id FROM sale WHERE drained")
        .fetch_all(&desk.pool)
        .await
        .expect("reads");
    assert_eq!(drained, ["next"]);
    session.rollback().await.expect("Postgres answers");
    sales::run_once(&fair.context).await.expect("Postgres answers");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM sale WHERE NOT drained")
        .fetch_one(&desk.pool)
        .await
        .expect("reads");
    assert_eq!(left, 0);
}
