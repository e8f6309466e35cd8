//! A wire between a gateway and a server: carries bytes, until it is told to trouble them.
//!
//! What the client says always reaches the server, unless the wire is held or silent; what the server answers may come
//! late, in pieces, or not at all. Which answers are lost follows from a seed.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Room for what one read finds.
const CHUNK: usize = 64 * 1024;
/// How long Postgres keeps a session whose client does not answer its keep-alives.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(25);

/// What happens on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    Calm,
    /// Nothing passes, either way.
    Held,
    /// Every answer takes so much longer.
    Late(Duration),
    /// Answers come in pieces of so many bytes.
    Split(usize),
    /// One answer in so many is swallowed, and its connection breaks.
    Lossy(u32),
}

/// Carries connections to a server. Dropping the last clone ends it, with every connection.
#[derive(Clone, Debug)]
pub struct Wire {
    address: SocketAddr,
    inner: Arc<Inner>,
    _end: Arc<DropGuard>,
}

#[derive(Debug)]
struct Inner {
    /// None: nobody is there.
    server: Mutex<Option<SocketAddr>>,
    trouble: watch::Sender<Trouble>,
    /// Counts the cuts: connections from before one are gone.
    cuts: watch::Sender<u64>,
    /// Counts the silences: connections from before one carry nothing, and nobody is told.
    silences: watch::Sender<u64>,
    chance: Mutex<StdRng>,
}

impl Wire {
    /// A wire to the server that listens there.
    ///
    /// # Errors
    /// No port is free.
    pub async fn to(server: SocketAddr, seed: u64) -> io::Result<Wire> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let end = CancellationToken::new();
        let wire = Wire {
            address: listener.local_addr()?,
            inner: Arc::new(Inner {
                server: Mutex::new(Some(server)),
                trouble: watch::Sender::new(Trouble::Calm),
                cuts: watch::Sender::new(0),
                silences: watch::Sender::new(0),
                chance: Mutex::new(StdRng::seed_from_u64(seed)),
            }),
            _end: Arc::new(end.clone().drop_guard()),
        };
        let inner = Arc::clone(&wire.inner);
        tokio::spawn(async move {
            while let Some(accepted) = end.run_until_cancelled(listener.accept()).await {
                match accepted {
                    Ok((client, _)) => {
                        let (inner, end) = (Arc::clone(&inner), end.clone());
                        tokio::spawn(async move { end.run_until_cancelled(pass(client, inner)).await });
                    }
                    // It fails for this one connection, or while there are no files left.
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        });
        Ok(wire)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets this happen from now on.
    pub fn trouble(&self, trouble: Trouble) {
        self.inner.trouble.send_replace(trouble);
    }

    /// Breaks every connection; what was held is gone.
    pub fn cut(&self) {
        self.inner.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Carries nothing more on any connection of now, and does not end it: as if an address had moved to another host, or
    /// a NAT had forgotten. New connections work.
    pub fn silence(&self) {
        self.inner.silences.send_modify(|silences| *silences += 1);
    }

    /// Leads to another server from now on; connections to the old one break.
    pub fn lead_to(&self, server: SocketAddr) {
        self.lead(Some(server));
    }

    /// Leads to nobody: a server's port may be another's as soon as it is gone.
    pub fn lead_nowhere(&self) {
        self.lead(None);
    }

    fn lead(&self, server: Option<SocketAddr>) {
        *self.inner.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
        self.cut();
    }
}

/// Carries one connection until either side ends it, it is cut, or an answer gets lost; or falls silent.
async fn pass(client: TcpStream, inner: Arc<Inner>) {
    let (mut cuts, mut silences) = (inner.cuts.subscribe(), inner.silences.subscribe());
    let Some(server) = *inner.server.lock().unwrap_or_else(PoisonError::into_inner) else {
        return;
    };
    let connected = tokio::select! {
        connected = TcpStream::connect(server) => connected,
        _ = cuts.changed() => return,
    };
    let Ok(server) = connected else { return };
    // Without it only the timing differs.
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // They have both ends, and keep them while nobody goes on with them.
    let mut asking = Box::pin(ask(from_client, to_server, &inner));
    let mut answering = Box::pin(answer(from_server, to_client, &inner));
    tokio::select! {
        _ = &mut asking => return,
        _ = &mut answering => return,
        _ = cuts.changed() => return,
        _ = silences.changed() => {}
    }
    tokio::select! {
        _ = cuts.changed() => return,
        () = sleep(FORGOTTEN_AFTER) => {}
    }
    // To the server that is the end; the client is told nothing.
    drop(asking);
    cuts.changed().await.ok();
}

async fn ask(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, inner: &Inner) -> io::Result<()> {
    let mut trouble = inner.trouble.subscribe();
    let mut said = vec![0; CHUNK];
    loop {
        let length = from.read(&mut said).await?;
        until_let_go(&mut trouble).await;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&said[..length]).await?;
    }
}

async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, inner: &Inner) -> io::Result<()> {
    let mut trouble = inner.trouble.subscribe();
    let mut said = vec![0; CHUNK];
    loop {
        let length = from.read(&mut said).await?;
        until_let_go(&mut trouble).await;
        if length == 0 {
            return Ok(());
        }
        let now = *trouble.borrow_and_update();
        match now {
            Trouble::Calm | Trouble::Held => to.write_all(&said[..length]).await?,
            Trouble::Late(by) => {
                sleep(by).await;
                to.write_all(&said[..length]).await?;
            }
            Trouble::Split(size) => {
                for piece in said[..length].chunks(size.max(1)) {
                    to.write_all(piece).await?;
                    tokio::task::yield_now().await;
                }
            }
            Trouble::Lossy(one_in) => {
                let is_lost = {
                    let mut chance = inner.chance.lock().unwrap_or_else(PoisonError::into_inner);
                    chance.random_ratio(1, one_in.max(1))
                };
                if is_lost {
                    return Ok(());
                }
                to.write_all(&said[..length]).await?;
            }
        }
    }
}

async fn until_let_go(trouble: &mut watch::Receiver<Trouble>) {
    // It ends with the wire, and then there is nothing to hold.
    trouble.wait_for(|trouble| *trouble != Trouble::Held).await.ok();
}
