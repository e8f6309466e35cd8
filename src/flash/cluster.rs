//! A cluster: which of its nodes serves a lane, and a connection to each of those nodes.
//!
//! Every node has a client of its own, so that one that dies or hangs holds up nobody's commands but its own. What is
//! known of the slots is only a guess that saves a round trip: a node serves nothing that is not its own, so a wrong
//! guess ends in an error. It is looked at once a second, at once where a node says that a slot has moved, and many
//! times a second while a node is away.
//!
//! A command that is sent elsewhere (`MOVED`) was not carried out, and is sent to where the slot is now. While a slot is
//! on its way between two nodes (`ASK`, `TRYAGAIN`) its lane is away.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use fred::types::Value;
use fred::types::config::{Config, Server, ServerConfig};
use futures::future::join_all;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::error::FlashError;
use super::node::{Call, Node};
use super::reply::text;
use super::slots::{SlotMap, moved_to};

/// How often the slots are looked at when nothing seems wrong …
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// … and while a node is away, which another may replace at any moment.
const LOOK_EVERY_AWAY: Duration = Duration::from_millis(100);
/// Between two looks there is at least this.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for a node's word.
const LOOK_WITHIN: Duration = Duration::from_millis(500);
/// Longest wait for the word of a node that there is no connection to.
const STRANGER_WITHIN: Duration = Duration::from_secs(3);
/// How often a command follows a slot that moves.
const MOVES_MAX: usize = 3;
/// Longest wait for a connection to where a slot has moved.
const MOVED_WITHIN: Duration = Duration::from_millis(500);

/// A cluster; ends with its last owner.
#[derive(Debug)]
pub(crate) struct Cluster {
    shared: Arc<Shared>,
    _looking: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// How to reach any node, but for its address.
    config: Config,
    seeds: Vec<Server>,
    /// The slots that matter here: there is a connection to each node that serves one.
    slots: Vec<u16>,
    command_timeout: Duration,
    known: RwLock<Known>,
    wrong: Notify,
    /// The nodes in use.
    used: watch::Sender<BTreeSet<Server>>,
}

#[derive(Debug, Default)]
struct Known {
    slots: SlotMap,
    /// What nodes have said of single slots since.
    moved: HashMap<u16, Server>,
    nodes: HashMap<Server, Node>,
}

impl Cluster {
    /// Looks in the background for the nodes that serve `keys`, by way of these nodes.
    pub(crate) fn start(seeds: Vec<Server>, config: Config, keys: &[String], command_timeout: Duration) -> Self {
        let shared = Arc::new(Shared {
            config,
            seeds,
            slots: keys.iter().map(|key| slot_of(key)).collect(),
            command_timeout,
            known: RwLock::default(),
            wrong: Notify::new(),
            used: watch::Sender::default(),
        });
        let looking = tokio::spawn(look_on(Arc::clone(&shared)));
        Cluster {
            shared,
            _looking: AbortOnDropHandle::new(looking),
        }
    }

    /// The node that serves `key`, as far as is known.
    pub(crate) fn node(&self, key: &str) -> Result<Node, FlashError> {
        self.shared.node(slot_of(key))
    }

    /// Sends a command to wherever `key` is served.
    pub(crate) async fn send(&self, key: &str, call: Call) -> Result<Value, FlashError> {
        for _ in 0..MOVES_MAX {
            let node = self.node(key)?;
            match node.send(call.clone()).await {
                Err(error) if self.has_moved(key, &node, &error) => {
                    self.node(key)?.connected(MOVED_WITHIN).await?;
                }
                answer => return Ok(answer?),
            }
        }
        Err(FlashError::Unavailable(
            "its slot is said to be elsewhere, wherever it is asked for".into(),
        ))
    }

    /// Takes note where this node's error says that `key` is served elsewhere; whether it does.
    pub(crate) fn has_moved(&self, key: &str, node: &Node, error: &fred::error::Error) -> bool {
        let to = node.server().and_then(|asked| moved_to(error, &asked));
        let has = to.is_some();
        if let Some(to) = to {
            self.shared.write(|known| known.moved.insert(slot_of(key), to));
            self.look_again();
        }
        has
    }

    /// Has the slots looked at now.
    pub(crate) fn look_again(&self) {
        self.shared.wrong.notify_one();
    }

    /// The nodes in use, now and whenever they change.
    pub(crate) fn used(&self) -> watch::Receiver<BTreeSet<Server>> {
        self.shared.used.subscribe()
    }

    /// How to reach a node.
    pub(crate) fn config_of(&self, server: &Server) -> Config {
        self.shared.config_of(server)
    }

    pub(crate) async fn quit(&self) {
        let nodes: Vec<Node> = self.shared.read(|known| known.nodes.values().cloned().collect());
        join_all(nodes.iter().map(Node::quit)).await;
    }
}

