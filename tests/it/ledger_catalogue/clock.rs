//! The sales' clock: what fails is tried again without haste, and what is long over costs nothing.

use flashgate::ledger::sale::NewSale;
use flashgate::ledger::sale_clock::{DUE, NEXT_DUE};

use super::books::{Books, item, sale_of};

#[tokio::test]
async fn a_sale_that_can_not_end_keeps_no_other_from_it() {
    let books = Books::with_stock(10).await;
    books.receive("wh2", 10).await;
    let starts_at = Some(books.ledger.now().await.expect("a clock").plus_ms(3_600_000));
    books
        .create(&NewSale {
            starts_at,
            ..sale_of("s", 4)
        })
        .await;
    let other = NewSale {
        starts_at,
        item: item("wh2"),
        ..sale_of("t", 4)
    };
    books.create(&other).await;
    books.run("UPDATE sale SET ends_at = now() - interval '1 s'").await;
    books
        .run("UPDATE inventory_balance SET escrowed = 0 WHERE location_id = 'wh1'")
        .await;
    let run = books.ledger.due_sales().await.expect("runs");
    assert_eq!(run.acted.iter().map(|a| a.sale.id.as_str()).collect::<Vec<_>>(), ["t"]);
    assert!(run.acted[0].sale.drained);
    assert_eq!(run.next, None, "else the clock would not sleep any more");
}

#[tokio::test]
async fn sales_that_are_over_are_not_looked_at() {
    let books = Books::with_stock(10).await;
    books.create(&sale_of("s", 4)).await;
    books
        .run(
            "INSERT INTO sale (sale_id, sku_id, location_id, state, allocation, hold_ms, hold_max_ms, lanes, ack_wait_ms,
                 drained)
             SELECT 'old' || n, 'hot', 'wh1', 'ended', 0, 1, 1, '{0}', 1, true FROM generate_series(1, 20000) AS n",
        )
        .await;
    books.run("ANALYZE sale").await;
    for (statement, parameter) in [(DUE, "100"), (NEXT_DUE, "'{}'::int[]")] {
        let statement = statement.replace("$1", parameter);
        let plan: Vec<String> = sqlx::query_scalar(&format!("EXPLAIN {statement}"))
            .fetch_all(&books.pool)
            .await
            .expect("explains");
        let plan = plan.join("\n");
        assert!(
            plan.contains("sale_one_per_item") && !plan.contains("Seq Scan"),
            "{plan}"
        );
    }
}
