//! A batch: what one front gathered since it last went idle, and the counts that travel with it.
//!
//! Records, their outcomes and the waiting senders move over the channel together. So the writer's ledger never
//! counts something whose record it has not seen: `counts` holds only what has its outcome already, and is
//! balanced by itself; a record counts as received when the writer decides on it. The same for a framed datagram and
//! all that is in it: whether that came before is for the writer to say.

use std::time::Instant;

use tallylight_host::clock;
use tallylight_proto::beacon::Judged;
use tallylight_proto::datagram::Number;
use tallylight_proto::ledger::Counts;
use tallylight_proto::reason::{DatagramRefusal, Front, Refusal, Shed};
use tallylight_proto::{Event, record};

use super::ack::AckSender;

/// What a sender waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The event is in the memory map: it survives the death of the collector.
    Logged,
    /// It is on disk: it survives a power cut.
    Synced,
}

/// Records that belong together, from `first` to `end` (numbers in the batch).
#[derive(Debug)]
pub(super) struct Group {
    pub first: usize,
    pub end: usize,
    pub kind: Kind,
}

/// What holds a group together.
#[derive(Debug)]
pub(super) enum Kind {
    /// Somebody waits for them.
    Ack { level: Level, sender: AckSender },
    /// They came in one framed datagram.
    Datagram(FramedDatagram),
    /// A framed datagram that carries none.
    Heartbeat(Number),
}

/// What became of a framed datagram, its records apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct FramedDatagram {
    pub number: Number,
    /// Its events that were refused, by [`Refusal`]; no body has more than a thousand.
    pub refused: [u16; Refusal::ALL.len()],
    /// Its events that were shed.
    pub shed: Option<(Shed, u16)>,
}

/// Where a batch was when a body was begun.
#[derive(Clone, Copy, Debug)]
pub struct Here {
    len: usize,
    bytes: usize,
}

/// Records on their way to the log.
#[derive(Debug, Default)]
pub struct Batch {
    /// Length (u32, native) and payload of each record.
    payloads: Vec<u8>,
    len: usize,
    /// Where the payload of the last record begins.
    last: usize,
    counts: Counts,
    groups: Vec<Group>,
    opened: Option<Instant>,
}

impl Batch {
    /// How many records it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many bytes they are.
    pub fn bytes(&self) -> usize {
        self.payloads.len()
    }

    /// How many bytes it is with all that goes along.
    pub fn weight(&self) -> usize {
        self.payloads.len() + self.groups.len() * size_of::<Group>()
    }

    /// Whether nothing at all has been put in: no record and no count.
    pub fn is_empty(&self) -> bool {
        self.opened.is_none()
    }

    /// When the first thing was put in.
    pub fn opened(&self) -> Option<Instant> {
        self.opened
    }

    /// Takes an event's record along.
    pub fn push(&mut self, event: &Event<'_>) {
        self.open();
        let start = self.payloads.len();
        self.payloads.extend_from_slice(&[0; 4]);
        record::encode_event(event, &mut self.payloads);
        let len = u32::try_from(self.payloads.len() - start - 4).expect("the decoder bounds events");
        self.payloads[start..start + 4].copy_from_slice(&len.to_ne_bytes());
        self.last = start + 4;
        self.len += 1;
    }

    /// Where it is now.
    pub fn here(&self) -> Here {
        Here { len: self.len, bytes: self.payloads.len() }
    }

    /// Takes back the records that were pushed since.
    pub fn back_to(&mut self, here: Here) {
        self.payloads.truncate(here.bytes);
        self.len = here.len;
    }

    /// Counts events as received and refused.
    pub fn refuse(&mut self, front: Front, reason: Refusal, events: u64) {
        self.open();
        let counts = self.counts.front(front);
        counts.received += events;
        counts.refused[reason.index()] += events;
    }

    /// Counts events as received and shed, without their records.
    pub fn shed(&mut self, front: Front, reason: Shed, events: u64) {
        self.open();
        let counts = self.counts.front(front);
        counts.received += events;
        counts.shed[reason.index()] += events;
    }

    /// Has somebody told when the records from number `first` on, up to the last one pushed, have reached a level.
    pub fn ack_since(&mut self, first: usize, level: Level, sender: AckSender) {
        self.open();
        self.groups.push(Group { first, end: self.len, kind: Kind::Ack { level, sender } });
    }

    /// A datagram that is refused as a whole.
    pub fn refuse_datagram(&mut self, reason: DatagramRefusal) {
        self.open();
        self.counts.datagrams.received += 1;
        self.counts.datagrams.refused[reason.index()] += 1;
    }

