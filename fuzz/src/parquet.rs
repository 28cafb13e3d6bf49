//! The compactor's files: hours and events in Parquet, the id index, the commit.
//!
//! | bytes | |
//! | --- | --- |
//! | 0 | who reads |
//! | 1 | what stands in the file: 0 the rest; 1 a good file whose footer is the rest; else a good file, edited |
//! | … | that |

use std::path::{Path, PathBuf};

use arrow_array::Array;
use tallylight_compactor::batch::{Fate, Taken};
use tallylight_compactor::commit::Commit;
use tallylight_compactor::events::{Events, Pending};
use tallylight_compactor::groups::{By, Groups, Key};
use tallylight_compactor::hourly::{Hourly, Unwritten};
use tallylight_compactor::index::{Index, Limits, Verdict};
use tallylight_compactor::parquet_file::{self, Batches, FileError};
use tallylight_compactor::rebuild::rebuild;
use tallylight_compactor::state_folder::StateFolder;
use tallylight_compactor::storage;
use tallylight_proto::beacon::from_query;
use tallylight_proto::record::{EventView, Fields, encode_event};
use tallylight_proto::time::Hour;
use tallylight_proto::{Front, layout};
use tempfile::TempDir;
use uuid::Uuid;

use crate::files::{edit, harm};
use crate::sample::{NOW, bare, ids};

const NODE: &str = "fuzz-000000";
const BY: [By; 1] = [By::Item];
const LIMITS: Limits = Limits { head_copies: 1000, cache_bytes: 16 * 4096 };
const COVERED: u64 = 1 << 20;
const IDS: u64 = 300;

/// The ids that are held, far enough apart for several blocks.
fn held(n: u64) -> Uuid {
    Uuid::from_u128(u128::from(n) << 90 | 1)
}

thread_local! {
    static FILES: Files = Files::make();
}

/// Bytes of files → what they say, or an error. A footer that says more than the file has costs no memory, and what the
/// index still answers after harm is what it would have answered before.
pub fn parquet(bytes: &[u8]) {
    let [reader, kind, rest @ ..] = bytes else { return };
    FILES.with(|files| match reader % 8 {
        0 => files.load_hour(*kind, rest),
        1 => files.read_hour_columns(*kind, rest),
        2 => files.read_event_columns(*kind, rest),
        3 => files.rebuild_index(*kind, rest),
        4 => files.covered(*kind, rest),
        5 => files.open_index("manifest", *kind, rest),
        6 => files.open_index("00000000000000000000.run", *kind, rest),
        _ => files.read_commit(*kind, rest),
    });
}

/// A folder with a good file of each kind, and their bytes.
struct Files {
    folder: TempDir,
    hourly: Hourly,
    hour_path: PathBuf,
    hour: Vec<u8>,
    events: Events,
    part_path: PathBuf,
    part: Vec<u8>,
    index: PathBuf,
    commit_path: PathBuf,
    commit: Vec<u8>,
}

impl Files {
    fn make() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a folder");
        let out = folder.path().join("out");
        let hour = Hour::of(NOW);

        let hourly = Hourly::new(&out, NODE, &BY);
        let unwritten = Unwritten { hour, earlier: None, groups: groups(), covered: COVERED };
        hourly.write([Ok::<_, FileError>(unwritten)], usize::MAX, false, |_, _| {}).expect("an hour");
        let events = Events::new(&out, NODE);
        events.write(&[(hour, pending())], || Ok(()), |error| error).expect("a part");
        let part_path = events.parts(hour).expect("the part").remove(0);
        let commit_path = out.join(layout::WATERMARK).join(layout::watermark_file(NODE));
        Commit { snapshot: Default::default(), complete_through: Some(hour), hours: [(hour, COVERED)].into() }
            .write(&out, NODE, &BY)
            .expect("a commit");

        let index = folder.path().join("index");
        let mut made = Index::open(&index, LIMITS).expect("an index");
        for n in 0..IDS {
            made.judge(held(n), n << 40, NOW).expect("an answer");
        }
        made.flush(IDS).expect("a run");

