//! Lines on a socket, of bounded length. What they say is not looked at here.

use std::io;

use tokio::net::UnixStream;

/// How much is read at once.
const CHUNK: usize = 16 << 10;

/// Reads up to the first newline, which is left out. Memory follows what has come.
///
/// # Errors
///
/// `FileTooLarge` over `limit` bytes, `UnexpectedEof` when it ends before.
pub(super) async fn read_line(stream: &UnixStream, limit: usize) -> io::Result<Vec<u8>> {
    let (mut line, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    loop {
        stream.readable().await?;
        let read = match stream.try_read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => &chunk[..read],
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
            Err(e) => return Err(e),
        };
        let end = read.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(&read[..end.unwrap_or(read.len())]);
        if line.len() > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if end.is_some() {
            return Ok(line);
        }
    }
}

pub(super) async fn write_all(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
