//! Web sites of customers: small pages on every address of the loopback interface, each of which is a site of its own.
//!
//! Every request is written down with the time of its arrival, on the clock that browsers use for
//! `performance.timeOrigin + performance.now()`.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a browser asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Milliseconds since the Unix epoch.
    pub at: f64,
    /// The path and the query.
    pub path: String,
    /// The header `Host`.
    pub host: String,
}

/// What it is answered.
#[derive(Clone, Debug)]
pub struct Page {
    status: &'static str,
    headers: Vec<(String, String)>,
    body: String,
    delay: Duration,
}

impl Page {
    /// A page.
    pub fn html(body: &str) -> Self {
        Self::of_type("text/html; charset=utf-8", body)
    }

    /// Anything else.
    pub fn of_type(content_type: &str, body: &str) -> Self {
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Self { status: "200 OK", headers, body: body.to_owned(), delay: Duration::ZERO }
    }

    /// Nothing is there.
    pub fn not_found() -> Self {
        Self { status: "404 Not Found", ..Self::html("nothing is here") }
    }

    /// With this header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With one text for another in its body.
    pub fn replacing(mut self, this: &str, that: &str) -> Self {
        self.body = self.body.replace(this, that);
        self
    }

    /// That takes so long to be made.
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// A server of pages. Its threads end with the test's process.
pub struct Site {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Site {
    /// Starts one, on any free port.
    pub fn start(serve: impl Fn(&Request) -> Page + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (seen, serve) = (Arc::clone(&requests), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, serve) = (Arc::clone(&seen), Arc::clone(&serve));
                // a browser that goes away in the middle is no failure
                thread::spawn(move || answer_all(&stream, &seen, &*serve).unwrap_or_default());
            }
        });
        Self { port, requests }
    }

    /// The address of a page on a host.
    pub fn url(&self, host: Ipv4Addr, path: &str) -> String {
        format!("http://{host}:{}{path}", self.port)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no thread panics while it holds this").clone()
    }
}

fn answer_all(stream: &TcpStream, seen: &Mutex<Vec<Request>>, serve: &dyn Fn(&Request) -> Page) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(first) = lines.next().transpose()? {
        // the clock that the browsers' own is
        #[expect(clippy::disallowed_methods, reason = "browsers' times are compared with it")]
        let at = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64() * 1e3;
        let mut host = String::new();
        while let Some(header) = lines.next().transpose()?.filter(|header| !header.is_empty()) {
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("host:") {
                host = value.trim().to_owned();
            }
        }
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let request = Request { at, path, host };
        seen.lock().expect("no thread panics while it holds this").push(request.clone());
        let page = serve(&request);
        // this is what the page takes, not a wait for anything
        thread::sleep(page.delay);
        let headers: String = page.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = page.body.len();
        let head = format!("HTTP/1.1 {}\r\n{headers}Content-Length: {length}\r\n\r\n", page.status);
        let body = if first.starts_with("HEAD ") { "" } else { &page.body };
        (&mut &*stream).write_all(format!("{head}{body}").as_bytes())?;
    }
    Ok(())
}
