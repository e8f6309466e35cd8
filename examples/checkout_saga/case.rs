//! The stories: what goes wrong in a checkout, how it must end, and at which points a crash is tried.

use crate::crash::{Crash, Moment};
use crate::journal::Entry;
use crate::payments::{Mood, Verb};
use crate::saga::{Checkout, End, Flow, Next, Progress, Step};

/// More than anybody has.
const TOO_MANY: u32 = 1_000_000;
/// Time to pay.
const TTL_SECONDS: u32 = 900;
/// The least there is, to be late soon.
const SHORT_TTL_SECONDS: u32 = 1;
pub(crate) const PRICE_CENTS: u64 = 4_200;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trouble {
    #[default]
    Nothing,
    /// There are not as many units.
    SoldOut,
    /// The bank says no.
    Declined,
    /// The payment service's answers come too late, once each.
    AnswersLost,
    /// The payment service holds the money and never says so.
    Silence,
    /// The order service does not take the order.
    OrderRefused,
    /// The buyer approves when the reservation has expired, and the units are still free.
    Late,
    /// The same, and somebody else has bought them.
    LateAndGone,
    /// The bank says no when the money is to be taken.
    CaptureFails,
}

/// A checkout of the tour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) flow: Flow,
    pub(crate) trouble: Trouble,
    pub(crate) crash: Option<Crash>,
}

impl Trouble {
    const ALL: [Trouble; 9] = [
        Trouble::Nothing,
        Trouble::SoldOut,
        Trouble::Declined,
        Trouble::AnswersLost,
        Trouble::Silence,
        Trouble::OrderRefused,
        Trouble::Late,
        Trouble::LateAndGone,
        Trouble::CaptureFails,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Trouble::Nothing => "all goes well",
            Trouble::SoldOut => "sold out",
            Trouble::Declined => "payment declined",
            Trouble::AnswersLost => "answers get lost",
            Trouble::Silence => "payment service is silent",
            Trouble::OrderRefused => "order refused",
            Trouble::Late => "late payment, units free",
            Trouble::LateAndGone => "late payment, units gone",
            Trouble::CaptureFails => "capture fails",
        }
    }

    /// Whether the money comes after the reservation has expired.
    pub(crate) fn is_late(self) -> bool {
        matches!(self, Trouble::Late | Trouble::LateAndGone)
    }
}

impl Case {
    /// Each story once, without a crash.
    pub(crate) fn stories() -> Vec<Case> {
        let of = |flow| {
            let story = move |trouble| Case {
                flow,
                trouble,
                crash: None,
            };
            Trouble::ALL.into_iter().map(story)
        };
        of(Flow::StockFirst).chain(of(Flow::PayFirst)).collect()
    }

    /// This story with a crash at each moment that no other story has: all of them where nothing goes wrong, else those
    /// from the step on at which it does.
    pub(crate) fn crashes(self) -> Vec<Case> {
        let (path, _) = self.path();
        let first = match self.trouble {
            Trouble::Nothing => 0,
            // Every answer is waited for in vain once, crash or not: the story alone shows that.
            Trouble::AnswersLost => path.len(),
            _ => {
                let turns = self.turns_at().unwrap_or(Step::Commit);
                path.iter().position(|step| *step == turns).unwrap_or(path.len())
            }
        };
        let begin = (self.trouble == Trouble::Nothing).then_some(Crash::Begin);
        let is_worth = |moment: &Moment| *moment != Moment::Torn || self.trouble == Trouble::Nothing;
        let moments = Moment::ALL.into_iter().filter(is_worth);
        let of_step = |step: &Step| {
            let step = *step;
            moments.clone().map(move |moment| Crash::At(step, moment))
        };
        let points = begin.into_iter().chain(path[first..].iter().flat_map(of_step));
        let with = |crash| Case {
            crash: Some(crash),
            ..self
        };
        points.map(with).collect()
    }

    /// The steps that are taken, and the end: what the saga does when it hears what this trouble makes it hear.
    pub(crate) fn path(self) -> (Vec<Step>, End) {
        let (turns, mut path) = (self.turns_at(), Vec::new());
        let mut progress = Progress::new(self.checkout("any", "any", "any"));
        loop {
            let step = match progress.next() {
                Next::Take(step) => step,
                Next::End(end) => return (path, end),
            };
            path.push(step);
            let why = String::new();
            progress.apply(&if turns != Some(step) {
                let answer = serde_json::Value::Null;
                Entry::Done { step, answer }
            } else if self.trouble == Trouble::Silence {
                Entry::GivenUp { step, why }
            } else {
                Entry::Refused { step, why }
            });
        }
    }

    /// The step that fails.
    fn turns_at(self) -> Option<Step> {
        match self.trouble {
            Trouble::Nothing | Trouble::AnswersLost | Trouble::Late => None,
            Trouble::SoldOut => Some(Step::Reserve),
            Trouble::Declined | Trouble::Silence => Some(Step::Authorise),
            Trouble::OrderRefused => Some(Step::Order),
            Trouble::LateAndGone => Some(Step::Commit),
            Trouble::CaptureFails => Some(Step::Capture),
        }
    }

    pub(crate) fn mood(self) -> Mood {
        match (self.trouble, self.flow) {
            (Trouble::Declined, _) => Mood::Declines,
            (Trouble::AnswersLost, _) => Mood::LosesAnswers,
            (Trouble::Silence, _) => Mood::NeverAnswers,
            (Trouble::CaptureFails, _) => Mood::FailsCapture,
            // Between the reservation and its commit.
            (Trouble::Late | Trouble::LateAndGone, Flow::StockFirst) => Mood::Waits(Verb::Authorise),
            (Trouble::Late | Trouble::LateAndGone, Flow::PayFirst) => Mood::Waits(Verb::Capture),
            _ => Mood::Fine,
        }
    }

    /// How long the shop waits for an answer of the services: not long where the story is that none comes.
    pub(crate) fn patience_ms(self) -> u64 {
        match self.trouble {
            Trouble::Silence => 400,
            Trouble::AnswersLost => 1_500,
            _ => 10_000,
        }
    }

    pub(crate) fn checkout(self, saga: &str, sku: &str, location: &str) -> Checkout {
        Checkout {
            saga: saga.to_owned(),
            order: format!("order-{saga}"),
            user: format!("user-{saga}"),
            sku: sku.to_owned(),
            location: location.to_owned(),
            quantity: if self.trouble == Trouble::SoldOut { TOO_MANY } else { 1 },
            cents: PRICE_CENTS,
            ttl_seconds: if self.trouble.is_late() {
                SHORT_TTL_SECONDS
            } else {
                TTL_SECONDS
            },
            flow: self.flow,
        }
    }
}
