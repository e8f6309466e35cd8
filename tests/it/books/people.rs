//! The second person: approves, rejects, or lets the time pass.

use rand::Rng;
use serde_json::{Value, json};

use super::Play;

impl Play {
    pub(super) async fn decide(&mut self) {
        let all: Vec<usize> = (0..self.book.approvals.len()).collect();
        let open = |at: &usize| self.book.approvals[*at].status == "PENDING";
        let open: Vec<usize> = all.iter().copied().filter(open).collect();
        let from = if self.chance(80) && !open.is_empty() { open } else { all };
        if from.is_empty() {
            return;
        }
        let at = from[self.random.random_range(0..from.len())];
        match self.random.random_range(0..100) {
            0..45 => self.approve(at).await,
            45..60 => self.approve_alone(at).await,
            60..80 => self.reject(at).await,
            80..90 => self.let_pass(at).await,
            _ => self.ask_again(at).await,
        }
    }

    async fn say(&mut self, person: &str, at: usize, word: &str) -> crate::support::door::Told {
        let path = format!("/admin/approvals/{}/{word}", self.book.approvals[at].id);
        let (told, _) = self.post_as(person, &path, &json!({})).await;
        self.note(format!("{person} {word}s {path}: {} {}", told.status, told.body));
        told
    }

    async fn approve(&mut self, at: usize) {
        let told = self.say("bob", at, "approve").await;
        let approval = &self.book.approvals[at];
        match (approval.status, &approval.told) {
            ("PENDING", _) => {}
            ("APPROVED", first) => {
                return assert_eq!((told.status, Some(&told.body["adjustment"])), (200, first.as_ref()));
            }
            _ => return self.see_closed(at, &told),
        }
        let (item, delta, reason, sent) = (approval.item, approval.delta, approval.reason, approval.sent.clone());
        let stock = &self.book.items[item];
        if -delta - stock.unpromised() > stock.is.escrowed {
            return self.see_shortage(item, &told);
        }
        let told = told.expect(200);
        assert_eq!(
            (&told["status"], &told["decidedBy"]),
            (&json!("APPROVED"), &json!("bob"))
        );
        let adjustment = told["adjustment"].clone();
        self.see_adjusted(item, delta, reason, &sent, adjustment.clone());
        let approval = &mut self.book.approvals[at];
        (approval.status, approval.told) = ("APPROVED", Some(adjustment));
    }

    /// Who asked can't approve, however it stands.
    async fn approve_alone(&mut self, at: usize) {
        let told = self.say("ann", at, "approve").await;
        assert_eq!(told.problem(), (403, "SAME_PERSON"));
    }

    async fn reject(&mut self, at: usize) {
        let told = self.say("bob", at, "reject").await;
        match self.book.approvals[at].status {
            "PENDING" | "REJECTED" => {
                assert_eq!(told.expect(200)["status"], "REJECTED");
                self.book.approvals[at].status = "REJECTED";
            }
            _ => self.see_closed(at, &told),
        }
    }

    async fn let_pass(&mut self, at: usize) {
        if self.book.approvals[at].status != "PENDING" {
            return;
        }
        let id: uuid::Uuid = self.book.approvals[at].id.parse().expect("a UUID");
        sqlx::query("UPDATE approval SET expires_at = clock_timestamp() WHERE approval_id = $1")
            .bind(id)
            .execute(&self.door.pool)
            .await
            .expect("writes");
        self.book.approvals[at].status = "EXPIRED";
        let told = self.say("bob", at, "approve").await;
        self.see_closed(at, &told);
    }

    fn see_closed(&self, at: usize, told: &crate::support::door::Told) {
        assert_eq!(
            (told.problem(), told.body["approvalStatus"].as_str()),
            ((409, "APPROVAL_CLOSED"), Some(self.book.approvals[at].status))
        );
    }

    /// Who asks the same again is told how it stands, where it is not over.
    async fn ask_again(&mut self, at: usize) {
        let approval = &self.book.approvals[at];
        let (expected, sent): (Value, Value) = match (approval.status, &approval.told) {
            ("PENDING", _) => (json!(approval.id), approval.sent.clone()),
            ("APPROVED", Some(told)) => (told["adjustmentId"].clone(), approval.sent.clone()),
            _ => return,
        };
        let (told, _) = self.post_as("ann", "/api/inventory/adjustments", &sent).await;
        let id = if told.status == 202 {
            &told.body["approvalId"]
        } else {
            &told.body["adjustmentId"]
        };
        assert_eq!((told.replayed, id), (true, &expected), "{told:?}");
    }
}
