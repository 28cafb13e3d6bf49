//! The door: every event that reaches it has exactly one outcome, and is counted where the outcome is decided.
//!
//! Taken, refused (never send it again) or shed (try later). The outcome travels in the same batch as the
//! records, so that the writer's ledger never counts what it has not seen. Nothing here waits: a full channel
//! is an outcome, too.
//!
//! There is one door a worker. It gathers what comes in until the worker goes idle ([`Door::flush`], called
//! when the thread parks), the batch is large, or a quarter of a millisecond has passed: so the channel costs something a
//! batch, not an event, and a pixel is answered before its event is on the way.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tallylight_host::clock;
use tallylight_proto::beacon::{self, Body, Context, Detail, Entries, Judged, Piece, Query, Reject};
use tallylight_proto::datagram::Number;
use tallylight_proto::link::Link;
use tallylight_proto::{DatagramRefusal, Event, Front, Refusal, Shed};
use tokio::sync::watch;

use crate::ids::IdMaker;
use crate::log::{Ack, Appender, Batch, Level, ack};
use crate::sites::Sites;
use crate::watched::Watched;

/// A batch of this size is sent at once: some hundred events.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes of records that one body may become: four times what it may be decoded.
const BODY_RECORDS: usize = 4 * 1024 * 1024;
/// What is judged of a large body at a time: some 50 µs.
const PIECE: Piece = Piece { events: 32, bytes: 8 * 1024 };
/// A batch of this age is sent with the next event, however busy the worker is.
const BATCH_AGE: Duration = Duration::from_micros(250);

/// What becomes of one event that nobody waits for.
#[derive(Debug)]
pub enum Outcome {
    /// It is on its way to the log.
    Taken,
    /// It will never be taken.
    Refused(Reject),
    /// It cannot be taken now.
    Shed(Shed),
}

/// What becomes of a body of events.
#[derive(Debug)]
pub enum Posted {
    /// Those that are good are on their way to the log.
    Sent {
        /// Says when they are there.
        ack: Ack,
        /// How many are no good.
        refused: u64,
        /// What is wrong with the first of those.
        first: Option<Reject>,
    },
    /// None will ever be taken; this is wrong with the first.
    Refused(Reject),
    /// Those that are good cannot be taken now.
    Shed(Shed),
}

/// A body that is judged piece by piece, see [`Door::open`].
pub struct Opened<'a> {
    entries: Entries<'a>,
    apart: Batch,
}

/// One worker's door.
pub struct Door {
    batch: RefCell<Batch>,
    appender: Appender,
    ids: RefCell<IdMaker>,
    sites: Watched<Sites>,
    /// The last batch found the channel full; until one gets through, so does every event.
    is_blocked: Cell<bool>,
    is_closed: Cell<bool>,
}

impl Door {
    /// A door to the log, open.
    pub fn new(appender: Appender, ids: IdMaker, sites: watch::Receiver<Arc<Sites>>) -> Self {
        Self {
            batch: RefCell::new(appender.batch()),
            appender,
            ids: RefCell::new(ids),
            sites: Watched::new(sites),
            is_blocked: Cell::new(false),
            is_closed: Cell::new(false),
        }
    }

