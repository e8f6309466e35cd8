//! What becomes of each reservation and grant of a batch, in the order in which the lane did them. No I/O.
//!
//! The ledger follows the lane with counters of its own. Units that Redis gave out for something the ledger refuses are
//! given back by an `End` grant, which also ends the record; units that were never there are refused as surplus, and
//! their `End` gives back none. After each entry, the lane's counters must be ours plus the drift that is known.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::ask::{Ask, unreadable};
use super::book::Books;
use super::carry::{Part, Work};
use super::held::Held;
use super::subject::{Subject, lines};
use super::{Drift, Refused};
use crate::domain::entry::Body;
use crate::domain::grant::{Delivered, Grant};
use crate::domain::outcome::Durability;
use crate::domain::reservation::{Cause, Status};
use crate::domain::reservation_id::{Place, ReservationId};
use crate::ledger::LedgerError;
use crate::ledger::claims::{Claimant, Keys};
use crate::ledger::grants::NewGrant;

/// What became of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Reserved,
    Refused { cause: Cause, first: Option<Uuid> },
}

impl Fate {
    pub(super) fn is_reserved(self) -> bool {
        self == Fate::Reserved
    }
}

/// What the ledger says about the batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) asks: &'a [Ask<'a>],
    /// Of each delivered grant, whether it is the ledger's own.
    pub(super) known: &'a [bool],
    pub(super) subjects: &'a HashMap<Uuid, Subject>,
}

/// A reservation that ended in the lane and not yet in the ledger.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) subject: Subject,
    pub(super) sale_no: i32,
    pub(super) status: Status,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// Of each ask.
    pub(super) fates: Vec<Fate>,
    /// Units of asks whose quantity can't be read, by ask.
    pub(super) missing: HashMap<usize, i64>,
    /// Reservations taken anew.
    pub(super) retaken: Vec<Subject>,
    pub(super) ended: Vec<Ended>,
    pub(super) grants: Vec<NewGrant>,
    pub(super) drift: Vec<Drift>,
    /// Units back at the sale.
    pub(super) recalled: BTreeMap<i32, i64>,
}

impl Decided {
    pub(super) fn refused(&self, asks: &[Ask<'_>]) -> Vec<Refused> {
        let refused = |(ask, fate): (&Ask<'_>, &Fate)| match fate {
            Fate::Reserved => None,
            Fate::Refused { cause, first } => Some(Refused {
                seq: ask.place.seq,
                index: ask.place.index,
                durability: Durability::Rejected {
                    cause: *cause,
                    first: first.map(ReservationId),
                },
            }),
        };
        asks.iter().zip(&self.fates).filter_map(refused).collect()
    }
}

struct Judge<'w, 'a> {
    work: &'w Work<'w>,
    facts: Facts<'a>,
    books: &'w mut Books,
    keys: &'w mut Keys,
    held: &'w mut Held<'a>,
    unreadable: HashMap<(usize, i32), Vec<usize>>,
    /// Asks by id, where delivered grants may speak of them.
    by_id: HashMap<Uuid, usize>,
    ended: HashSet<Uuid>,
    out: Decided,
}

pub(super) fn decide<'a>(
    work: &Work<'_>,
    facts: Facts<'a>,
    books: &mut Books,
    keys: &mut Keys,
    held: &mut Held<'a>,
) -> Result<Decided, LedgerError> {
    let mut judge = Judge {
        work,
        facts,
        books,
        keys,
        held,
        unreadable: unreadable(facts.asks),
        by_id: match work.rebuild {
            true => facts.asks.iter().enumerate().map(|(at, ask)| (ask.id, at)).collect(),
            false => HashMap::new(),
        },
        ended: HashSet::new(),
        out: Decided::default(),
    };
    judge.out.fates.reserve(facts.asks.len());
    let (mut next, mut known) = (0, facts.known.iter());
    for (at, part) in work.parts.iter().enumerate() {
        while let Some(ask) = facts.asks.get(next).filter(|ask| ask.part == at) {
            let fate = judge.reserve(ask)?;
            judge.out.fates.push(fate);
            next += 1;
        }
        if !part.whole {
            continue;
        }
        if let Body::Grant { delivered, .. } = &part.entry.body {
            for delivered in delivered {
                let sale_no = part.entry.touched[delivered.sale].sale_no;
                if known.next().is_some_and(|own| *own) {
                    judge.deliver(sale_no, delivered)?;
                } else {
                    judge.end_by_content(sale_no, delivered)?;
                }
            }
        }
        if !work.rebuild {
            judge.compare(at, part)?;
        }
    }
    Ok(judge.out)
}

