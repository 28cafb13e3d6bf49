//! The next segment, ready before it is needed.
//!
//! This thread does all that is slow: allocating, writing headers, touching pages ahead of the writer. A full
//! disk is a state here: it is tried again until a segment can be had. It also looks now and then how the disk stands, for
//! whoever asks for the metrics.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tallylight_host::{chance, clock, wait};
use tallylight_proto::layout;
use tallylight_proto::segment::{HEADER_LEN, Header, MAX_PAYLOAD, UNKNOWN_ORDINAL, framed_len};
use tracing::{info, warn};

use super::active::{Prepared, Shared};
use super::recovery::Recovered;
use super::status::Status;
use super::storage::{self, Exclusive, MappedFile, StorageError};
use super::{LogError, Options};

/// How far ahead of the last record pages are touched of a writer that is fast, in bytes: some ms of appending at full speed. What a
/// sync finds touched it writes as it is, and takes from the writer again: so not more, and none ahead of a writer that is not, which touches
/// a little at a time itself.
const AHEAD: u64 = 8 << 20;
/// It is fast that appends so much in a [`TICK`].
const FAST: u64 = 4 << 20;
/// Touched in one call, so that the writer is not kept from its own faults for long.
const CHUNK: u64 = 1 << 20;
/// How long a full disk is left alone.
const RETRY: Duration = Duration::from_millis(250);
/// How often the writer's progress is looked at if nobody says so.
const TICK: Duration = Duration::from_millis(50);
/// How often the disk is looked at, for the metrics.
const LOOK: Duration = Duration::from_secs(1);

/// Shared between the writer, which takes segments, and the thread that makes them.
#[derive(Debug)]
pub(super) struct Supply {
    folder: PathBuf,
    node: String,
    capacity: u64,
    reserve: u64,
    status: Arc<Status>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    next: Option<Prepared>,
    next_base: u64,
    /// The disk has no room for another segment.
    full: bool,
    stop: bool,
    /// What the writer appends to.
    active: Option<Arc<Shared>>,
    pace: Pace,
}

/// How fast the writer is.
#[derive(Debug)]
struct Pace {
    /// When the present [`TICK`] began, and where the writer was then.
    began: Instant,
    from: u64,
    /// Bytes of the tick before.
    before: u64,
}