    /// A pixel: one event in a query string. It is sent when that is due, which the caller sees to ([`Door::flush_if_due_at`]).
    pub fn pixel<'a>(&self, query: Query<'a>, context: &Context<'a>) -> Outcome {
        self.one(self.look(query, context), context.front, None)
    }

    /// Somebody who follows a signed link: one event. `of_peer` is why nothing of its sender is taken now, if so; what keeps
    /// the door from taking anything goes before that.
    pub fn link(&self, link: &Link<'_>, context: &Context<'_>, of_peer: Option<Shed>) -> Outcome {
        self.one(self.look_at_link(link, context), context.front, of_peer)
    }

    /// One event that nobody waits for.
    fn one(&self, result: Result<Event<'_>, Reject>, front: Front, of_peer: Option<Shed>) -> Outcome {
        let shed = self.would_shed().or(of_peer);
        let mut batch = self.batch.borrow_mut();
        match (result, shed) {
            (Err(reject), _) => {
                batch.refuse(front, reject.reason(), 1);
                Outcome::Refused(reject)
            }
            (Ok(_), Some(reason)) => {
                batch.shed(front, reason, 1);
                Outcome::Shed(reason)
            }
            (Ok(event), None) => {
                batch.push(&event);
                let is_large = batch.weight() >= BATCH_BYTES;
                drop(batch);
                if is_large {
                    self.flush();
                }
                Outcome::Taken
            }
        }
    }

    /// What [`Door::pixel`] would make of this query. Counts nothing.
    ///
    /// # Errors
    /// If it would refuse it.
    pub fn look<'a>(&self, query: Query<'a>, context: &Context<'a>) -> Result<Event<'a>, Reject> {
        let event = query.into_event(context, &mut || self.ids.borrow_mut().make(context.received_at))?;
        self.admit(&event)?;
        Ok(event)
    }

    /// What [`Door::link`] would make of this link. Counts nothing.
    ///
    /// # Errors
    /// If it would refuse it.
    pub fn look_at_link<'a>(&self, link: &'a Link<'_>, context: &Context<'a>) -> Result<Event<'a>, Reject> {
        let event = beacon::from_link(link, context, &mut || self.ids.borrow_mut().make(context.received_at))?;
        self.admit(&event)?;
        Ok(event)
    }

    /// A body of any kind, to be judged piece by piece: an array is given out before it is known to be good as a whole, and
    /// is then dropped together with the batch of its own. Until the last piece is judged nothing of it is counted.
    pub fn open<'a>(&self, entries: Entries<'a>) -> Opened<'a> {
        Opened { entries, apart: self.appender.batch() }
    }

    /// Judges a piece. Whether there is another one.
    pub fn judge_piece(&self, opened: &mut Opened<'_>, context: &Context<'_>) -> bool {
        let Opened { entries, apart } = opened;
        self.judge(entries, PIECE, context, &mut within_bounds(apart, 0))
    }

    /// What becomes of a body of which all pieces were judged.
    pub fn close_body(&self, opened: Opened<'_>, front: Front, level: Level) -> Posted {
        let Opened { entries, mut apart } = opened;
        // what came earlier goes earlier, which also shows whether there is room
        self.flush();
        let would_shed = self.would_shed();
        self.settle(entries.into_judged(), front, |batch, taken| {
            let (sender, ack) = ack();
            apart.ack_since(0, level, sender);
            let sent = would_shed.map_or_else(|| self.appender.try_send(apart).map_err(|_| Shed::Queue), Err);
            sent.inspect_err(|reason| batch.shed(front, *reason, taken))?;
            Ok(ack)
        })
    }

    /// A body of any kind, judged at once.
    pub fn body(&self, mut entries: Entries<'_>, context: &Context<'_>, level: Level) -> Posted {
        let bytes = entries.body().bytes;
        let is_large = self.batch.borrow().bytes() + bytes.len() > BATCH_BYTES;
        if is_large || may_be_an_array(bytes) || self.would_shed().is_some() {
            let mut opened = self.open(entries);
            while self.judge_piece(&mut opened, context) {}
            return self.close_body(opened, context.front, level);
        }
        let mut batch = self.batch.borrow_mut();
        let (first, start) = (batch.len(), batch.bytes());
        self.judge(&mut entries, Piece::ALL, context, &mut within_bounds(&mut batch, start));
        let judged = entries.into_judged();
        drop(batch);
        let posted = self.settle(judged, context.front, |batch, _| {
            let (sender, ack) = ack();
            batch.ack_since(first, level, sender);
            Ok(ack)
        });
        self.flush_if_due();
        posted
    }

    /// A datagram, which nobody waits for. The context has its number, if it has one; whether that came before is for
    /// the log to say. Whoever has given some flushes if that is due.
    pub fn datagram(&self, bytes: &[u8], context: &Context<'_>) {
        let shed = self.would_shed();
        let mut batch = self.batch.borrow_mut();
        let here = batch.here();
        let judged = if beacon::is_blank(bytes) {
            Judged::blank()
        } else {
            let start = batch.bytes();
            let mut push = within_bounds(&mut batch, start);
            let mut take = |event: &Event<'_>| if shed.is_some() { Ok(()) } else { push(event) };
            let mut entries = Entries::of(Body { bytes, ..Body::default() });
            self.judge(&mut entries, Piece::ALL, context, &mut take);
            entries.into_judged()
        };
        if judged.taken == 0 {
            batch.back_to(here);
        }
        batch.datagram(here, context.number, &judged, shed);
        let is_full = is_full(&batch);
        drop(batch);
        if is_full {
            self.flush();
        }
    }

    /// A framed datagram that says only how far its source has got. As with any other, see [`Self::datagram`].
    pub fn heartbeat(&self, number: Number) {
        self.batch.borrow_mut().heartbeat(number);
    }

    /// A datagram that is not looked into.
    pub fn refuse_datagram(&self, reason: DatagramRefusal) {
        self.batch.borrow_mut().refuse_datagram(reason);
    }

    /// The kernel had no room for so many datagrams.
    pub fn kernel_dropped(&self, datagrams: u64) {
        self.batch.borrow_mut().kernel_dropped(datagrams);
    }

    /// Whether the log can hardly take another batch now. Datagrams better wait in the kernel, then.
    pub fn is_crowded(&self) -> bool {
        self.is_blocked() || self.appender.is_crowded()
    }

    /// An event, or a body, that was not even read.
    pub fn refuse(&self, front: Front, reason: Refusal) {
        self.batch.borrow_mut().refuse(front, reason, 1);
    }

    /// A body that is not taken, whatever stands in it: each of its events is refused for this reason.
    pub fn refuse_body(&self, entries: &Entries<'_>, front: Front, reason: Refusal) {
        self.batch.borrow_mut().refuse(front, reason, entries.len());
    }

    /// A body that is not waited for any longer.
    pub fn shed(&self, front: Front, reason: Shed) {
        self.batch.borrow_mut().shed(front, reason, 1);
    }

    /// From now on everything is shed: the collector is stopping.
    pub fn close(&self) {
        self.is_closed.set(true);
    }

    /// Sends what was gathered. If the channel is full the records are given up and their counts kept for the
    /// next time.
    pub fn flush(&self) {
        let mut batch = self.batch.borrow_mut();
        if batch.is_empty() {
            return;
        }
        // nobody asks the clock for each event: a batch is sent soon after it was opened
        let mut now = batch.opened();
        let full = std::mem::replace(&mut *batch, self.appender.batch());
        let sent = self.appender.try_send(full);
        self.is_blocked.set(sent.is_err());
        if let Err(mut full) = sent {
            full.give_up(Shed::Queue);
            *batch = full;
            now = None;
        }
        drop(batch);
        self.appender.make_way(now.unwrap_or_else(clock::instant));
    }

    /// Whether anything waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.batch.borrow().is_empty()
    }

    /// Sends what was gathered if it is large or old. Whoever keeps the thread from parking must see to that.
    pub fn flush_if_due(&self) {
        self.flush_if_due_at(clock::instant());
    }

    /// The same at this time, for whoever knows it already.
    pub fn flush_if_due_at(&self, now: Instant) {
        let batch = self.batch.borrow();
        let is_old = |opened| now.saturating_duration_since(opened) >= BATCH_AGE;
        let is_due = is_full(&batch) || batch.opened().is_some_and(is_old);
        drop(batch);
        if is_due {
            self.flush();
        }
    }

    /// Why no event can be taken now, if so.
    pub fn would_shed(&self) -> Option<Shed> {
        if self.is_closed.get() {
            return Some(Shed::Draining);
        }
        if self.appender.is_shedding() {
            return Some(Shed::Disk);
        }
        self.is_blocked().then_some(Shed::Queue)
    }

    /// Whether the last batch found no room, and still would not.
    fn is_blocked(&self) -> bool {
        if self.is_blocked.get() {
            self.flush();
        }
        self.is_blocked.get()
    }

    /// Reads some of a body and gives the events that may come in to `take`. Whether there is more.
    fn judge(
        &self,
        entries: &mut Entries<'_>,
        piece: Piece,
        context: &Context<'_>,
        take: &mut dyn FnMut(&Event<'_>) -> Result<(), Detail>,
    ) -> bool {
        let mut new_id = || self.ids.borrow_mut().make(context.received_at);
        entries.judge(piece, context, &mut new_id, &mut |event| {
            self.admit(event)?;
            take(event)
        })
    }

    /// Counts what is refused, and has `take` see to the rest if there is any.
    fn settle(&self, judged: Judged, front: Front, take: impl FnOnce(&mut Batch, u64) -> Result<Ack, Shed>) -> Posted {
        let mut batch = self.batch.borrow_mut();
        for (reason, events) in judged.by_reason() {
            batch.refuse(front, reason, events);
        }
        let refused = judged.refused();
        match (judged.taken, judged.first) {
            (0, Some(first)) => Posted::Refused(first),
            (taken, first) => match take(&mut batch, taken) {
                Ok(ack) => Posted::Sent { ack, refused, first },
                Err(reason) => Posted::Shed(reason),
            },
        }
    }

    fn admit(&self, event: &Event<'_>) -> Result<(), Detail> {
        self.sites.refresh();
        if self.sites.get().contains(&event.site) { Ok(()) } else { Err(Detail::Site) }
    }
}

