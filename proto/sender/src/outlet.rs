//! Lines of events become datagrams.
//!
//! The rule kept here: whatever becomes of a datagram, its number is used up, so that the collector finds a hole where
//! something is missing. Only what is known not to have left, because it was too large, is cut smaller and
//! tried again.

use std::io;
use std::net::ToSocketAddrs;

use tallylight_proto::beacon::MAX_EVENTS;
use tallylight_proto::keys::Key;

use crate::link::{Link, Sending};
use crate::source::Source;

/// A way to a collector: a socket, and the numbers of what goes there.
#[derive(Debug)]
pub struct Outlet {
    link: Link,
    /// None: plain.
    source: Option<Source>,
    counts: Counts,
    /// Why the last datagram that was not sent was not.
    error: Option<io::Error>,
}

/// What went through an outlet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events in datagrams that the kernel took.
    pub events: u64,
    /// Datagrams that the kernel took, heartbeats apart.
    pub datagrams: u64,
    /// Their bytes, headers of IP and UDP apart.
    pub bytes: u64,
    /// Events that never left.
    pub not_sent: u64,
    /// How often the other side said that nobody listened there.
    pub refused: u64,
}

impl Outlet {
    /// For framed datagrams: a new source. They are tagged if there is a key. `most` bounds their size beside
    /// what the path takes whole.
    ///
    /// # Errors
    /// If there is no such address, no route or no random number.
    pub fn framed(addr: impl ToSocketAddrs, key: Option<Key>, most: Option<usize>) -> io::Result<Self> {
        Ok(Self::new(Link::connect(addr, most)?, Some(Source::draw(key)?)))
    }

    /// For plain datagrams: what is lost is lost without a word.
    ///
    /// # Errors
    /// If there is no such address, or no route.
    pub fn plain(addr: impl ToSocketAddrs, most: Option<usize>) -> io::Result<Self> {
        Ok(Self::new(Link::connect(addr, most)?, None))
    }

    fn new(link: Link, source: Option<Source>) -> Self {
        Self { link, source, counts: Counts::default(), error: None }
    }

    /// From now on, a socket that takes nothing loses what is sent, instead of waiting.
    ///
    /// # Errors
    /// If the system says no.
    pub fn never_wait(&self) -> io::Result<()> {
        self.link.never_wait()
    }

    /// The most bytes that one datagram has for lines. May become less, never more.
    pub fn most_body(&self) -> usize {
        self.link.most() - self.overhead()
    }

    fn overhead(&self) -> usize {
        self.source.as_ref().map_or(0, Source::overhead)
    }

    /// What went through so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Why the last datagram that was not sent was not, if that was since this was last asked.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// Sends lines, separated by line feeds, in as few datagrams as may be. None of them may be empty.
    pub fn deliver(&mut self, lines: &[u8]) {
        let mut rest = lines;
        while !rest.is_empty() {
            let most = self.most_body();
            let (body, events, behind) = cut(rest, most);
            let sending = if body.len() > most {
                Sending::Not(io::Error::from(rustix::io::Errno::MSGSIZE))
            } else {
                match &mut self.source {
                    Some(source) => self.link.send(source.datagram(body)),
                    None => self.link.send(body),
                }
            };
            match sending {
                Sending::TooLarge => continue,
                Sending::Sent { after_refusal } => {
                    self.counts.events += events;
                    self.counts.datagrams += 1;
                    self.counts.bytes += (body.len() + self.overhead()) as u64;
                    self.counts.refused += u64::from(after_refusal);
                }
                Sending::Not(error) => {
                    self.counts.not_sent += events;
                    self.error = Some(error);
                }
            }
            self.use_up(1);
            rest = behind;
        }
    }

    /// So many events, of so many bytes in all, are not even tried. As many numbers are used up as they had needed.
    pub fn give_up(&mut self, events: u64, bytes: u64) {
        self.counts.not_sent += events;
        self.use_up(events.div_ceil(MAX_EVENTS as u64).max(bytes.div_ceil(self.most_body() as u64)));
    }

    /// Says that everything before the next number was sent. Nothing if datagrams have no numbers.
    pub fn heartbeat(&mut self) {
        let Some(source) = &mut self.source else { return };
        match self.link.send(source.datagram(&[])) {
            Sending::Sent { after_refusal } => self.counts.refused += u64::from(after_refusal),
            Sending::TooLarge => {}
            Sending::Not(error) => self.error = Some(error),
        }
    }

    /// Looks once more whether the other side refused what was sent last.
    pub fn look_for_refusal(&mut self) {
        self.counts.refused += u64::from(self.link.is_refused());
    }

    fn use_up(&mut self, numbers: u64) {
        if let Some(source) = &mut self.source {
            source.use_up(numbers);
        }
    }
}