/// What came of a turn of the thread.
pub(super) enum Turn<'s> {
    /// There may be more to do.
    Worked,
    /// There is nothing to do before something changes.
    Idle(MutexGuard<'s, State>),
    /// The disk is full.
    Full(MutexGuard<'s, State>),
    /// It was told to end.
    Stopped,
}

impl Supply {
    pub fn new(options: &Options, folder: PathBuf, recovered: &Recovered, status: Arc<Status>) -> Self {
        Self {
            folder,
            node: options.node.clone(),
            capacity: options.segment_size.next_multiple_of(HEADER_LEN as u64),
            reserve: options.reserve,
            status,
            state: Mutex::new(State {
                next: None,
                next_base: recovered.next_base,
                full: false,
                stop: false,
                active: None,
                pace: Pace { began: clock::instant(), from: recovered.next_base, before: 0 },
            }),
            changed: Condvar::new(),
        }
    }

    /// The next segment; nothing while the disk is full. Waits while one is being made: then the channel fills,
    /// and the fronts shed rather than wait.
    pub fn take(&self) -> Option<Prepared> {
        let mut state = self.lock();
        let mut waited = false;
        loop {
            if let Some(prepared) = state.next.take() {
                state.next_base = prepared.base() + self.capacity;
                self.changed.notify_all();
                return Some(prepared);
            }
            if state.full || state.stop {
                return None;
            }
            if !waited {
                self.status.waited();
                waited = true;
            }
            state = wait::for_a_change(&self.changed, &self.state, state);
        }
    }

    /// The writer appends to this one now.
    pub fn began(&self, active: Arc<Shared>) {
        let mut state = self.lock();
        state.active = Some(active);
        self.changed.notify_all();
    }

    /// The writer has come a good way further.
    pub fn advanced(&self) {
        self.changed.notify_all();
    }

    /// Ends the thread, which removes what it had prepared.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    /// The thread's body.
    pub fn run(&self) -> Result<(), LogError> {
        let mut looked_at: Option<Instant> = None;
        loop {
            if looked_at.is_none_or(|looked_at| clock::since(looked_at) >= LOOK) {
                looked_at = Some(clock::instant());
                self.look_at_the_disk();
            }
            match self.turn()? {
                Turn::Worked => {}
                Turn::Idle(state) => drop(self.changed.wait_timeout(state, TICK)),
                Turn::Full(state) => drop(self.changed.wait_timeout_while(state, RETRY, |state| !state.stop)),
                Turn::Stopped => return Ok(()),
            }
        }
    }

    /// What cannot be seen is left as it was: an error of this disk shows where it matters.
    fn look_at_the_disk(&self) {
        let names = storage::list(&self.folder);
        let segments = names.map(|names| names.iter().filter(|name| layout::segment_base(name).is_some()).count());
        if let (Ok(segments), Ok(free)) = (segments, storage::free_space(&self.folder)) {
            self.status.disk(segments as u64, free);
        }
    }

    /// Does the one thing that is most wanted.
    pub fn turn(&self) -> Result<Turn<'_>, LogError> {
        let mut state = self.lock();
        if state.stop {
            state.next.take().map_or(Ok(()), Prepared::discard)?;
            return Ok(Turn::Stopped);
        }
        if state.next.is_none() {
            let base = state.next_base;
            drop(state);
            return self.supply(base);
        }
        let Some((active, to)) = state.untouched() else { return Ok(Turn::Idle(state)) };
        drop(state);
        active.touch(to);
        Ok(Turn::Worked)
    }

    fn supply(&self, base: u64) -> Result<Turn<'_>, LogError> {
        let made = self.prepare(base);
        let mut state = self.lock();
        let full = match made {
            Ok(prepared) => {
                state.next = prepared;
                state.next.is_none()
            }
            Err(error) if error.is_full() => true,
            Err(error) => {
                // the writer must not wait for what will not come
                state.stop = true;
                self.changed.notify_all();
                return Err(error.into());
            }
        };
        if full != state.full {
            match full {
                true => {
                    warn!(reserve = self.reserve, "no room for another segment: when this one is full, events are shed")
                }
                false => info!("there is room for another segment again"),
            }
        }
        state.full = full;
        self.changed.notify_all();
        Ok(if full { Turn::Full(state) } else { Turn::Worked })
    }

    /// Makes a segment out of a spare one or of free space; nothing if there is neither.
    fn prepare(&self, base: u64) -> Result<Option<Prepared>, StorageError> {
        let path = self.folder.join(layout::new_segment(base));
        let file = match self.take_spare(&path)? {
            Some(file) => Some(file),
            None => self.allocate(&path)?,
        };
        let Some(file) = file else { return Ok(None) };
        let salt =
            chance::bits().map_err(|source| StorageError { action: "draw a salt for", path: path.clone(), source })?;
        let header = Header {
            node: self.node.clone(),
            base,
            capacity: self.capacity,
            salt,
            first_ordinal: UNKNOWN_ORDINAL,
            reserve: self.reserve,
            created_at: clock::now(),
        };
        // before the header changes: a spare must not be found under its old name with its new base
        storage::sync_folder(&self.folder)?;
        let mut prepared = Prepared::new(file, header)?;
        prepared.touch(AHEAD.min(self.capacity));
        Ok(Some(prepared))
    }

    /// A full spare segment costs no space, so the reserve does not matter for it. One that was sealed early has
    /// given its tail back, and needs that again.
    fn take_spare(&self, path: &Path) -> Result<Option<Exclusive>, StorageError> {
        let spares = self.folder.join(layout::SPARE);
        for name in storage::list(&spares)? {
            let spare = spares.join(&name);
            if layout::segment_base(&name).is_none() || !self.has_room_for(&spare)? {
                continue;
            }
            match storage::rename(&spare, path) {
                // somebody else had it
                Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => continue,
                renamed => renamed?,
            }
            if storage::size(path)? == self.capacity {
                return self.allocate_at(path).map(Some);
            }
            // made with another --segment-size
            storage::remove(path)?;
        }
        Ok(None)
    }

    fn has_room_for(&self, spare: &Path) -> Result<bool, StorageError> {
        let missing = self.capacity.saturating_sub(storage::allocated(spare)?);
        let reserve = if missing <= framed_len(MAX_PAYLOAD) as u64 { 0 } else { self.reserve };
        Ok(missing == 0 || storage::free_space(&self.folder)? >= missing.saturating_add(reserve))
    }

    fn allocate(&self, path: &Path) -> Result<Option<Exclusive>, StorageError> {
        let free = storage::free_space(&self.folder)?;
        if free < self.capacity.saturating_add(self.reserve) {
            return Ok(None);
        }
        self.allocate_at(path).map(Some)
    }

    fn allocate_at(&self, path: &Path) -> Result<Exclusive, StorageError> {
        MappedFile::create(path, self.capacity).inspect_err(|_| {
            // half of it may be there, and take up what little room there is
            let _ = storage::remove(path);
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Up to where the active segment is to be touched next.
    fn untouched(&mut self) -> Option<(Arc<Shared>, u64)> {
        let active = self.active.as_ref()?;
        let committed = active.committed();
        let to = active.touched() + CHUNK;
        let is_fast = self.pace.is_fast(active.position(committed), clock::instant());
        let is_near = to <= committed.length + AHEAD && to < active.capacity() + CHUNK;
        (is_fast && is_near).then(|| (Arc::clone(active), to))
    }
}

impl Pace {
    /// Whether a writer that has come to this position is fast.
    fn is_fast(&mut self, position: u64, now: Instant) -> bool {
        let come = position.saturating_sub(self.from);
        let is_fast = come.max(self.before) >= FAST;
        if now.saturating_duration_since(self.began) >= TICK {
            *self = Self { began: now, from: position, before: come };
        }
        is_fast
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_fast_as_soon_as_it_appends_much_in_a_tick_and_until_it_has_not_for_one() {
        let began = clock::instant();
        let mut pace = Pace { began, from: 1_000, before: 0 };
        let mut is_fast = |ticks: u32, position| pace.is_fast(1_000 + position, began + TICK / 10 * ticks);
        let seen = [
            // ten ticks' worth of what would be much in one
            is_fast(10, FAST / 10),
            is_fast(20, FAST / 5),
            is_fast(22, FAST),
            // much since the second tick began
            is_fast(29, FAST + FAST / 5),
            is_fast(30, FAST + FAST / 5),
            is_fast(39, FAST + FAST / 5),
            is_fast(40, FAST + FAST / 5),
            is_fast(41, FAST + FAST / 5),
        ];
        assert_eq!(seen, [false, false, false, true, true, true, true, false]);
    }
}
