//! The model: what the ledger should hold, decided one request at a time, as the contract says it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use flashgate::domain::balance::Balance;
use serde_json::{Value, json};

use super::choice::Open;

/// Everything that one sequence has done.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) step: usize,
    pub(super) skus: Vec<String>,
    pub(super) locations: Vec<String>,
    /// Of each SKU, where no location has its own.
    pub(super) safety: Vec<i64>,
    /// Every SKU at every location.
    pub(super) items: Vec<Stock>,
    /// Of each location, whether it is closed.
    pub(super) closed: [bool; PLACES],
    pub(super) sales: usize,
    pub(super) reservations: Vec<Reservation>,
    /// Every request to reserve, also those that were refused.
    pub(super) asked: Vec<Request>,
    /// Whose the clients' keys are.
    pub(super) keys: HashMap<String, usize>,
    pub(super) returns: Vec<(String, Value, usize, Value)>,
    pub(super) transfers: Vec<(Value, Value)>,
    pub(super) adjustments: Vec<Adjustment>,
    pub(super) approvals: Vec<Approval>,
    pub(super) marks: Vec<Mark>,
    /// Counts that were sent, and their answers.
    pub(super) counts: Vec<(Value, Value)>,
    /// Events that can't be undone.
    pub(super) firm: Vec<i64>,
}

/// A SKU at a location.
#[derive(Debug)]
pub(super) struct Stock {
    pub(super) sku: usize,
    pub(super) location: usize,
    pub(super) is: Balance,
    /// Its safety stock is its own.
    pub(super) apart: bool,
    /// One that has not ended.
    pub(super) sale: Option<Sale>,
    /// Changes of on_hand: the step, for an undo that of what it takes back, by how much, and of a count's correction
    /// when that was made.
    pub(super) moves: Vec<(usize, i64, Option<DateTime<Utc>>)>,
    /// The newest count in it.
    pub(super) counted_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Draft,
    Scheduled,
    Live,
    Paused,
    Frozen,
}

#[derive(Debug)]
pub(super) struct Sale {
    pub(super) id: String,
    pub(super) no: usize,
    pub(super) state: State,
    pub(super) thaws_to: State,
    pub(super) allocation: i64,
    pub(super) limit: Option<i64>,
    pub(super) buckets: usize,
    pub(super) committed: i64,
}

/// A request to reserve.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) order: String,
    pub(super) user: Option<String>,
    pub(super) key: Option<String>,
    /// What it asks for where it leaves locations to the gateway.
    pub(super) open: Option<Open>,
    /// Its items in order, each once; of one that leaves locations open, those that it comes to.
    pub(super) lines: Vec<(usize, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Reserved,
    Committed,
    Released,
    Expired,
}

#[derive(Debug)]
pub(super) struct Reservation {
    pub(super) id: String,
    pub(super) request: Request,
    pub(super) status: Status,
    /// Its payment has begun.
    pub(super) pays: bool,
    pub(super) lines: Vec<Line>,
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) item: usize,
    pub(super) units: i64,
    /// The sale that it was taken from.
    pub(super) sale: Option<usize>,
    pub(super) returned: i64,
}

/// An adjustment that was carried out.
#[derive(Debug)]
pub(super) struct Adjustment {
    pub(super) step: usize,
    pub(super) event: i64,
    pub(super) item: usize,
    pub(super) moved: Moved,
    pub(super) sent: Value,
    pub(super) told: Value,
    /// What its undo was answered with.
    pub(super) undone: Option<Value>,
}

#[derive(Debug)]
pub(super) struct Approval {
    pub(super) id: String,
    pub(super) item: usize,
    pub(super) delta: i64,
    pub(super) reason: &'static str,
    pub(super) sent: Value,
    pub(super) status: &'static str,
    /// What it was answered with when it was carried out.
    pub(super) told: Option<Value>,
}

/// An instant between two steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) step: usize,
    pub(super) at: DateTime<Utc>,
}

/// What an adjustment does to a balance.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    pub(super) on_hand: i64,
    pub(super) unavailable: i64,
    pub(super) damaged: i64,
    pub(super) returned: i64,
}

/// What may come of a request to reserve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Take,
    Replay(usize),
    Refused(u16, &'static str),
}

/// Locations; each is preferred to those before it, so that the order of their ids, in which equal ones stand, is another.
pub(super) const PLACES: usize = 3;
const SKUS: usize = 3;

