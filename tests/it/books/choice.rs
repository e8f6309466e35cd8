//! Requests that leave the location to the gateway: the book chooses among what it knows, and so must the gateway.

use std::collections::BTreeMap;

use rand::Rng;

use super::Play;
use super::book::{Book, HELD, NOT_LIVE, PLACES, Request, SHORT, State, Verdict};

/// What a request asks for that leaves locations open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) wishes: Vec<Wish>,
    /// A line may come from several locations.
    pub(super) split: bool,
}

/// Units of a SKU, at one of its locations where one is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) sku: usize,
    pub(super) item: Option<usize>,
    pub(super) units: i64,
}

impl Book {
    /// The items of a SKU that may be chosen, the best first.
    fn places(&self, sku: usize) -> impl Iterator<Item = usize> + '_ {
        let items = (sku * PLACES)..(sku + 1) * PLACES;
        items.rev().filter(|item| !self.closed[self.items[*item].location])
    }

    /// What an item has to sell; none while its sale waits.
    fn sells(&self, item: usize) -> Option<i64> {
        let stock = &self.items[item];
        match stock.state() {
            None | Some(State::Draft) => Some(stock.free().max(0)),
            Some(State::Live) => Some(stock.is.escrowed),
            Some(State::Scheduled | State::Paused | State::Frozen) => None,
        }
    }

    /// What the locations of a SKU have together, and the most that one has.
    pub(super) fn offered(&self, sku: usize) -> (i64, i64) {
        let units = || self.places(sku).filter_map(|item| self.sells(item));
        (units().sum(), units().max().unwrap_or(0))
    }

    /// The items that the request comes to, or what it may be refused with.
    pub(super) fn locate(&self, request: &Request, open: &Open) -> Result<Vec<(usize, i64)>, Vec<Verdict>> {
        let mut needs = BTreeMap::<usize, i64>::new();
        for wish in &open.wishes {
            if let Some(item) = wish.item {
                *needs.entry(item).or_default() += wish.units;
            }
        }
        let mut refusals = Vec::new();
        for wish in open.wishes.iter().filter(|wish| wish.item.is_none()) {
            let is_alone = open.wishes.len() == 1;
            match self.choose(wish, open.split, is_alone, request, &needs) {
                Ok(shares) => {
                    for (item, units) in shares {
                        *needs.entry(item).or_default() += units;
                    }
                }
                Err(refused) => refusals.extend(refused),
            }
        }
        if refusals.is_empty() {
            return Ok(needs.into_iter().collect());
        }
        // Which of several lines that fail is told is not decided here.
        let named = Request {
            open: None,
            lines: needs.into_iter().collect(),
            ..request.clone()
        };
        let others = self.judge_cart(&named).into_iter();
        refusals.extend(others.filter(|verdict| *verdict != Verdict::Take));
        Err(refusals)
    }

    fn choose(
        &self,
        wish: &Wish,
        split: bool,
        is_alone: bool,
        request: &Request,
        needs: &BTreeMap<usize, i64>,
    ) -> Result<Vec<(usize, i64)>, Vec<Verdict>> {
        let places: Vec<usize> = self.places(wish.sku).collect();
        let free = |item: usize| Some(self.sells(item)? - needs.get(&item).unwrap_or(&0));
        let has = |item: &usize| free(*item).is_some_and(|units| units >= wish.units);
        if let Some(best) = places.iter().copied().find(has) {
            return Ok(vec![(best, wish.units)]);
        }
        // Only its lanes know whether a sale has more than is seen, and what else they say is told.
        let on_sale = places
            .iter()
            .filter(|item| self.items[**item].state() == Some(State::Live));
        let mut refusals: Vec<Verdict> = on_sale
            .map(|item| self.refused_in_lane(request, *item, wish.units))
            .filter(|verdict| *verdict != SHORT)
            .collect();
        if is_alone && !refusals.is_empty() {
            refusals.truncate(1);
            return Err(refusals);
        }
        if split {
            let mut missing = wish.units;
            let mut shares = Vec::new();
            for item in places.iter().copied() {
                let share = free(item).unwrap_or(0).clamp(0, missing);
                missing -= share;
                shares.extend((share > 0).then_some((item, share)));
            }
            if missing == 0 {
                return Ok(shares);
            }
        }
        let waits = !places.is_empty() && places.iter().all(|item| self.sells(*item).is_none());
        refusals.push(if waits { NOT_LIVE } else { SHORT });
        Err(refusals)
    }

    /// What is told where the item's live sale has too few: first what the order has of it from before the sale.
    fn refused_in_lane(&self, request: &Request, item: usize, units: i64) -> Verdict {
        match self.judge_lane(request, item, units) {
            verdict @ Verdict::Refused(400, _) => verdict,
            _ if self.holder(&request.order, item).is_some() => HELD,
            verdict => verdict,
        }
    }
}

impl Play {
    pub(super) async fn reserve_anywhere(&mut self) {
        let request = self.open_request();
        self.reserve(request).await;
    }

    /// Mostly a new one; sometimes one that was sent before, or one that contradicts it.
    fn open_request(&mut self) -> Request {
        let open = self.open();
        let dice = self.random.random_range(0..100);
        let is_open = |at: &usize| dice >= 31 || self.book.asked[*at].open.is_some();
        let before: Vec<usize> = (0..self.book.asked.len()).filter(is_open).collect();
        if dice < 36 && !before.is_empty() {
            let at = before[self.random.random_range(0..before.len())];
            let mut request = self.book.asked[at].clone();
            match (dice, &mut request.open) {
                (0..16, _) => {}
                (16..20, Some(open)) => open.wishes[0].units += 1,
                (20..23, Some(open)) => open.split = !open.split,
                (23..31, _) => request.key = Some(self.fresh("k")),
                _ => request.open = Some(open),
            }
            return request;
        }
        Request {
            order: self.fresh("o"),
            user: self.chance(75).then(|| format!("u{}", self.random.random_range(0..3))),
            key: self.chance(50).then(|| self.fresh("k")),
            open: Some(open),
            lines: Vec::new(),
        }
    }

    fn open(&mut self) -> Open {
        let mut wishes = BTreeMap::new();
        let sku = self.random.random_range(0..self.book.skus.len());
        wishes.insert((sku, None), self.random.random_range(1..=12));
        while self.chance(40) {
            // What is asked for here the other lines can't have.
            let same = self
                .chance(50)
                .then(|| sku * PLACES + self.random.random_range(0..PLACES));
            let item = same.unwrap_or_else(|| self.any_item());
            let named = self.chance(50).then_some(item);
            wishes.insert((self.book.items[item].sku, named), self.random.random_range(1..=5));
        }
        let wish = |((sku, item), units)| Wish { sku, item, units };
        Open {
            wishes: wishes.into_iter().map(wish).collect(),
            split: self.chance(50),
        }
    }

    /// A location closes, or opens again.
    pub(super) async fn shut(&mut self) {
        let place = self.random.random_range(0..PLACES);
        let closes = !self.book.closed[place];
        self.put_place(place, !closes).await;
        self.note(format!("place {place} is closed: {closes}"));
        self.book.closed[place] = closes;
    }
}
