//! A thread with a runtime of its own, for chains of short waits.
//!
//! A transaction is such a chain, each link a wait for Postgres. Among the requests each of its steps would queue behind
//! whatever they do just then, while the rows that it has locked, and whoever waits for its end, wait longer.

use std::sync::mpsc::sync_channel;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The thread; dropped, it ends, with all that runs on it.
#[derive(Debug)]
pub struct Thread {
    handle: Handle,
    _ends: DropGuard,
}

impl Thread {
    /// Starts one of this name. Where the system gives no thread, the present runtime has to do.
    ///
    /// # Panics
    /// There is neither.
    #[must_use]
    pub fn start(name: &str) -> Self {
        let token = CancellationToken::new();
        let ended = token.clone();
        let (made, handle) = sync_channel(1);
        let run = move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            made.send(runtime.as_ref().map(|runtime| runtime.handle().clone()).ok())
                .ok();
            if let Ok(runtime) = runtime {
                runtime.block_on(ended.cancelled());
            }
        };
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        let handle = started.ok().and_then(|_| handle.recv().ok().flatten());
        let handle = handle.unwrap_or_else(|| {
            tracing::warn!(
                thread = name,
                "there is no thread of its own for it: it runs among the requests"
            );
            Handle::current()
        });
        Thread {
            handle,
            _ends: token.drop_guard(),
        }
    }

    /// What runs here.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}
