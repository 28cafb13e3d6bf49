//! The steps of an event's way, each by itself beside the obvious way to do it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Result, anyhow};
use crossbeam_channel::bounded;
use serde::{Serialize, Serializer};
use serde_json::Value;
use tallylight_collector::log::storage::MappedFile;
use tallylight_compactor::batch::{Fate, Taken};
use tallylight_compactor::groups::Groups;
use tallylight_proto::beacon::{Body, Context, Query, from_body};
use tallylight_proto::datagram::{self, Datagram};
use tallylight_proto::record::{self, EventView, Fields};
use tallylight_proto::segment::{Framing, HEADER_LEN, framed_len};
use tallylight_proto::{Event, Front, Id};
use uuid::Uuid;

use crate::beacons::Beacons;
use crate::compare::{Contender, compare, write_json};
use crate::rows;

/// What is measured.
#[derive(clap::Args)]
pub struct Arguments {
    /// Events a run.
    #[arg(long, default_value_t = 1 << 19)]
    events: usize,
    /// Only steps whose names contain this (may be repeated).
    #[arg(long)]
    only: Vec<String>,
    /// Folder on the disk that is appended to.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Writes what each run took to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Different events.
const VARIANTS: usize = 4096;
/// Events a message of the channel, and as many as are rolled up at a time.
const BATCH: usize = 128;
/// Bytes gathered before a `write(2)`.
const BUFFER: usize = 64 << 10;
/// Touched at a time ahead of what is appended, as the log does.
const AHEAD: u64 = 1 << 20;

/// Prints a table for each step.
pub fn run(arguments: &Arguments, rounds: u32) -> Result<()> {
    let traffic = Traffic::new();
    let runs = arguments.events.div_ceil(VARIANTS);
    let folder = tempfile::tempdir_in(&arguments.dir)?;
    let records = rows::records(runs * VARIANTS);
    let steps: [(&str, Vec<Contender<'_>>); 8] = [
        ("decode: a query becomes an event", decode_query(&traffic.queries, runs)),
        ("decode: a JSON body becomes an event", decode_json(&traffic.bodies, runs, &OF_A_BROWSER)),
        ("encode: an event becomes a record", encode(&traffic.events, runs)),
        ("channel: from one thread to another", channel(runs * VARIANTS)),
        ("append: framed, checksummed, with the kernel", append(&traffic.records, runs, folder.path())?),
        ("datagram: 200 bytes of JSON become an event", datagram(&traffic, runs)),
        ("roll-up: records become groups", roll_up(&traffic, runs)),
        ("rows: events become Parquet, on all processors", rows::contenders(&records, folder.path())),
    ];
    let mut measured = Vec::new();
    for (title, mut contenders) in steps {
        if arguments.only.is_empty() || arguments.only.iter().any(|part| title.contains(part.as_str())) {
            measured.push(compare(title, (runs * VARIANTS) as u64, rounds, &mut contenders)?);
            println!();
        }
    }
    write_json(arguments.json.as_deref(), &measured)
}

/// Something without anything to clean up.
fn contender<'a>(name: &'static str, run: impl FnMut() -> Result<()> + 'a) -> Contender<'a> {
    Contender { name, run: Box::new(run), reset: Box::new(|| Ok(())) }
}

/// Does the same to each of these, so many times over.
fn each<'a, T>(
    name: &'static str,
    all: &'a [T],
    runs: usize,
    mut work: impl FnMut(&'a T) -> Result<()> + 'a,
) -> Contender<'a> {
    contender(name, move || (0..runs).try_for_each(|_| all.iter().try_for_each(&mut work)))
}

/// The same events in all forms.
struct Traffic {
    events: Vec<Event<'static>>,
    queries: Vec<String>,
    bodies: Vec<String>,
    records: Vec<Vec<u8>>,
    /// Of a server.
    datagrams: Vec<String>,
    framed: Vec<Vec<u8>>,
}

impl Traffic {
    fn new() -> Self {
        let mut beacons = Beacons::new(3);
        let events: Vec<Event<'static>> = (0..VARIANTS).map(|_| beacons.event()).collect();
        let datagrams: Vec<String> = (0..VARIANTS).map(|_| beacons.json(200)).collect();
        let record = |event: &Event<'_>| {
            let mut record = Vec::new();
            record::encode_event(event, &mut record);
            record
        };
        let frame = |(number, body): (u64, &String)| {
            let mut framed = Vec::new();
            datagram::write(&mut framed, 1, number, body.as_bytes(), None);
            framed
        };
        Self {
            queries: events.iter().map(query).collect(),
            bodies: events.iter().map(|event| serde_json::to_string(&Json::of(event)).unwrap_or_default()).collect(),
            records: events.iter().map(record).collect(),
            framed: (1..).zip(&datagrams).map(frame).collect(),
            events,
            datagrams,
        }
    }
}

