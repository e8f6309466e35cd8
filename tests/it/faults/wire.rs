//! A wire to a server that a test can cut and hold up.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::door::until;

/// Carries connections to a server, byte by byte, until it is told otherwise.
pub(super) struct Wire {
    /// The server, through the wire.
    pub(super) url: String,
    trouble: Trouble,
}

#[derive(Clone)]
struct Trouble {
    /// The answer to the next message with these bytes in it is swallowed, and its connection is cut.
    swallow: Arc<Mutex<Option<Vec<u8>>>>,
    /// While true, what the client says stays on the wire.
    held: watch::Sender<bool>,
}

impl Wire {
    /// A wire to the server at `url`, whose host and port are spelled out.
    pub(super) async fn start(url: &str) -> Wire {
        let from = url
            .find('@')
            .map_or_else(|| url.find("//").expect("a scheme") + 2, |at| at + 1);
        let to = url[from..].find('/').map_or(url.len(), |at| from + at);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let trouble = Trouble {
            swallow: Arc::default(),
            held: watch::Sender::new(false),
        };
        tokio::spawn({
            let (server, trouble) = (url[from..to].to_owned(), trouble.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(pass(client, server.clone(), trouble.clone()));
                }
            }
        });
        Wire {
            url: format!("{}{address}{}", &url[..from], &url[to..]),
            trouble,
        }
    }

    pub(super) fn lose_the_answer_to(&self, message_with: &str) {
        *self.trouble.swallow.lock().expect("nobody panics with it") = Some(message_with.as_bytes().to_vec());
    }

    /// Waits until it is lost.
    pub(super) async fn until_lost(&self) {
        let is_lost = || self.trouble.swallow.lock().expect("nobody panics with it").is_none();
        until("the loss", async || is_lost().then_some(())).await;
    }

    /// Keeps back what the client says, from now on.
    pub(super) fn hold(&self) {
        self.trouble.held.send_replace(true);
    }

    /// Lets it all through.
    pub(super) fn let_go(&self) {
        self.trouble.held.send_replace(false);
    }
}

/// Carries bytes both ways, until an answer gets lost.
async fn pass(mut client: TcpStream, server: String, trouble: Trouble) -> Option<()> {
    let mut server = TcpStream::connect(server).await.ok()?;
    let (mut from_client, mut from_server) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut held = trouble.held.subscribe();
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let said = &from_client[..read.ok().filter(|n| *n > 0)?];
                held.wait_for(|held| !held).await.ok()?;
                let is_it = |of: &mut Vec<u8>| said.windows(of.len()).any(|window| window == of.as_slice());
                let lost = trouble.swallow.lock().expect("nobody panics with it").take_if(is_it).is_some();
                server.write_all(said).await.ok()?;
                if lost {
                    server.readable().await.ok()?;
                    return None;
                }
            }
            read = server.read(&mut from_server) => {
                let said = &from_server[..read.ok().filter(|n| *n > 0)?];
                client.write_all(said).await.ok()?;
            }
        }
    }
}
