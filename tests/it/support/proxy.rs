//! A proxy before Redis that looks into what is asked: it plays tricks on chosen requests, and counts them.
//!
//! What troubles whole connections, whatever they carry, is the drill's [`Wire`](flashgate::drill::wire::Wire).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::door::until;

/// Room for the largest call.
const CHUNK: usize = 256 * 1024;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trick {
    /// The connection breaks before it reaches Redis.
    CutBefore,
    /// Redis serves it, then the connection breaks.
    CutAfter,
    /// Redis serves it, and nothing comes over this connection any more.
    Mute,
    /// Its answer takes this long.
    Slow(Duration),
    /// Redis serves it, and the answer before comes once more in the place of its own.
    Again,
}

/// The proxy. It ends with its runtime.
#[derive(Clone)]
pub(crate) struct Proxy {
    url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    tricks: VecDeque<(String, Trick)>,
    requests: Vec<Vec<u8>>,
    replaced: Option<(String, String)>,
}

impl Proxy {
    /// A proxy before the Redis at `url`, `redis://<host>:<port>/<database>`.
    pub(crate) async fn before(url: &str) -> Proxy {
        let rest = url.strip_prefix("redis://").expect("a plain address");
        let (address, database) = rest.split_once('/').unwrap_or((rest, "0"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = listener.local_addr().expect("it is bound");
        let proxy = Proxy {
            url: format!("redis://{own}/{database}"),
            state: Arc::default(),
        };
        let (state, address) = (Arc::clone(&proxy.state), address.to_owned());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let redis = TcpStream::connect(&address).await.expect("Redis listens");
                tokio::spawn(pass(client, redis, Arc::clone(&state)));
            }
        });
        proxy
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Plays this trick on the next request that holds `word`.
    pub(crate) fn play(&self, word: &str, trick: Trick) {
        self.state().tricks.push_back((word.to_owned(), trick));
    }

    /// Waits until every trick was played.
    pub(crate) async fn until_played(&self) {
        until("a chance for every trick", async || {
            self.state().tricks.is_empty().then_some(())
        })
        .await;
    }

    /// Puts `new` for `old`, which is as long, in every answer.
    pub(crate) fn replace(&self, old: &str, new: &str) {
        assert_eq!(old.len(), new.len());
        self.state().replaced = Some((old.to_owned(), new.to_owned()));
    }

    /// Requests so far that held `word`.
    pub(crate) fn count(&self, word: &str) -> usize {
        self.state()
            .requests
            .iter()
            .filter(|request| holds(request, word))
            .count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn holds(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|part| part == word.as_bytes())
}

impl State {
    /// Takes note of a request; the trick to play on it.
    fn note(&mut self, request: &[u8]) -> Option<Trick> {
        self.requests.push(request.to_vec());
        let (word, _) = self.tricks.front()?;
        if holds(request, word) {
            return self.tricks.pop_front().map(|(_, trick)| trick);
        }
        None
    }

    fn replace(&self, answer: &mut [u8]) {
        let Some((old, new)) = &self.replaced else { return };
        for at in 0..=answer.len().saturating_sub(old.len()) {
            if answer[at..].starts_with(old.as_bytes()) {
                answer[at..at + new.len()].copy_from_slice(new.as_bytes());
            }
        }
    }
}

/// Passes bytes on until one side ends, or a trick ends both.
async fn pass(mut client: TcpStream, mut redis: TcpStream, state: Arc<Mutex<State>>) {
    client.set_nodelay(true).expect("a socket takes the option");
    let (mut request, mut answer, mut before) = (vec![0; CHUNK], vec![0; CHUNK], Vec::new());
    let mut playing = None;
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let Ok(length @ 1..) = read else { return };
                let trick = lock(&state).note(&request[..length]);
                playing = trick.or(playing);
                if playing == Some(Trick::CutBefore) || redis.write_all(&request[..length]).await.is_err() {
                    return;
                }
            }
            read = redis.read(&mut answer) => {
                let Ok(length @ 1..) = read else { return };
                match playing {
                    Some(Trick::CutBefore | Trick::CutAfter) => return,
                    Some(Trick::Mute) => continue,
                    Some(Trick::Slow(late)) => {
                        playing = None;
                        tokio::time::sleep(late).await;
                    }
                    Some(Trick::Again) => {
                        playing = None;
                        if client.write_all(&before).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    None => {}
                }
                lock(&state).replace(&mut answer[..length]);
                before = answer[..length].to_vec();
                if client.write_all(&before).await.is_err() {
                    return;
                }
            }
        }
    }
}