pub(super) const NOT_LIVE: Verdict = Verdict::Refused(409, "SALE_NOT_LIVE");
pub(super) const HELD: Verdict = Verdict::Refused(409, "ORDER_ALREADY_RESERVED");
pub(super) const SHORT: Verdict = Verdict::Refused(409, "INSUFFICIENT_STOCK");

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Status::Reserved => "RESERVED",
            Status::Committed => "COMMITTED",
            Status::Released => "RELEASED",
            Status::Expired => "EXPIRED",
        }
    }

    /// Its units are the order's.
    pub(super) fn holds(self) -> bool {
        matches!(self, Status::Reserved | Status::Committed)
    }
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            State::Draft => "draft",
            State::Scheduled => "scheduled",
            State::Live => "live",
            State::Paused => "paused",
            State::Frozen => "frozen",
        }
    }
}

impl Moved {
    pub(super) fn by(reason: &str, delta: i64) -> Moved {
        match reason {
            "damaged" => Moved {
                unavailable: -delta,
                damaged: -delta,
                ..Moved::default()
            },
            "return_processed" => Moved {
                on_hand: delta,
                returned: delta,
                ..Moved::default()
            },
            _ => Moved {
                on_hand: delta,
                ..Moved::default()
            },
        }
    }

    pub(super) fn reversed(self) -> Moved {
        Moved {
            on_hand: -self.on_hand,
            unavailable: -self.unavailable,
            damaged: -self.damaged,
            returned: -self.returned,
        }
    }

    pub(super) fn of(self, mut balance: Balance) -> Balance {
        balance.on_hand += self.on_hand;
        balance.unavailable += self.unavailable;
        balance.damaged += self.damaged;
        balance.returned += self.returned;
        balance
    }
}

/// A balance as answers show it.
pub(super) fn image(of: &Balance) -> Value {
    json!({"onHand": of.on_hand, "reserved": of.reserved, "unavailable": of.unavailable,
           "safetyStock": of.safety_stock, "escrowed": of.escrowed, "sold": of.sold, "damaged": of.damaged,
           "returned": of.returned,
           "available": (of.on_hand - of.reserved - of.unavailable - of.safety_stock).max(0)})
}

impl Stock {
    /// What nothing and nobody has been promised.
    pub(super) fn unpromised(&self) -> i64 {
        self.is.on_hand - self.is.reserved - self.is.unavailable - self.is.escrowed
    }

    /// What may be reserved off sale, set aside or sent elsewhere; below 0 where the safety stock is not there.
    pub(super) fn free(&self) -> i64 {
        self.unpromised() - self.is.safety_stock
    }

    /// Its sale gives up what is missing, where something is.
    pub(super) fn give_up(&mut self, missing: i64) {
        if missing > 0 {
            self.is.escrowed -= missing;
            if let Some(sale) = &mut self.sale {
                sale.allocation -= missing;
            }
        }
    }

    pub(super) fn state(&self) -> Option<State> {
        self.sale.as_ref().map(|sale| sale.state)
    }

    /// The ledger engine serves it.
    pub(super) fn is_off_sale(&self) -> bool {
        matches!(self.state(), None | Some(State::Draft))
    }
}

impl Book {
    pub(super) fn new(name: &str) -> Book {
        let names = |what: &str, count: usize| (0..count).map(|n| format!("{name}-{what}{n}")).collect::<Vec<_>>();
        let (skus, locations) = (names("s", SKUS), names("l", PLACES));
        let item = |n: usize| Stock {
            sku: n / PLACES,
            location: n % PLACES,
            is: Balance::default(),
            apart: false,
            sale: None,
            moves: Vec::new(),
            counted_at: None,
        };
        Book {
            step: 0,
            safety: vec![0; skus.len()],
            items: (0..skus.len() * locations.len()).map(item).collect(),
            skus,
            locations,
            closed: [false; PLACES],
            sales: 0,
            reservations: Vec::new(),
            asked: Vec::new(),
            keys: HashMap::new(),
            returns: Vec::new(),
            transfers: Vec::new(),
            adjustments: Vec::new(),
            approvals: Vec::new(),
            marks: Vec::new(),
            counts: Vec::new(),
            firm: Vec::new(),
        }
    }

    pub(super) fn sku(&self, item: usize) -> &str {
        &self.skus[self.items[item].sku]
    }

    pub(super) fn location(&self, item: usize) -> &str {
        &self.locations[self.items[item].location]
    }

    /// On hand changes; `counted_at` where a count's correction does it.
    pub(super) fn move_on_hand(&mut self, item: usize, delta: i64, counted_at: Option<DateTime<Utc>>) {
        let step = self.step;
        let stock = &mut self.items[item];
        stock.is.on_hand += delta;
        stock.moves.push((step, delta, counted_at));
    }

    pub(super) fn carry_out(&mut self, item: usize, moved: Moved) {
        self.carry_out_as_of(self.step, item, moved);
    }

