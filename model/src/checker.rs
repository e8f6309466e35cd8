//! An exhaustive search of everything that can happen within bounds, breadth first: the trace of what it finds is the
//! shortest there is.
//!
//! A state that was met is remembered by 64 bits of its hash, the way there by one step and one index, so a million
//! states need some ten megabytes. With a million states the chance that two share a hash is one in thirty million.
//!
//! It asks two questions. Of each state: does it break a property? Of all states together: can each of them still come
//! to rest, by the protocol's own steps, without help from a fault or a client? The second is answered backwards from
//! the states at rest, over the edges of the whole graph, so cycles and joins do not hide an answer.

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

/// What can be searched.
pub trait Space {
    /// Where everything stands.
    type State: Clone + Hash;
    /// What can happen.
    type Step: Copy + Display;

    /// Where it begins.
    fn first(&self) -> Self::State;
    /// Everything that can happen in `state`, and what comes of it.
    fn next(&self, state: &Self::State) -> Vec<(Self::Step, Self::State)>;
    /// Which property `state` breaks.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;
    /// Nothing is under way.
    fn at_rest(&self, state: &Self::State) -> bool;
    /// The protocol does this by itself.
    fn own(&self, step: &Self::Step) -> bool;
}

/// A property that does not hold, and the shortest way to where it does not.
#[derive(Clone, Debug)]
pub struct Violation<P> {
    /// Which.
    pub property: &'static str,
    /// From the first state.
    pub trace: Vec<P>,
}

/// What a search came to.
#[derive(Clone, Debug)]
pub struct Outcome<P> {
    /// States met.
    pub states: usize,
    /// Of these, at rest.
    pub resting: usize,
    /// Steps of the longest of all shortest ways.
    pub depth: usize,
    /// The first violation.
    pub violation: Option<Violation<P>>,
}

/// The property that is asked of all states together.
pub const STUCK: &str = "from every state the protocol comes to rest by itself";

/// More states than this are a mistake in the bounds.
const STATES_MAX: usize = 8_000_000;

#[derive(Clone, Copy, Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are hashes already, written as one u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Searches all of `space`.
///
/// # Panics
/// The bounds let in more states than are worth waiting for.
pub fn search<S: Space>(space: &S) -> Outcome<S::Step> {
    let mut met: HashMap<u64, u32, BuildHasherDefault<Same>> = HashMap::default();
    let mut ways: Vec<Option<(u32, S::Step)>> = vec![None];
    let mut depths: Vec<u16> = vec![0];
    let mut edges: Vec<(u32, u32)> = Vec::new();
    let mut resting: Vec<u32> = Vec::new();
    let first = space.first();
    met.insert(hash_of(&first), 0);
    let mut open: VecDeque<(u32, S::State)> = VecDeque::from([(0, first)]);
    while let Some((from, state)) = open.pop_front() {
        if let Some(property) = space.broken(&state) {
            let violation = Some(Violation {
                property,
                trace: way(&ways, from),
            });
            return outcome(&depths, &resting, violation);
        }
        if space.at_rest(&state) {
            resting.push(from);
        }
        for (step, next) in space.next(&state) {
            let fresh = u32::try_from(ways.len()).expect("STATES_MAX is far below");
            let to = *met.entry(hash_of(&next)).or_insert(fresh);
            if space.own(&step) {
                edges.push((to, from));
            }
            if to == fresh {
                assert!(
                    ways.len() < STATES_MAX,
                    "the bounds let in more than {STATES_MAX} states"
                );
                ways.push(Some((from, step)));
                depths.push(depths[from as usize] + 1);
                open.push_back((to, next));
            }
        }
    }
    let stuck = first_stuck(ways.len(), edges, &resting);
    let violation = stuck.map(|at| Violation {
        property: STUCK,
        trace: way(&ways, at),
    });
    outcome(&depths, &resting, violation)
}

fn outcome<P>(depths: &[u16], resting: &[u32], violation: Option<Violation<P>>) -> Outcome<P> {
    let depth = depths.last().copied().unwrap_or(0).into();
    Outcome {
        states: depths.len(),
        resting: resting.len(),
        depth,
        violation,
    }
}

/// The nearest state from which no edge leads to rest.
fn first_stuck(states: usize, mut edges: Vec<(u32, u32)>, resting: &[u32]) -> Option<u32> {
    edges.sort_unstable();
    let mut calm = vec![false; states];
    let mut open: Vec<u32> = resting.to_vec();
    for at in resting {
        calm[*at as usize] = true;
    }
    while let Some(at) = open.pop() {
        let begin = edges.partition_point(|(to, _)| *to < at);
        for (_, from) in edges[begin..].iter().take_while(|(to, _)| *to == at) {
            if !std::mem::replace(&mut calm[*from as usize], true) {
                open.push(*from);
            }
        }
    }
    calm.iter().position(|calm| !calm).and_then(|at| u32::try_from(at).ok())
}

fn way<P: Copy>(ways: &[Option<(u32, P)>], mut at: u32) -> Vec<P> {
    let mut trace = Vec::new();
    while let Some((from, step)) = ways[at as usize] {
        trace.push(step);
        at = from;
    }
    trace.reverse();
    trace
}

fn hash_of(state: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}