fn is_full(batch: &Batch) -> bool {
    batch.weight() >= BATCH_BYTES
}

/// Pushes events as long as their records are no more than a body may become: each repeats what the headers say, so a
/// small body of many lines could be a great deal of log.
/// `start` is where they begin.
fn within_bounds(batch: &mut Batch, start: usize) -> impl FnMut(&Event<'_>) -> Result<(), Detail> {
    move |event| {
        if batch.bytes() - start > BODY_RECORDS {
            return Err(Detail::TooMuch);
        }
        batch.push(event);
        Ok(())
    }
}

/// Whether a body may be a JSON array. No array is missed, whatever stands before it that decoding skips.
fn may_be_an_array(bytes: &[u8]) -> bool {
    let skipped = |byte: &u8| byte.is_ascii_whitespace() || b"\xEF\xBB\xBF".contains(byte);
    bytes.iter().find(|byte| !skipped(byte)) == Some(&b'[')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Log, Options, Status};

    /// A door to a log of its own.
    struct Fixture {
        door: Door,
        log: Log,
        status: Arc<Status>,
        set_sites: watch::Sender<Arc<Sites>>,
        _folder: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let options = Options {
                data: folder.path().to_owned(),
                node: "test-000000".into(),
                segment_size: 1 << 20,
                sync_interval: Duration::from_secs(1),
                reserve: 0,
                watchdog: Default::default(),
            };
            let (log, _) = Log::start(options, |error| panic!("{error}")).unwrap();
            let (set_sites, sites) = watch::channel(Arc::default());
            let door = Door::new(log.appender(), IdMaker::new().unwrap(), sites);
            Self { door, status: log.status(), log, set_sites, _folder: folder }
        }

        fn post(&self, bytes: &[u8]) -> Posted {
            self.door.body(Entries::of(Body { bytes, ..Body::default() }), &context(), Level::Logged)
        }

        /// The ledger, when all is over.
        fn finish(self) -> tallylight_proto::Counts {
            self.door.flush();
            drop(self.door);
            self.log.finish();
            self.status.snapshot().counts
        }
    }

    fn context() -> Context<'static> {
        Context {
            received_at: 1_772_323_200_000,
            front: Front::Http2,
            ip: None,
            referer: "",
            origin: "",
            user_agent: "",
            number: None,
            private: false,
        }
    }

    #[test]
    fn every_event_has_one_outcome_whichever_way_it_comes() {
        let fixture = Fixture::new();
        assert!(matches!(fixture.door.pixel(Query::of("a=1"), &context()), Outcome::Taken));
        assert!(matches!(fixture.door.pixel(Query::of("id=x"), &context()), Outcome::Refused(_)));
        assert!(matches!(fixture.post(b"a=1\nnothing\na=2"), Posted::Sent { refused: 1, first: Some(_), .. }));
        assert!(matches!(fixture.post(b"[{},{},{}]"), Posted::Sent { refused: 0, first: None, .. }));
        assert!(matches!(fixture.post(b"[{},{},3]"), Posted::Refused(_)));
        assert!(matches!(fixture.door.link(&Link::default(), &context(), None), Outcome::Taken));
        fixture.door.refuse(Front::Http2, Refusal::TooLarge);
        let counts = fixture.finish();
        let events = counts.fronts[Front::Http2.index()];
        assert_eq!((events.received, events.logged), (13, 7));
        assert_eq!(events.refused[Refusal::Malformed.index()], 5);
        assert_eq!(events.refused[Refusal::TooLarge.index()], 1);
        assert!(counts.is_balanced());
    }

    #[test]
    fn a_closed_door_sheds_what_is_good_and_refuses_what_is_not() {
        let fixture = Fixture::new();
        fixture.door.close();
        assert!(matches!(fixture.door.pixel(Query::of("a=1"), &context()), Outcome::Shed(Shed::Draining)));
        assert!(matches!(fixture.door.link(&Link::default(), &context(), None), Outcome::Shed(Shed::Draining)));
        assert!(matches!(fixture.post(b"a=1\nnothing\na=2"), Posted::Shed(Shed::Draining)));
        assert!(matches!(fixture.post(b"[{},{}]"), Posted::Shed(Shed::Draining)));
        assert!(matches!(fixture.post(b"nothing"), Posted::Refused(_)));
        let counts = fixture.finish();
        let events = counts.events();
        assert_eq!((events.logged, events.shed[Shed::Draining.index()]), (0, 6));
        assert_eq!(events.refused[Refusal::Malformed.index()], 2);
        assert!(counts.is_balanced());
    }

    #[test]
    fn a_full_channel_is_an_outcome_and_its_counts_travel_later() {
        let (appender, batches) = Appender::to_nobody(1);
        let (_set_sites, sites) = watch::channel(Arc::default());
        let door = Door::new(appender, IdMaker::new().unwrap(), sites);
        assert!(matches!(door.pixel(Query::of("a=1"), &context()), Outcome::Taken));
        door.flush();
        // answered before it was known that there is no room
        assert!(matches!(door.pixel(Query::of("a=2"), &context()), Outcome::Taken));
        door.flush();
        assert!(matches!(door.pixel(Query::of("a=3"), &context()), Outcome::Shed(Shed::Queue)));
        let body = Body { bytes: b"[{},{}]", ..Body::default() };
        assert!(matches!(door.body(Entries::of(body), &context(), Level::Logged), Posted::Shed(Shed::Queue)));
        assert_eq!(batches.try_recv().map(|batch| batch.len()), Ok(1));
        assert!(matches!(door.pixel(Query::of("a=4"), &context()), Outcome::Taken), "there is room again");
        door.flush();
        let counts = batches.try_iter().fold(tallylight_proto::Counts::default(), |mut sum, batch| {
            sum.add(batch.counts());
            sum
        });
        let events = counts.fronts[Front::Http2.index()];
        assert_eq!((events.received, events.shed[Shed::Queue.index()]), (4, 4));
    }

    #[test]
    fn a_new_list_of_sites_holds_from_the_next_event_on() {
        let fixture = Fixture::new();
        assert!(matches!(fixture.door.pixel(Query::of("site=a"), &context()), Outcome::Taken));
        fixture.set_sites.send_replace(Arc::new(Sites::load(&["b".into()], None).unwrap()));
        assert!(matches!(fixture.door.pixel(Query::of("site=a"), &context()), Outcome::Refused(_)));
        assert!(matches!(fixture.door.pixel(Query::of("site=B"), &context()), Outcome::Taken));
        assert!(fixture.finish().is_balanced());
    }

    #[test]
    fn looking_counts_nothing() {
        let fixture = Fixture::new();
        assert!(fixture.door.look(Query::of("a=1"), &context()).is_ok());
        assert!(fixture.door.look(Query::of("id=x"), &context()).is_err());
        assert!(fixture.door.look_at_link(&Link::default(), &context()).is_ok());
        assert!(fixture.finish().is_zero());
    }

    #[test]
    fn whoever_waits_is_told_when_the_events_are_in_the_log() {
        let fixture = Fixture::new();
        let Posted::Sent { ack: one, .. } = fixture.post(b"a=1") else { panic!("not taken") };
        let Posted::Sent { ack: array, .. } = fixture.post(b"[{}]") else { panic!("not taken") };
        fixture.door.flush();
        assert_eq!(one.blocking_recv(), Ok(Ok(())));
        assert_eq!(array.blocking_recv(), Ok(Ok(())));
        assert_eq!(fixture.finish().events().logged, 2);
    }

    #[test]
    fn an_array_is_seen_behind_white_space_and_a_byte_order_mark() {
        for body in ["[]", " \r\n\t[", "\u{feff}[", " \u{feff} ["] {
            assert!(may_be_an_array(body.as_bytes()), "{body:?}");
        }
        for body in ["", " ", "{}", "a=[", "{\"a\":[]}"] {
            assert!(!may_be_an_array(body.as_bytes()), "{body:?}");
        }
    }
}