    /// For a count, what an undo does has been done in this step.
    pub(super) fn carry_out_as_of(&mut self, step: usize, item: usize, moved: Moved) {
        let stock = &mut self.items[item];
        stock.is = moved.of(stock.is);
        stock.moves.push((step, moved.on_hand, None));
    }

    /// An item was counted, for its balance, after this step.
    pub(super) fn is_counted_since(&self, item: usize, step: usize) -> bool {
        let counted_at = self.items[item].counted_at;
        let mark = self.marks.iter().find(|mark| Some(mark.at) == counted_at);
        mark.is_some_and(|mark| mark.step >= step)
    }

    /// Who has this item for this order.
    pub(super) fn holder(&self, order: &str, item: usize) -> Option<usize> {
        let has = |held: &Reservation| {
            held.status.holds() && held.request.order == order && held.lines.iter().any(|line| line.item == item)
        };
        self.reservations.iter().position(has)
    }

    /// Units of the item's sale that a user holds or has bought.
    fn held_by(&self, user: &str, sale: usize) -> i64 {
        let his = |held: &&Reservation| held.status.holds() && held.request.user.as_deref() == Some(user);
        let lines = self.reservations.iter().filter(his).flat_map(|held| &held.lines);
        lines
            .filter(|line| line.sale == Some(sale))
            .map(|line| line.units)
            .sum()
    }

    /// Units of a sale that are reserved or bought.
    pub(super) fn held_of(&self, sale: usize) -> i64 {
        let lines = self.reservations.iter().filter(|held| held.status.holds());
        let lines = lines.flat_map(|held| &held.lines);
        lines
            .filter(|line| line.sale == Some(sale))
            .map(|line| line.units)
            .sum()
    }

    /// What may come of a request, whose open locations are found. Several, where the item's lane can't know what the
    /// ledger does.
    pub(super) fn judge(&self, request: &mut Request) -> Vec<Verdict> {
        if let Some(open) = &request.open {
            if let Some((_, verdict)) = self.against_key(request) {
                return vec![verdict];
            }
            request.lines = match self.locate(request, open) {
                Ok(lines) => lines,
                Err(refusals) => return refusals,
            };
        }
        match &request.lines[..] {
            [(item, units)] => self.judge_line(request, *item, *units),
            _ => self.judge_cart(request),
        }
    }

    fn judge_line(&self, request: &Request, item: usize, units: i64) -> Vec<Verdict> {
        let stock = &self.items[item];
        let (first, holder) = (self.against_key(request), self.holder(&request.order, item));
        if stock.is_off_sale() {
            let short = (units > stock.free()).then_some(SHORT);
            let verdict = first.map(|(_, verdict)| verdict).or(holder.map(|_| HELD)).or(short);
            return vec![verdict.unwrap_or(Verdict::Take)];
        }
        if stock.state() != Some(State::Live) {
            return vec![first.map_or(NOT_LIVE, |(_, verdict)| verdict)];
        }
        let lane = self.judge_lane(request, item, units);
        let (known, late) = match first {
            Some((of, verdict)) => {
                let is_line = self.reservations[of].lines.len() == 1;
                (is_line && self.is_in_lane(of, request, item), Some(verdict))
            }
            None => (false, holder.map(|_| HELD)),
        };
        match (known, late) {
            (_, None) => vec![lane],
            (true, Some(late)) => vec![late],
            (false, Some(late)) if lane == Verdict::Take => vec![late],
            (false, Some(late)) => vec![late, lane],
        }
    }

    /// Whether the record of the request's buyer in the item's lane names this reservation.
    fn is_in_lane(&self, of: usize, request: &Request, item: usize) -> bool {
        let sale = self.items[item].sale.as_ref().map(|sale| sale.no);
        let buyer = |of: &Request| of.user.clone().unwrap_or_else(|| format!("order {}", of.order));
        let held = &self.reservations[of];
        buyer(&held.request) == buyer(request) && held.lines.iter().any(|line| line.item == item && line.sale == sale)
    }

    /// What the lane of the item's live sale says to a request whose key it does not know.
    pub(super) fn judge_lane(&self, request: &Request, item: usize, units: i64) -> Verdict {
        let stock = &self.items[item];
        let Some(sale) = &stock.sale else { return NOT_LIVE };
        if sale.limit.is_some() && request.user.is_none() {
            return Verdict::Refused(400, "USER_REQUIRED");
        }
        if let Some(holder) = self.holder(&request.order, item)
            && self.is_in_lane(holder, request, item)
        {
            return HELD;
        }
        if let (Some(limit), Some(user)) = (sale.limit, &request.user)
            && self.held_by(user, sale.no) + units > limit
        {
            return Verdict::Refused(409, "USER_LIMIT_EXCEEDED");
        }
        if units > stock.is.escrowed {
            return SHORT;
        }
        Verdict::Take
    }