impl<'a> Judge<'_, 'a> {
    fn reserve(&mut self, ask: &'a Ask<'a>) -> Result<Fate, LedgerError> {
        let against = self.against(ask)?;
        let book = self.books.get_mut(ask.sale_no)?;
        if !book.open && !self.work.rebuild {
            return Err(LedgerError::Broken(format!(
                "lane {} sells sale {}, which it does not have",
                self.work.lane, ask.sale_no
            )));
        }
        let units = ask.units();
        let Some((cause, first)) = against else {
            book.counter -= units;
            book.durable += units;
            if let (Some(slip), Some(claimant)) = (ask.slip, ask.claimant()) {
                self.keys.give(&claimant);
                self.held.add(ask.sale_no, slip.user.as_deref(), units);
            }
            return Ok(Fate::Reserved);
        };
        book.rejected += units;
        if let Some(claimant) = ask.claimant() {
            self.keys.refuse(&claimant);
        }
        if let Some(slip) = ask.slip {
            self.give_back(ask.id, ask.sale_no, ask.place, units, slip.buyer())?;
        }
        Ok(Fate::Refused { cause, first })
    }

    /// What stands against a reservation. The first that applies wins, as api.md orders them.
    fn against(&self, ask: &'a Ask<'a>) -> Result<Option<(Cause, Option<Uuid>)>, LedgerError> {
        let Some((slip, claimant)) = ask.slip.zip(ask.claimant()) else {
            return Ok(Some((Cause::Poison, None)));
        };
        if let Some((cause, first)) = self.keys.against(&claimant) {
            return Ok(Some((cause, Some(first))));
        }
        let book = self.books.get(ask.sale_no)?;
        if self
            .held
            .passes(book.limit, ask.sale_no, slip.user.as_deref(), ask.units())
        {
            return Ok(Some((Cause::UserLimit, None)));
        }
        Ok((ask.units() > book.counter).then_some((Cause::Surplus, None)))
    }

    /// Redis took units for a reservation that is refused: takes them off our counter, as far as they are there, and
    /// sends them back with the end of the record.
    fn give_back(
        &mut self,
        id: Uuid,
        sale_no: i32,
        place: Place,
        units: i64,
        buyer: String,
    ) -> Result<(), LedgerError> {
        if self.work.rebuild {
            return Ok(());
        }
        let book = self.books.get_mut(sale_no)?;
        let quantity = if units <= book.counter { units } else { 0 };
        book.counter -= quantity;
        book.drift -= units - quantity;
        self.out.grants.push(NewGrant {
            lane: self.work.lane,
            sale_no,
            grant: Grant::End {
                place,
                quantity: u32::try_from(quantity).expect("a slip's quantity has 3 bytes"),
                status: Status::Rejected,
                buyer,
            },
            reservation_id: Some(id),
        });
        Ok(())
    }

    fn deliver(&mut self, sale_no: i32, delivered: &Delivered) -> Result<(), LedgerError> {
        let book = self.books.get_mut(sale_no)?;
        match &delivered.grant {
            Grant::Units(units) => book.counter += i64::from(*units),
            Grant::End { quantity, .. } => book.counter += i64::from(*quantity),
            Grant::Open(settings) => {
                book.open = true;
                book.follow(settings);
            }
            Grant::Settings(settings) => book.follow(settings),
            Grant::Take { target, .. } => {
                let units = book.take(delivered.outcome.into());
                match target {
                    _ if units == 0 => {}
                    None => *self.out.recalled.entry(sale_no).or_default() += units,
                    Some(lane) => self.out.grants.push(NewGrant {
                        lane: *lane,
                        sale_no,
                        grant: Grant::Units(u32::try_from(units).expect("at most the outcome")),
                        reservation_id: None,
                    }),
                }
            }
            Grant::TakeWhole(_) => {
                *self.out.recalled.entry(sale_no).or_default() += book.take(delivered.outcome.into());
            }
            Grant::Retake { place, buyer, .. } if delivered.outcome == 1 => {
                self.retake(sale_no, *place, delivered, buyer)?
            }
            Grant::Correct(delta) => book.drift += i64::from(*delta),
            Grant::Retake { .. } | Grant::Drop | Grant::Record { .. } => {}
        }
        Ok(())
    }

    fn retake(&mut self, sale_no: i32, place: Place, delivered: &Delivered, buyer: &str) -> Result<(), LedgerError> {
        let units = -delivered.counter_delta();
        let id = self.work.id_key.seal(self.work.lane, place).0;
        let subjects = self.facts.subjects;
        let limit = self.books.get(sale_no)?.limit;
        let subject = subjects.get(&id).filter(|subject| {
            subject.retakable()
                && subject.quantity == units
                && self.keys.against(&subject.claimant()).is_none()
                && !self.held.passes(limit, sale_no, subject.user.as_deref(), units)
        });
        let book = self.books.get_mut(sale_no)?;
        match subject.filter(|_| units <= book.counter) {
            Some(subject) => {
                book.counter -= units;
                book.durable += units;
                self.keys.give(&subject.claimant());
                self.held.add(sale_no, subject.user.as_deref(), units);
                self.out.retaken.push(subject.clone());
                Ok(())
            }
            None => {
                if let Some(subject) = subjects.get(&id).filter(|subject| subject.retakable()) {
                    self.keys.refuse(&subject.claimant());
                }
                self.give_back(id, sale_no, place, units, buyer.to_owned())
            }
        }
    }

    /// A grant that the ledger does not know, since it fell back behind it: an ending happened all the same.
    fn end_by_content(&mut self, sale_no: i32, delivered: &Delivered) -> Result<(), LedgerError> {
        let Grant::End { place, status, .. } = delivered.grant else {
            return Ok(());
        };
        let id = self.work.id_key.seal(self.work.lane, place).0;
        if status == Status::Rejected || !self.books.has(sale_no) || !self.ended.insert(id) {
            return Ok(());
        }
        let stored = self
            .facts
            .subjects
            .get(&id)
            .filter(|subject| subject.status == Status::Reserved);
        let Some(subject) = stored.cloned().or_else(|| self.just_reserved(id)) else {
            return Ok(());
        };
        self.books.get_mut(sale_no)?.counter += subject.quantity;
        self.held.add(sale_no, subject.user.as_deref(), -subject.quantity);
        self.keys.free(id, &lines(&subject.order, &subject.item));
        if !subject.explicit {
            self.keys.free(id, &[subject.key]);
        }
        self.out.ended.push(Ended {
            subject,
            sale_no,
            status,
        });
        Ok(())
    }

    /// A reservation that this very batch has made.
    fn just_reserved(&self, id: Uuid) -> Option<Subject> {
        let at = *self.by_id.get(&id)?;
        let (ask, fate) = (&self.facts.asks[at], self.out.fates.get(at)?);
        let slip = ask.slip.filter(|_| fate.is_reserved())?;
        Some(Subject {
            id,
            order: slip.order.clone(),
            user: slip.user.clone(),
            item: self.books.get(ask.sale_no).ok()?.item.clone(),
            quantity: ask.units(),
            status: Status::Reserved,
            key: slip.key,
            fingerprint: slip.fingerprint.to_i64(),
            explicit: slip.explicit_key,
            trace: slip.trace.to_uuid(),
        })
    }

    /// Compares the lane's counters after an entry with ours. What unreadable slips took is what is missing.
    fn compare(&mut self, at: usize, part: &Part<'_>) -> Result<(), LedgerError> {
        for touched in &part.entry.touched {
            // A call may name sales that the lane does not have; it touched none of them.
            let sale_no = touched.sale_no;
            let Some(book) = self.books.open_mut(sale_no) else {
                continue;
            };
            if let Some(asks) = self.unreadable.get(&(at, sale_no)) {
                let missing = (book.counter + book.drift - touched.free).max(0);
                let units = book.take(missing);
                book.rejected += missing;
                if let [only] = asks[..] {
                    self.out.missing.insert(only, missing);
                }
                if units > 0 {
                    self.out.grants.push(NewGrant {
                        lane: self.work.lane,
                        sale_no,
                        grant: Grant::Units(
                            u32::try_from(units)
                                .map_err(|_| LedgerError::Broken(format!("{units} units are missing")))?,
                        ),
                        reservation_id: None,
                    });
                }
            }
            let expected = book.counter + book.drift;
            if touched.free != expected {
                book.drift = touched.free - book.counter;
                self.out.drift.push(Drift {
                    sale_no,
                    seq: part.entry.seq,
                    expected,
                    found: touched.free,
                });
            }
        }
        Ok(())
    }
}

impl Ask<'_> {
    /// What it claims, where it can be stored.
    pub(super) fn claimant(&self) -> Option<Claimant> {
        let slip = self.slip.filter(|_| self.poison.is_none())?;
        Some(Claimant {
            id: self.id,
            key: slip.key,
            line: slip.line,
            fingerprint: slip.fingerprint.to_i64(),
            explicit: slip.explicit_key,
        })
    }
}