        let read = |path: &Path| std::fs::read(path).expect("a file");
        let hour_path = hourly.path(hour);
        Self {
            hour: read(&hour_path),
            part: read(&part_path),
            commit: read(&commit_path),
            folder,
            hourly,
            hour_path,
            events,
            part_path,
            index,
            commit_path,
        }
    }

    fn load_hour(&self, kind: u8, rest: &[u8]) {
        put(&self.hour_path, &parquet_of(&self.hour, kind, rest));
        let hour = Hour::of(NOW);
        let file = self.hourly.read(hour).expect("it can be read").expect("there is a file");
        if let Ok(groups) = self.hourly.parse(hour, file) {
            // what was read can be published again
            for group in groups.sorted().iter() {
                let sketch = group.measures.visitors.to_sketch();
                assert!(!sketch.is_empty() && group.measures.visitors.estimate() >= 0);
            }
        }
    }

    fn read_hour_columns(&self, kind: u8, rest: &[u8]) {
        put(&self.hour_path, &parquet_of(&self.hour, kind, rest));
        read_columns(&self.hour_path, &["events", "bot_events", "duplicates", "client_lost"]);
    }

    fn read_event_columns(&self, kind: u8, rest: &[u8]) {
        put(&self.part_path, &parquet_of(&self.part, kind, rest));
        read_columns(&self.part_path, &["position", "front", "lost", "bot"]);
    }

    fn rebuild_index(&self, kind: u8, rest: &[u8]) {
        put(&self.part_path, &parquet_of(&self.part, kind, rest));
        let _ = rebuild(&self.folder.path().join("rebuilt"), LIMITS, &self.events, NOW, COVERED, &Default::default());
    }

    fn covered(&self, kind: u8, rest: &[u8]) {
        put(&self.part_path, &parquet_of(&self.part, kind, rest));
        put(&self.hour_path, &parquet_of(&self.hour, kind, rest));
        let _ = (self.events.covered(Hour::of(NOW)), self.hourly.footer(Hour::of(NOW)));
    }

    fn open_index(&self, name: &str, kind: u8, rest: &[u8]) {
        let harmed = self.folder.path().join("harmed");
        storage::create_dir_all(&harmed).expect("a folder");
        for entry in std::fs::read_dir(&self.index).expect("the index") {
            let path = entry.expect("a file").path();
            let mut bytes = std::fs::read(&path).expect("a file");
            if path.ends_with(name) {
                if kind == 0 { bytes = rest.to_vec() } else { harm(&mut bytes, rest) }
            }
            put(&harmed.join(path.file_name().expect("a name")), &bytes);
        }
        let Ok(mut index) = Index::open(&harmed, LIMITS) else { return };
        for n in (0..IDS).step_by(13) {
            let verdict = index.judge(held(n), n + IDS, NOW);
            let is_right = matches!(verdict, Err(_) | Ok(Verdict::Duplicate));
            assert!(kind == 0 || is_right, "{n} is held, and was judged {verdict:?}");
        }
        let _ = index.flush(2 * IDS);
    }

    fn read_commit(&self, kind: u8, rest: &[u8]) {
        let mut bytes = self.commit.clone();
        if kind == 0 {
            bytes = rest.to_vec()
        } else {
            edit(&mut bytes, rest)
        }
        put(&self.commit_path, &bytes);
        let out = self.folder.path().join("out");
        if let Ok(commit) = Commit::read(&out, NODE, &BY) {
            let commit = commit.expect("there is a file");
            commit.write(&out, NODE, &BY).expect("what was read can be written");
            assert_eq!(Commit::read(&out, NODE, &BY).expect("our own"), Some(commit));
        }
        let settings = self.folder.path().join(layout::COMPACTOR);
        storage::create_dir_all(&settings).expect("a folder");
        put(&settings.join("settings.json"), &bytes);
        let _ = StateFolder::settled_out(self.folder.path());
    }
}

fn put(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a file can be written");
}

/// A Parquet file that is harmed, or has another footer, or is something else.
fn parquet_of(good: &[u8], kind: u8, rest: &[u8]) -> Vec<u8> {
    match kind {
        0 => rest.to_vec(),
        1 => {
            let (body, tail) = good.split_at(good.len() - 8);
            let length = tail[..4].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            let mut file = body[..body.len() - length].to_vec();
            file.extend_from_slice(rest);
            file.extend_from_slice(&u32::try_from(rest.len()).expect("short").to_le_bytes());
            file.extend_from_slice(b"PAR1");
            file
        }
        _ => {
            let mut file = good.to_vec();
            edit(&mut file, rest);
            file
        }
    }
}

/// As the audit reads them.
fn read_columns(path: &Path, names: &[&str]) {
    let Ok(columns) = parquet_file::columns(path, names) else { return };
    let _ = parquet_file::covered_position(path, columns.metadata());
    let Ok(batches) = Batches::new(path, columns) else { return };
    for batch in batches {
        let Ok(batch) = batch else { return };
        for column in batch.columns() {
            assert_eq!(column.len(), batch.num_rows());
        }
    }
}

fn groups() -> Groups {
    let mut groups = Groups::default();
    for n in 0..20_i64 {
        let target = format!("https://t{n}.example/");
        let measures = groups.of(&Key::new(["s.example", "click", &target, "item"]));
        measures.events += n;
        measures.visitors.add(&format!("v{n}"));
        measures.value_sum = (n % 2 == 0).then_some(i128::from(n) << 60 | 1);
        measures.times = Some((NOW + n, NOW + n));
    }
    groups
}

fn pending() -> Pending {
    let (mut pending, mut ids) = (Pending::default(), ids());
    let context = bare(Front::Http1, None);
    for n in 0..20_u64 {
        let query = format!("site=s.example&event=click&item={n}&value={n}.5&p={n}");
        let mut payload = Vec::new();
        encode_event(&from_query(&query, &context, &mut ids).expect("an event"), &mut payload);
        let fields = Fields::of(&payload).expect("our own record");
        let event = EventView::new(&payload, &fields);
        let fate = if n % 3 == 0 { Fate::Bot } else { Fate::Counted };
        pending.push_all(&[&Taken { position: n * 100, end: n * 100 + 100, event, fate }]);
    }
    pending
}
