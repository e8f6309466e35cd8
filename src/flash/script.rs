//! The scripts, by name and SHA-1. Their texts stand in `lua/`.

use std::sync::LazyLock;

/// A script that a node may or may not have loaded.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) source: &'static str,
    pub(crate) sha: String,
}

impl Script {
    fn new(source: &'static str) -> Self {
        Script {
            source,
            sha: fred::util::sha1_hash(source),
        }
    }
}

macro_rules! script {
    ($(#[$doc:meta])* $name:ident, $($file:literal),+) => {
        $(#[$doc])*
        pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!($(include_str!(concat!("../../lua/", $file, ".lua"))),+)));
    };
}

script!(
    /// Takes units for a batch of requests.
    RESERVE,
    "record",
    "entry",
    "reserve"
);
script!(
    /// Delivers numbered grants.
    GRANT,
    "record",
    "entry",
    "grant"
);
script!(
    /// Marks what is durable, trims and tells.
    SETTLE,
    "settle"
);
script!(
    /// Begins a recovery.
    CLOSE,
    "close"
);
script!(
    /// Writes a sale of a closed lane anew.
    REBUILD,
    "rebuild"
);
script!(
    /// Ends a recovery.
    OPEN,
    "open"
);
script!(
    /// One consistent view of a lane.
    LOOK,
    "look"
);
script!(
    /// Present while the node has not lost its script cache since its lanes were recovered.
    WITNESS,
    "witness"
);

/// Every script but the witness: what recovery loads, and what a newer version loads beside a present witness.
pub(crate) fn all_but_witness() -> [&'static Script; 7] {
    [&RESERVE, &GRANT, &SETTLE, &CLOSE, &REBUILD, &OPEN, &LOOK]
}
