//! An address that moves from one server to another, as a virtual address does at a failover.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Carries connections to wherever it points.
pub(crate) struct Switch {
    /// `<host>:<port>`, the same wherever it points.
    pub(crate) address: String,
    to: Arc<Mutex<Target>>,
}

struct Target {
    address: String,
    /// Ends the connections that are carried there.
    until: CancellationToken,
}

impl Target {
    fn at(address: &str) -> Target {
        Target {
            address: address.to_owned(),
            until: CancellationToken::new(),
        }
    }
}

impl Switch {
    /// One that points to this address.
    pub(crate) async fn start(address: &str) -> Switch {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let to = Arc::new(Mutex::new(Target::at(address)));
        let switch = Switch {
            address: listener.local_addr().expect("it is bound").to_string(),
            to: Arc::clone(&to),
        };
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (address, until) = {
                    let target = to.lock().unwrap_or_else(PoisonError::into_inner);
                    (target.address.clone(), target.until.clone())
                };
                tokio::spawn(until.run_until_cancelled_owned(async move {
                    if let Ok(mut server) = TcpStream::connect(address).await {
                        // Either side may end it at any time.
                        copy_bidirectional(&mut client, &mut server).await.ok();
                    }
                }));
            }
        });
        switch
    }

    /// Cuts all connections and points elsewhere from here on.
    pub(crate) fn turn(&self, address: &str) {
        let mut target = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *target, Target::at(address));
        before.until.cancel();
    }
}