    /// A framed datagram without a body.
    pub fn heartbeat(&mut self, number: Number) {
        self.open();
        self.counts.datagrams.received += 1;
        self.groups.push(Group { first: self.len, end: self.len, kind: Kind::Heartbeat(number) });
    }

    /// A datagram whose records, if any, were pushed since; those judged good were shed instead if a reason is given.
    pub fn datagram(&mut self, since: Here, number: Option<Number>, judged: &Judged, shed: Option<Shed>) {
        self.open();
        self.counts.datagrams.received += 1;
        let shed = shed.filter(|_| judged.taken > 0).map(|reason| (reason, judged.taken));
        let Some(number) = number else {
            for (reason, events) in judged.by_reason() {
                self.refuse(Front::Udp, reason, events);
            }
            if let Some((reason, events)) = shed {
                self.shed(Front::Udp, reason, events);
            }
            return;
        };
        if self.len > since.len {
            record::flag_as_last(&mut self.payloads[self.last..]);
        }
        // what is over the limit of a body is refused as a whole, and then counted up to what a datagram can hold
        let small = |events: u64| u16::try_from(events).unwrap_or(u16::MAX);
        let refused = judged.refused.map(small);
        let shed = shed.map(|(reason, events)| (reason, small(events)));
        let kind = Kind::Datagram(FramedDatagram { number, refused, shed });
        self.groups.push(Group { first: since.len, end: self.len, kind });
    }

    /// The kernel had no room for so many datagrams.
    pub fn kernel_dropped(&mut self, datagrams: u64) {
        self.open();
        self.counts.datagrams.kernel_dropped += datagrams;
    }

    /// Gives up all records for this reason and tells who waits; what is left are counts and the numbers of framed
    /// datagrams, to travel in the next batch that gets through.
    pub fn give_up(&mut self, reason: Shed) {
        let mut counts = self.counts;
        let mut give_up = |payloads: Payloads<'_>| {
            for front in payloads.filter_map(record::front) {
                counts.front(front).received += 1;
                counts.front(front).shed[reason.index()] += 1;
            }
        };
        let mut payloads = Payloads(&self.payloads);
        let mut done = 0;
        let mut kept = Vec::new();
        for Group { first, end, kind } in self.groups.drain(..) {
            give_up(payloads.split_off(first - done));
            let records = payloads.split_off(end - first);
            done = end;
            let kind = match kind {
                Kind::Ack { sender, .. } => {
                    give_up(records);
                    sender.send(Err(reason));
                    continue;
                }
                Kind::Datagram(datagram) if end > first => {
                    let shed = u16::try_from(end - first).unwrap_or(u16::MAX);
                    Kind::Datagram(FramedDatagram { shed: Some((reason, shed)), ..datagram })
                }
                kind => kind,
            };
            kept.push(Group { first: 0, end: 0, kind });
        }
        give_up(payloads);
        self.counts = counts;
        self.groups = kept;
        self.payloads.clear();
        self.len = 0;
    }

    /// The payloads, one by one.
    pub(super) fn payloads(&self) -> Payloads<'_> {
        Payloads(&self.payloads)
    }

    /// What has its outcome already.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn take_groups(&mut self) -> Vec<Group> {
        std::mem::take(&mut self.groups)
    }

    /// Empties it but keeps its memory, unless one body has made it very large.
    pub(super) fn clear(&mut self) {
        const KEEP: usize = 512 * 1024;
        self.payloads.clear();
        self.payloads.shrink_to(KEEP);
        self.groups.clear();
        let (payloads, groups) = (std::mem::take(&mut self.payloads), std::mem::take(&mut self.groups));
        *self = Self { payloads, groups, ..Self::default() };
    }

    fn open(&mut self) {
        self.opened.get_or_insert_with(clock::instant);
    }
}

/// The payloads of a batch, from one on.
#[derive(Clone)]
pub(super) struct Payloads<'b>(&'b [u8]);

impl<'b> Payloads<'b> {
    /// Splits off the first so many.
    pub fn split_off(&mut self, count: usize) -> Payloads<'b> {
        let all = self.0;
        self.by_ref().take(count).for_each(drop);
        Payloads(&all[..all.len() - self.0.len()])
    }
}

impl<'b> Iterator for Payloads<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let (len, behind) = self.0.split_first_chunk::<4>()?;
        let (payload, behind) = behind.split_at(u32::from_ne_bytes(*len) as usize);
        self.0 = behind;
        Some(payload)
    }
}