/// As a page's script writes it.
fn query(event: &Event<'_>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let known = [("site", &event.site), ("event", &event.event), ("target", &event.target), ("page", &event.page)];
    let more = [("item", &event.item), ("placement", &event.placement), ("visitor", &event.visitor)];
    known.into_iter().chain(more).for_each(|(name, text)| _ = query.append_pair(name, text));
    query.append_pair("id", &event.id.uuid.to_string()).append_pair("campaign", "autumn").finish()
}

static OF_A_BROWSER: Context<'static> = Context {
    received_at: 1_795_392_000_000,
    front: Front::Http1,
    ip: None,
    referer: "https://shop.example/books",
    origin: "https://shop.example",
    user_agent: "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0",
    number: None,
    private: false,
};
static OF_A_SERVER: Context<'static> =
    Context { front: Front::Udp, referer: "", origin: "", user_agent: "", ..OF_A_BROWSER };

fn new_id() -> Id {
    Id { uuid: Uuid::from_u128(1), made_here: true }
}

fn decode_query(queries: &[String], runs: usize) -> Vec<Contender<'_>> {
    vec![
        each("form_urlencoded, into a map", queries, runs, |query| {
            let fields: HashMap<_, _> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            let id = fields.get("id").ok_or_else(|| anyhow!("there is one"))?;
            black_box((Uuid::parse_str(id)?, fields));
            Ok(())
        }),
        each("Tallylight", queries, runs, |query| {
            let event = Query::of(query).into_event(&OF_A_BROWSER, &mut new_id);
            black_box(event.map_err(|reject| anyhow!("{reject}"))?);
            Ok(())
        }),
    ]
}

fn decode_json<'a>(bodies: &'a [String], runs: usize, context: &'a Context<'a>) -> Vec<Contender<'a>> {
    vec![
        each("serde_json, into a value", bodies, runs, |body| {
            black_box(serde_json::from_str::<Value>(body)?);
            Ok(())
        }),
        each("Tallylight", bodies, runs, |body| decoded(body.as_bytes(), context)),
    ]
}

fn decoded(bytes: &[u8], context: &Context<'_>) -> Result<()> {
    let judged = from_body(&Body { bytes, ..Body::default() }, context, &mut new_id, &mut |event| {
        black_box(event);
        Ok(())
    });
    (judged.taken == 1).then_some(()).ok_or_else(|| anyhow!("one event is taken"))
}

/// What an event says, as most would write it.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(serialize_with = "as_text")]
    id: Uuid,
    site: &'a str,
    event: &'a str,
    target: &'a str,
    page: &'a str,
    item: &'a str,
    placement: &'a str,
    visitor: &'a str,
    age: u32,
    campaign: &'a str,
}

fn as_text<S: Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

impl<'a> Json<'a> {
    fn of(event: &'a Event<'_>) -> Self {
        let Event { site, event: name, target, page, item, placement, visitor, age_ms, .. } = event;
        Self {
            id: event.id.uuid,
            site,
            event: name,
            target,
            page,
            item,
            placement,
            visitor,
            age: *age_ms,
            campaign: &event.props[0].1,
        }
    }
}

