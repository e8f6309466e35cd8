//! Late payment: the units are taken anew under the old id, or the payer is told to refund.

use flashgate::domain::reservation::{Ending, Status};
use flashgate::domain::reservation_id::ReservationId;
use flashgate::domain::sale::SaleAction;
use flashgate::ledger::EndAnswer;

use super::{assert_sound, cart, end, expire, line, read, reserved, taken};
use crate::support::ledger::{Desk, of_user, slip};

async fn commits(desk: &Desk, id: ReservationId) -> Option<bool> {
    match end(desk, id, Ending::Commit).await {
        EndAnswer::Done {
            rescued, reservation, ..
        } => {
            assert_eq!(reservation.status, Status::Committed);
            Some(rescued)
        }
        EndAnswer::Refused(reservation) => {
            assert_eq!(reservation.status, Status::Expired);
            None
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_late_payment_gets_the_units_if_they_are_there() {
    let desk = Desk::open().await;
    let item = desk.stock("a", 2).await;
    let late = taken(&desk, line(&desk, "o1", &item, 2)).await;
    expire(&desk).await;
    let other = taken(&desk, line(&desk, "o2", &item, 1)).await;
    assert_eq!(commits(&desk, late.id).await, None, "one of two is somebody else's");
    end(&desk, other.id, Ending::Release).await;
    assert_eq!(commits(&desk, late.id).await, Some(true));
    assert_eq!(
        commits(&desk, late.id).await,
        Some(true),
        "counted once, and told again"
    );
    assert_eq!(reserved(&desk, &item).await, 0);
    assert_eq!(desk.count("SELECT sold FROM inventory_balance").await, 2);
    assert_sound(&desk).await;
}

#[tokio::test]
async fn an_order_that_reserved_anew_is_not_rescued_too() {
    let desk = Desk::open().await;
    let item = desk.stock("a", 10).await;
    let late = taken(&desk, line(&desk, "o1", &item, 2)).await;
    expire(&desk).await;
    let anew = taken(&desk, line(&desk, "o1", &item, 2)).await;
    assert_eq!(commits(&desk, late.id).await, None);
    assert_eq!(commits(&desk, anew.id).await, Some(false));
    assert_sound(&desk).await;
}

#[tokio::test]
async fn a_cart_is_rescued_whole_or_not() {
    let desk = Desk::open().await;
    let (a, b) = (desk.stock("a", 2).await, desk.stock("b", 1).await);
    let late = taken(&desk, cart(&desk, "o1", &[(&a, 1), (&b, 1)], vec![])).await;
    assert_eq!(expire(&desk).await, 2);
    let other = taken(&desk, line(&desk, "o2", &b, 1)).await;
    assert_eq!(commits(&desk, late.id).await, None);
    assert_eq!(reserved(&desk, &a).await, 0);
    end(&desk, other.id, Ending::Release).await;
    assert_eq!(commits(&desk, late.id).await, Some(true));
    assert_sound(&desk).await;
}

/// And then counts neither in the sale's allocation nor in its limit.
#[tokio::test]
async fn what_a_sale_that_is_over_sold_is_rescued_from_the_shelf() {
    let desk = Desk::open().await;
    let (sale, mut lane) = desk.selling("hot", 4, Some(2)).await;
    let of = |user: &str, order: &str| of_user(slip(&sale, order, 2), user);
    desk.reserve(&mut lane, &sale, vec![of("ann", "o1")]).await;
    let late = desk.id(&lane, 0);
    assert_eq!(expire(&desk).await, 1);
    desk.deliver(&mut lane).await;
    assert_eq!(commits(&desk, late).await, None, "the sale serves the item");
    desk.reserve(&mut lane, &sale, vec![of("ann", "o2"), of("bob", "o3")])
        .await;
    for index in [0, 1] {
        assert_eq!(commits(&desk, desk.id(&lane, index)).await, Some(false));
    }
    desk.act("hot", SaleAction::Stop).await;
    while !desk.ledger.finish_drain(sale.no).await.expect("Postgres answers") {
        desk.deliver(&mut lane).await;
    }
    assert_eq!(commits(&desk, late).await, None, "all is sold");
    desk.stock("hot", 2).await;
    assert_eq!(commits(&desk, late).await, Some(true));
    assert_eq!(read(&desk, late).await.status, Status::Committed);
    assert_sound(&desk).await;
}