/// Which of these keys the node serves, by its own word.
pub(crate) async fn serves(node: &Node, keys: &[String]) -> Result<Vec<bool>, FlashError> {
    let map = slots_of(node).await?;
    let id = text(&node.send(Call::new("CLUSTER", vec!["MYID".into()])).await?);
    Ok(keys.iter().map(|key| map.is_owner(slot_of(key), &id)).collect())
}

fn slot_of(key: &str) -> u16 {
    fred::util::redis_keyslot(key.as_bytes())
}

async fn slots_of(node: &Node) -> Result<SlotMap, FlashError> {
    let asked = node
        .server()
        .ok_or_else(|| FlashError::Broken("a node without an address".into()))?;
    let slots = node.send(Call::new("CLUSTER", vec!["SLOTS".into()])).await?;
    let info = node.send(Call::new("CLUSTER", vec!["INFO".into()])).await?;
    SlotMap::parse(slots, &text(&info), &asked)
}

/// Keeps looking at the slots.
async fn look_on(shared: Arc<Shared>) {
    loop {
        shared.look().await;
        let away = shared.read(|known| known.nodes.is_empty() || !known.nodes.values().all(Node::is_connected));
        tokio::time::sleep(LOOK_PAUSE).await;
        let pause = if away { LOOK_EVERY_AWAY } else { LOOK_EVERY };
        // Either way it is looked at again.
        tokio::time::timeout(pause, shared.wrong.notified()).await.ok();
    }
}

impl Shared {
    fn read<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn config_of(&self, server: &Server) -> Config {
        Config {
            server: ServerConfig::Centralized { server: server.clone() },
            ..self.config.clone()
        }
    }

    fn node(&self, slot: u16) -> Result<Node, FlashError> {
        let unknown = || FlashError::Unavailable("nobody is known to serve the slot".into());
        let server = self.read(|known| {
            let server = known.owner(slot)?;
            Some(known.nodes.get(server).cloned().ok_or_else(|| server.clone()))
        });
        let server = match server.ok_or_else(unknown)? {
            Ok(node) => return Ok(node),
            Err(server) => server,
        };
        let node = self.write(|known| {
            let connect = || Node::connect(self.config_of(&server), self.command_timeout);
            known.nodes.entry(server.clone()).or_insert_with(connect).clone()
        });
        self.used.send_if_modified(|used| used.insert(server));
        Ok(node)
    }

    /// Asks all nodes in use who serves what, and takes the word of the one that knows most. Where none of them does
    /// well, every other that was ever heard of is asked.
    async fn look(&self) {
        let nodes: Vec<Node> = self.read(|known| {
            let connected = known.nodes.values().filter(|node| node.is_connected());
            connected.cloned().collect()
        });
        let asked = nodes
            .iter()
            .map(|node| async move { tokio::time::timeout(LOOK_WITHIN, slots_of(node)).await.ok()?.ok() });
        let mut best = join_all(asked)
            .await
            .into_iter()
            .flatten()
            .max_by_key(|map| map.standing);
        if best.as_ref().is_none_or(|map| !map.standing.0) {
            let strangers = self.strangers(&nodes);
            let told = join_all(strangers.iter().map(|server| self.ask_stranger(server))).await;
            best = best
                .into_iter()
                .chain(told.into_iter().flatten())
                .max_by_key(|map| map.standing);
        }
        let Some(slots) = best else { return };
        let used = self.write(|known| {
            known.nodes.retain(|server, _| slots.owns(server));
            known.slots = slots;
            known.moved.clear();
            known.nodes.keys().cloned().collect::<BTreeSet<Server>>()
        });
        self.used.send_if_modified(|before| {
            let other = *before != used;
            *before = used;
            other
        });
        for slot in &self.slots {
            // A slot that nobody serves has no node to connect to.
            self.node(*slot).ok();
        }
    }

    fn strangers(&self, asked: &[Node]) -> BTreeSet<Server> {
        let mut all: BTreeSet<Server> = self.read(|known| known.slots.servers().cloned().collect());
        all.extend(self.seeds.iter().cloned());
        all.retain(|server| !asked.iter().any(|node| node.server().as_ref() == Some(server)));
        all
    }

    async fn ask_stranger(&self, server: &Server) -> Option<SlotMap> {
        let ask = async {
            let node = Node::once(self.config_of(server), self.command_timeout).await?;
            let map = slots_of(&node).await;
            node.quit().await;
            map
        };
        match tokio::time::timeout(STRANGER_WITHIN, ask).await {
            Ok(Ok(map)) => Some(map),
            Ok(Err(error)) => {
                tracing::debug!(%server, %error, "a node of the cluster can't be asked");
                None
            }
            Err(_) => None,
        }
    }
}

impl Known {
    fn owner(&self, slot: u16) -> Option<&Server> {
        self.moved.get(&slot).or_else(|| self.slots.owner(slot))
    }
}
