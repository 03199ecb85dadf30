//! A small web server that knows nothing of portkeep: it takes its port number from its argument, as
//! servers do, and binds it.
//!
//!     portkeep run -- target/release/examples/hello {tcp}

use std::io::{BufRead, BufReader, Result, Write};
use std::net::TcpListener;

fn main() -> Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(8080);
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("http://127.0.0.1:{port}/ (end with Ctrl-C)");
    for connection in listener.incoming() {
        // One bad client is no reason to stop.
        let _ = connection.and_then(|mut connection| {
            let mut request = BufReader::new(&connection).lines();
            while request.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
            let body = format!("Port {port} is mine.\n");
            let length = body.len();
            write!(connection, "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
        });
    }
    Ok(())
}
