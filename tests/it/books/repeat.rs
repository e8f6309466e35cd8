//! Requests that name an earlier one, by a key of their own or by what they ask for.

use super::book::{Book, PLACES, Request, Verdict};

impl Request {
    /// The line that it names where it has no key: a SKU and the item of it, if it says which. None: it is a cart.
    fn line(&self) -> Option<(usize, Option<usize>)> {
        match (&self.open, &self.lines[..]) {
            (Some(open), _) if open.wishes.len() == 1 => Some((open.wishes[0].sku, None)),
            (None, [(item, _)]) => Some((item / PLACES, Some(*item))),
            _ => None,
        }
    }

    /// Whether a key that named the one names the other.
    fn is_same(&self, other: &Request) -> bool {
        let named = |of: &Request| of.open.is_none().then(|| of.lines.clone());
        (&self.order, &self.user, &self.key, &self.open) == (&other.order, &other.user, &other.key, &other.open)
            && named(self) == named(other)
    }
}

impl Book {
    /// Whom the request's key names.
    fn first(&self, request: &Request) -> Option<usize> {
        match &request.key {
            Some(key) => self.keys.get(key).copied(),
            None => self.reservations.iter().position(|held| {
                let first = &held.request;
                held.status.holds()
                    && first.key.is_none()
                    && (&first.order, first.line()) == (&request.order, request.line())
            }),
        }
    }

    /// Whom it names, and what comes of that.
    pub(super) fn against_key(&self, request: &Request) -> Option<(usize, Verdict)> {
        let first = self.first(request)?;
        let verdict = if self.reservations[first].request.is_same(request) {
            Verdict::Replay(first)
        } else {
            Verdict::Refused(422, "IDEMPOTENCY_KEY_REUSED")
        };
        Some((first, verdict))
    }
}
