//! An HTTP/1.1 client with next to no cost of its own: requests are bytes, answers are a status and a body. Its caller
//! shares the cores with what it measures.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Failure;

/// Longest answer that is read: the admin listener's pages fit.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// One connection; requests on it one after the other.
pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

/// Where the answer that was just read lies.
#[derive(Clone, Copy)]
struct Answer {
    status: u16,
    body_at: usize,
    end: usize,
}

impl Connection {
    /// # Errors
    /// Nobody listens.
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            read: Vec::with_capacity(2048),
        })
    }

    /// Sends a request and waits for its answer. After an error the connection is of no use.
    ///
    /// # Errors
    /// The connection broke, or the answer is none.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, &[u8])> {
        self.stream.write_all(request).await?;
        self.read.clear();
        loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(answer) = whole(&self.read)? {
                return Ok((answer.status, &self.read[answer.body_at..answer.end]));
            }
        }
    }
}

/// The answer, once it is whole.
fn whole(read: &[u8]) -> io::Result<Option<Answer>> {
    let Some(head) = read.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "not an answer with a Content-Length");
    let text = std::str::from_utf8(&read[..head]).map_err(|_| broken())?;
    let status = text
        .get(9..12)
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(broken)?;
    let length = text
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .filter(|length| *length <= ANSWER_BYTES_MAX)
        .ok_or_else(broken)?;
    let body_at = head + 4;
    let end = body_at + length;
    Ok((read.len() >= end).then_some(Answer { status, body_at, end }))
}

/// A request as it goes over the wire.
pub(crate) fn request(method: &str, path: &str, more: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{more}Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// One call, for its JSON; none where the answer has no body.
///
/// # Errors
/// It failed, or was refused.
pub(crate) async fn call(address: SocketAddr, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let mut connection = Connection::open(address).await?;
    let (status, answer) = connection.exchange(&request(method, path, "", &text)).await?;
    if !(200..300).contains(&status) {
        return Err(format!("{method} {path}: {status} {}", String::from_utf8_lossy(answer)).into());
    }
    Ok(serde_json::from_slice(answer)?)
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn an_answer_is_read_when_it_is_whole() {
        let text = b"HTTP/1.1 201 Created\r\nContent-length: 2\r\n\r\n{}";
        for part in 0..text.len() {
            assert!(whole(&text[..part]).expect("so far so good").is_none(), "{part}");
        }
        let answer = whole(text).expect("an answer").expect("whole");
        assert_eq!((answer.status, &text[answer.body_at..answer.end]), (201, &b"{}"[..]));
        assert!(
            whole(b"HTTP/1.1 200 OK\r\n\r\n").is_err(),
            "without a length it can't be told where it ends"
        );
    }
}
