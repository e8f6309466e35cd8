//! Which node of a cluster serves which slots, as one of its nodes tells it.

use fred::types::Value;
use fred::types::config::Server;

use super::error::FlashError;
use super::reply::{array, broken, count, text};

/// What a node knows of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotMap {
    /// How much its word counts, by order: whether it finds the cluster in working order, then the newest of the
    /// cluster's own epochs that it has heard of. A node that is cut off from the others has neither.
    pub(crate) standing: (bool, u64),
    ranges: Vec<Range>,
    replicas: Vec<Server>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    first: u16,
    last: u16,
    owner: Server,
    owner_id: String,
}

impl SlotMap {
    /// Reads the answers to `CLUSTER SLOTS` and `CLUSTER INFO` of the node at `asked`.
    pub(crate) fn parse(slots: Value, info: &str, asked: &Server) -> Result<Self, FlashError> {
        let told = |name: &str| info.lines().find_map(|line| line.trim().strip_prefix(name));
        let epoch = told("cluster_current_epoch:").and_then(|epoch| epoch.parse().ok());
        let mut map = SlotMap {
            standing: (told("cluster_state:") == Some("ok"), epoch.unwrap_or(0)),
            ..SlotMap::default()
        };
        for range in array(slots, "slots")? {
            let mut parts = array(range, "slots")?.into_iter();
            let (Some(first), Some(last), Some(owner)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(FlashError::Broken("slots".into()));
            };
            let slot = |value: &Value| u16::try_from(count(value)?).map_err(|_| broken("a slot", value));
            let (owner, owner_id) = node(owner, asked)?;
            map.ranges.push(Range {
                first: slot(&first)?,
                last: slot(&last)?,
                owner,
                owner_id,
            });
            for replica in parts {
                map.replicas.push(node(replica, asked)?.0);
            }
        }
        Ok(map)
    }

    /// Who serves the slot; nobody where that is not known.
    pub(crate) fn owner(&self, slot: u16) -> Option<&Server> {
        self.range(slot).map(|range| &range.owner)
    }

    /// Whether the node of this id serves the slot.
    pub(crate) fn is_owner(&self, slot: u16, id: &str) -> bool {
        self.range(slot).is_some_and(|range| range.owner_id == id)
    }

    /// Whether the node serves any slot.
    pub(crate) fn owns(&self, server: &Server) -> bool {
        self.ranges.iter().any(|range| range.owner == *server)
    }

    /// Every node that it tells of, primaries and replicas.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &Server> {
        self.ranges.iter().map(|range| &range.owner).chain(&self.replicas)
    }

    fn range(&self, slot: u16) -> Option<&Range> {
        self.ranges
            .iter()
            .find(|range| (range.first..=range.last).contains(&slot))
    }
}

/// Address and id of a node. One that does not know its own host is where it was asked.
fn node(value: Value, asked: &Server) -> Result<(Server, String), FlashError> {
    let parts = array(value, "a node")?;
    let [host, port, rest @ ..] = parts.as_slice() else {
        return Err(FlashError::Broken("a node".into()));
    };
    let host = match text(host) {
        told if told.is_empty() || told == "?" => asked.host.to_string(),
        told => told,
    };
    let port = u16::try_from(count(port)?).map_err(|_| broken("a port", port))?;
    Ok((Server::new(host, port), rest.first().map(text).unwrap_or_default()))
}

/// Where a node says that the slot is served now, if that is what its error says.
pub(crate) fn moved_to(error: &fred::error::Error, asked: &Server) -> Option<Server> {
    let (host, port) = error
        .details()
        .strip_prefix("MOVED ")?
        .split_whitespace()
        .nth(1)?
        .rsplit_once(':')?;
    let host = if host.is_empty() {
        asked.host.to_string()
    } else {
        host.to_owned()
    };
    Some(Server::new(host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use fred::error::{Error, ErrorKind};

    use super::*;

    fn of(first: i64, last: i64, host: &str, port: i64) -> Value {
        let node = |host: &str, port: i64, id: &str| Value::Array(vec![host.into(), port.into(), id.into()]);
        Value::Array(vec![
            first.into(),
            last.into(),
            node(host, port, "own"),
            node("replica", port + 1, "other"),
        ])
    }

    #[test]
    fn the_owner_of_a_slot_is_found() {
        let asked = Server::new("asked", 1);
        let slots = Value::Array(vec![
            of(0, 9, "a", 7_000),
            of(10, 20, "", 7_002),
            of(30, 30, "a", 7_000),
        ]);
        let info = "cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_current_epoch:6\r\n";
        let map = SlotMap::parse(slots, info, &asked).expect("it can be read");
        assert_eq!(map.standing, (true, 6));
        let owner = |slot| map.owner(slot).map(ToString::to_string);
        assert_eq!(owner(9).as_deref(), Some("a:7000"));
        assert_eq!(
            owner(10).as_deref(),
            Some("asked:7002"),
            "a node without a host is where it was asked"
        );
        assert_eq!(owner(21), None);
        assert!(map.is_owner(30, "own") && !map.is_owner(30, "other") && !map.is_owner(29, "own"));
        assert!(map.owns(&Server::new("a", 7_000)) && !map.owns(&Server::new("replica", 7_001)));
        assert_eq!(map.servers().count(), 6);
    }

    #[test]
    fn a_node_that_is_cut_off_counts_less() {
        let told = |info: &str| SlotMap::parse(Value::Array(vec![]), info, &Server::new("a", 1)).expect("it reads");
        let cut_off = told("cluster_state:fail\r\ncluster_current_epoch:9\r\n");
        let (older, newer) = (
            told("cluster_state:ok\r\ncluster_current_epoch:7\r\n"),
            told("cluster_state:ok\r\ncluster_current_epoch:8\r\n"),
        );
        assert!(cut_off.standing < older.standing && older.standing < newer.standing);
    }

    #[test]
    fn a_moved_slot_names_its_new_place() {
        let asked = Server::new("asked", 1);
        let to = |details: &'static str| moved_to(&Error::new(ErrorKind::Cluster, details), &asked);
        assert_eq!(to("MOVED 3999 10.0.0.7:6381"), Some(Server::new("10.0.0.7", 6_381)));
        assert_eq!(to("MOVED 3999 :6381"), Some(Server::new("asked", 6_381)));
        assert_eq!(to("MOVED 3999 ::1:6381"), Some(Server::new("::1", 6_381)));
        assert_eq!(to("ASK 3999 10.0.0.7:6381"), None, "it is not there yet");
        assert_eq!(to("CLUSTERDOWN The cluster is down"), None);
    }
}