fn encode<'a>(events: &'a [Event<'_>], runs: usize) -> Vec<Contender<'a>> {
    let mut lines = Vec::new();
    let mut records = Vec::new();
    vec![
        each("serde_json, as a line", events, runs, move |event| {
            lines.clear();
            serde_json::to_writer(&mut lines, &Json::of(event))?;
            black_box(&lines);
            Ok(())
        }),
        each("Tallylight", events, runs, move |event| {
            records.clear();
            record::encode_event(event, &mut records);
            black_box(&records);
            Ok(())
        }),
    ]
}

/// What stands for an event in a channel.
type Message = [u64; 8];

fn channel<'a>(count: usize) -> Vec<Contender<'a>> {
    let over = |name, run: fn(usize) -> Result<()>| contender(name, move || run(count));
    vec![
        over("std, a message an event", |count| {
            let (sender, receiver) = sync_channel::<Message>(1 << 16);
            let all = move |take: &mut dyn FnMut(&Message)| receiver.iter().for_each(|message| take(&message));
            exchange(count, move |message| Ok(sender.send(message)?), all)
        }),
        over("tokio, a message an event", |count| {
            let (sender, mut receiver) = tokio::sync::mpsc::channel::<Message>(1 << 16);
            let all = move |take: &mut dyn FnMut(&Message)| {
                while let Some(message) = receiver.blocking_recv() {
                    take(&message);
                }
            };
            exchange(count, move |message| Ok(sender.blocking_send(message)?), all)
        }),
        over("crossbeam, a message an event", |count| {
            let (sender, receiver) = bounded::<Message>(1 << 16);
            let all = move |take: &mut dyn FnMut(&Message)| receiver.iter().for_each(|message| take(&message));
            exchange(count, move |message| Ok(sender.send(message)?), all)
        }),
        over("crossbeam, a message for 128 events", |count| {
            let (sender, receiver) = bounded::<Vec<Message>>((1 << 16) / BATCH);
            let (recycle, recycled) = bounded::<Vec<Message>>(64);
            let mut batch = Vec::with_capacity(BATCH);
            let all = move |take: &mut dyn FnMut(&Message)| {
                for mut batch in receiver {
                    batch.iter().for_each(&mut *take);
                    batch.clear();
                    // enough of them are on their way back already
                    let _ = recycle.try_send(batch);
                }
            };
            let send = move |message| {
                batch.push(message);
                if batch.len() == BATCH {
                    let empty = recycled.try_recv().unwrap_or_else(|_| Vec::with_capacity(BATCH));
                    sender.send(std::mem::replace(&mut batch, empty))?;
                }
                Ok(())
            };
            exchange(count, send, all)
        }),
    ]
}

/// Sends so many messages to another thread, until that has seen them all.
fn exchange(
    count: usize,
    mut send: impl FnMut(Message) -> Result<()>,
    all: impl FnOnce(&mut dyn FnMut(&Message)) + Send,
) -> Result<()> {
    thread::scope(|scope| {
        let taker = scope.spawn(move || {
            let mut seen = 0;
            all(&mut |message| seen += usize::from(black_box(message)[0] == 1));
            seen
        });
        (0..count).try_for_each(|_| send([1; 8]))?;
        drop(send);
        let seen = taker.join().map_err(|_| anyhow!("the other thread panicked"))?;
        (seen == count).then_some(()).ok_or_else(|| anyhow!("{seen} of {count} came"))
    })
}

fn append<'a>(records: &'a [Vec<u8>], runs: usize, folder: &Path) -> Result<Vec<Contender<'a>>> {
    let each_run: usize = records.iter().map(|record| framed_len(record.len())).sum();
    let size = (HEADER_LEN + runs * each_run) as u64;
    let appended = move || (0..runs).flat_map(move |_| records);
    let file_of = |name: &str| folder.join(name);
    let write_to = |name: &'static str, path: PathBuf, buffer: usize| {
        let (written, removed) = (path.clone(), path);
        let run = move || {
            let (mut file, mut out) = (File::create(&written)?, Vec::new());
            let mut place = Place::default();
            for record in appended() {
                let from = out.len();
                out.resize(from + framed_len(record.len()), 0);
                place.write(&mut out[from..], record);
                if out.len() >= buffer {
                    file.write_all(&out)?;
                    out.clear();
                }
            }
            Ok(file.write_all(&out)?)
        };
        Contender { name, run: Box::new(run), reset: Box::new(move || Ok(std::fs::remove_file(&removed)?)) }
    };
    let fresh = file_of("fresh");
    let removed = fresh.clone();
    let mut recycled = MappedFile::create(&file_of("recycled"), size)?;
    recycled.populate(0, size);
    Ok(vec![
        write_to("write(2), 64 KiB a call", file_of("buffered"), BUFFER),
        write_to("write(2), a call a record", file_of("each"), 0),
        Contender {
            name: "mapped, touched a MiB ahead",
            run: Box::new(move || {
                let mut file = MappedFile::create(&fresh, size)?;
                let (mut place, mut touched) = (Place::default(), 0);
                for record in appended() {
                    let len = framed_len(record.len());
                    let end = place.offset + len as u64;
                    if end > touched {
                        file.populate(touched, end + AHEAD);
                        touched = end + AHEAD;
                    }
                    let offset = place.offset;
                    place.write(file.bytes(offset, len), record);
                }
                Ok(())
            }),
            reset: Box::new(move || Ok(std::fs::remove_file(&removed)?)),
        },
        contender("mapped, recycled", move || {
            let mut place = Place::default();
            for record in appended() {
                let offset = place.offset;
                place.write(recycled.bytes(offset, framed_len(record.len())), record);
            }
            Ok(())
        }),
    ])
}