/// The lines of the next datagram, how many they are, and what comes behind them. One line at least, however long.
fn cut(lines: &[u8], most: usize) -> (&[u8], u64, &[u8]) {
    let (mut end, mut events) = (0, 0);
    for line in lines.split(|byte| *byte == b'\n') {
        let with_it = if events == 0 { line.len() } else { end + 1 + line.len() };
        if events > 0 && (with_it > most || events == MAX_EVENTS as u64) {
            break;
        }
        (end, events) = (with_it, events + 1);
    }
    (&lines[..end], events, lines.get(end + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use tallylight_proto::datagram::{Datagram, HEADER_LEN};

    fn outlet(most: Option<usize>) -> (UdpSocket, Outlet) {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        let outlet = Outlet::framed(receiver.local_addr().unwrap(), None, most).unwrap();
        (receiver, outlet)
    }

    /// Number and body of the next datagram.
    fn next(receiver: &UdpSocket) -> (u64, String) {
        let mut buffer = vec![0; 70_000];
        let len = receiver.recv(&mut buffer).unwrap();
        match Datagram::parse(&buffer[..len]) {
            Ok(Datagram::Framed(frame)) => (frame.number.sequence, String::from_utf8(frame.body.to_vec()).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_are_cut_where_a_datagram_or_its_events_end() {
        let cut = |lines: &'static str, most| {
            let (body, events, rest) = cut(lines.as_bytes(), most);
            (str::from_utf8(body).unwrap(), events, str::from_utf8(rest).unwrap())
        };
        assert_eq!(cut("a=1\nb=2\nc=3", 100), ("a=1\nb=2\nc=3", 3, ""));
        assert_eq!(cut("a=1\nb=2\nc=3", 7), ("a=1\nb=2", 2, "c=3"));
        assert_eq!(cut("a=1\nb=2\nc=3", 6), ("a=1", 1, "b=2\nc=3"));
        assert_eq!(cut("long=1\nb=2", 3), ("long=1", 1, "b=2"));
        let many = vec![b"a=1".as_slice(); MAX_EVENTS + 1].join(&b'\n');
        let (body, events, rest) = super::cut(&many, 1 << 20);
        assert_eq!((body.len(), events, rest), (4 * MAX_EVENTS - 1, 1000, b"a=1".as_slice()));
    }

    #[test]
    fn numbers_go_up_by_one_and_a_heartbeat_uses_none_up() {
        let (receiver, mut outlet) = outlet(None);
        outlet.deliver(b"a=1\nb=2");
        outlet.heartbeat();
        outlet.deliver(b"c=3");
        let expected = [(1, "a=1\nb=2"), (2, ""), (2, "c=3")];
        for (number, body) in expected {
            assert_eq!(next(&receiver), (number, body.to_owned()));
        }
        let counts = Counts { events: 3, datagrams: 2, bytes: 2 * 24 + 10, ..Counts::default() };
        assert_eq!(outlet.counts(), counts);
    }

    #[test]
    fn what_is_not_sent_uses_its_number_up() {
        let (receiver, mut outlet) = outlet(Some(512));
        outlet.deliver(&[b'a'; 600]);
        assert_eq!(outlet.take_error().and_then(|error| error.raw_os_error()), Some(90));
        outlet.give_up(3, 100);
        outlet.give_up(2, 2 * outlet.most_body() as u64 + 1);
        outlet.give_up(2001, 10);
        outlet.deliver(b"a=1");
        assert_eq!(next(&receiver), (1 + 1 + 1 + 3 + 3, "a=1".to_owned()));
        assert_eq!((outlet.counts().not_sent, outlet.counts().events), (1 + 3 + 2 + 2001, 1));

        outlet.link.end();
        outlet.deliver(b"b=2\nc=3");
        assert_eq!(outlet.take_error().map(|error| error.kind()), Some(io::ErrorKind::BrokenPipe));
        assert_eq!(outlet.counts().not_sent, 2007 + 2);
        assert_eq!(&outlet.source.unwrap().datagram(b"")[HEADER_LEN - 8..], 11_u64.to_be_bytes());
    }

    #[test]
    fn what_turns_out_too_large_is_cut_smaller_under_the_same_number() {
        let (receiver, mut outlet) = outlet(None);
        outlet.link.pretend(80_000);
        let line = "a".repeat(39_000);
        outlet.deliver(format!("{line}\n{line}\nb=2").as_bytes());
        assert_eq!(next(&receiver), (1, line.clone()));
        assert_eq!(next(&receiver), (2, format!("{line}\nb=2")));
        assert_eq!((outlet.counts().not_sent, outlet.counts().events), (0, 3));
    }
}