    pub(super) fn judge_cart(&self, request: &Request) -> Vec<Verdict> {
        if let Some((_, verdict)) = self.against_key(request) {
            return vec![verdict];
        }
        let mut refusals = Vec::new();
        for (item, units) in &request.lines {
            let stock = &self.items[*item];
            let held = self.holder(&request.order, *item).map(|_| HELD);
            if stock.is_off_sale() {
                refusals.extend(held);
                refusals.extend((*units > stock.free()).then_some(SHORT));
            } else if stock.state() == Some(State::Live) {
                refusals.extend(held);
                let lane = self.judge_lane(request, *item, *units);
                refusals.extend((lane != Verdict::Take).then_some(lane));
            } else {
                refusals.push(NOT_LIVE);
            }
        }
        // Which of several failures is told depends on where the lines lie.
        if refusals.is_empty() {
            return vec![Verdict::Take];
        }
        refusals
    }

    /// The reservation is made.
    pub(super) fn take(&mut self, request: Request, id: String) {
        let mut lines = Vec::new();
        for (item, units) in &request.lines {
            let stock = &mut self.items[*item];
            let sale = stock.sale.as_ref().filter(|sale| sale.state == State::Live);
            let sale = sale.map(|sale| sale.no);
            stock.is.reserved += units;
            if sale.is_some() {
                stock.is.escrowed -= units;
            }
            lines.push(Line {
                item: *item,
                units: *units,
                sale,
                returned: 0,
            });
        }
        if let Some(key) = &request.key {
            self.keys.insert(key.clone(), self.reservations.len());
        }
        self.reservations.push(Reservation {
            id,
            request,
            status: Status::Reserved,
            pays: false,
            lines,
        });
    }

    /// A sale that one of the reservation's lines was taken from is frozen.
    pub(super) fn stands_still(&self, at: usize) -> bool {
        self.reservations[at].lines.iter().any(|line| {
            let sale = self.items[line.item].sale.as_ref();
            sale.is_some_and(|sale| Some(sale.no) == line.sale && sale.state == State::Frozen)
        })
    }

    /// A reservation that holds units ends.
    pub(super) fn end(&mut self, at: usize, status: Status) {
        let lines: Vec<(usize, i64, Option<usize>)> = self.reservations[at]
            .lines
            .iter()
            .map(|line| (line.item, line.units, line.sale))
            .collect();
        for (item, units, from) in lines {
            self.items[item].is.reserved -= units;
            let sale = self.items[item].sale.as_mut().filter(|sale| Some(sale.no) == from);
            if status == Status::Committed {
                if let Some(sale) = sale {
                    sale.committed += units;
                }
                self.items[item].is.sold += units;
                self.move_on_hand(item, -units, None);
            } else if sale.is_some() {
                self.items[item].is.escrowed += units;
            }
        }
        self.reservations[at].status = status;
    }

    /// Whether a payment of an expired reservation gets its units; unknown where a sale's buckets decide.
    pub(super) fn rescue(&self, at: usize) -> Option<bool> {
        let late = &self.reservations[at];
        let mut by_lane = false;
        for line in &late.lines {
            let stock = &self.items[line.item];
            if self.holder(&late.request.order, line.item).is_some() {
                return Some(false);
            }
            if stock.is_off_sale() {
                if line.units > stock.free() {
                    return Some(false);
                }
                continue;
            }
            let Some(sale) = &stock.sale else { continue };
            // A newer sale of the item gives units as well, from wherever they lie.
            let is_newer = Some(sale.no) != line.sale;
            let gives = matches!(sale.state, State::Live | State::Paused) || is_newer && sale.state == State::Scheduled;
            if !gives || line.units > stock.is.escrowed {
                return Some(false);
            }
            if is_newer {
                continue;
            }
            if let (Some(limit), Some(user)) = (sale.limit, &late.request.user)
                && self.held_by(user, sale.no) + line.units > limit
            {
                return Some(false);
            }
            by_lane |= sale.buckets > 1;
        }
        (!by_lane).then_some(true)
    }

    /// The units of an expired reservation are taken anew, and bought.
    pub(super) fn buy_late(&mut self, at: usize) {
        for n in 0..self.reservations[at].lines.len() {
            let (item, units, from) = {
                let line = &self.reservations[at].lines[n];
                (line.item, line.units, line.sale)
            };
            let stock = &mut self.items[item];
            let off_sale = stock.is_off_sale();
            stock.is.reserved += units;
            if let Some(sale) = stock.sale.as_mut().filter(|_| !off_sale) {
                stock.is.escrowed -= units;
                // It leaves a newer sale.
                if Some(sale.no) != from {
                    sale.allocation -= units;
                }
            }
        }
        self.end(at, Status::Committed);
    }
}