/// Where the next record goes.
struct Place {
    framing: Framing,
    offset: u64,
    ordinal: u64,
}

impl Default for Place {
    fn default() -> Self {
        Self { framing: Framing::new(1, 0), offset: HEADER_LEN as u64, ordinal: 0 }
    }
}

impl Place {
    fn write(&mut self, out: &mut [u8], record: &[u8]) {
        self.framing.write(out, self.offset, self.ordinal, record);
        self.offset += out.len() as u64;
        self.ordinal += 1;
    }
}

fn datagram(traffic: &Traffic, runs: usize) -> Vec<Contender<'_>> {
    let mut contenders = decode_json(&traffic.datagrams, runs, &OF_A_SERVER);
    contenders.push(each("Tallylight, framed", &traffic.framed, runs, |bytes| match Datagram::parse(bytes)? {
        Datagram::Framed(frame) => decoded(frame.body, &Context { number: Some(frame.number), ..OF_A_SERVER.clone() }),
        Datagram::Plain(_) => Err(anyhow!("it has a frame")),
    }));
    contenders
}

/// What the obvious way keeps of a group.
#[derive(Default)]
struct Group {
    events: u64,
    late: u64,
    value_sum: i128,
    times: Option<(i64, i64)>,
    visitors: HashSet<String>,
}

fn roll_up(traffic: &Traffic, runs: usize) -> Vec<Contender<'_>> {
    vec![
        contender("a map of texts, a set of visitors a group", move || {
            let mut groups: HashMap<(String, String, String), Group> = HashMap::new();
            for event in (0..runs).flat_map(|_| &traffic.events) {
                let key = [&event.site, &event.event, &event.target].map(|text| text.clone().into_owned());
                let group = groups.entry(key.into()).or_default();
                let at = event.received_at - i64::from(event.age_ms);
                group.events += 1;
                group.late += u64::from(event.age_ms > 60_000);
                group.value_sum += event.value.map_or(0, |value| i128::from(value.0));
                group.times = Some(group.times.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
                if !group.visitors.contains(&*event.visitor) {
                    group.visitors.insert(event.visitor.clone().into_owned());
                }
            }
            black_box(groups);
            Ok(())
        }),
        contender("Tallylight, from records, a sketch a group", move || {
            let mut groups = Groups::default();
            for payloads in (0..runs).flat_map(|_| traffic.records.chunks(BATCH)) {
                let fields = payloads.iter().map(|payload| Fields::checked(payload));
                let fields = fields.collect::<Result<Vec<_>, _>>()?;
                let taken = payloads.iter().zip(&fields).map(|(payload, fields)| Taken {
                    position: 0,
                    end: 0,
                    event: EventView::new(payload, fields),
                    fate: Fate::Counted,
                });
                groups.count_within(&taken.collect::<Vec<_>>(), &[], usize::MAX);
            }
            black_box(groups.sorted().len());
            Ok(())
        }),
    ]
}
