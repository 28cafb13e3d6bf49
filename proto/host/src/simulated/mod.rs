//! A machine that exists in memory, and does what real ones do at their worst, as a seed says.
//!
//! The rule: **it is never kinder than Linux, and never does what no machine could.** Every call of a program is a step.
//! At each one other programs may run ([`World::set_hook`]), the process may be killed, the power may fail, the call
//! may fail; what is in the page cache, on the device and on the platter are three things (`file`), and so are names
//! now and names after a power cut (`names`).
//!
//! A world belongs to one thread, and all programs in it take turns there, so that a seed says everything.
//!
//! What is not modelled: the order in which other processors see plain stores (one thread has no such order), and
//! wear of the device beyond single bits.

mod chance;
mod file;
mod handle;
mod names;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::disk::{Metadata, Mode, PAGE};
use file::{SimulatedFile, Sync};
use names::{Names, Node};

pub use chance::Chance;
pub use handle::Handle;
pub use names::Journal;

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process(pub u8);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// `kill -9`: what it has written stays, and the machine goes on.
    Killed(Process),
    /// Nothing goes on. The disk is to be asked for what is left by [`World::power_cut`].
    PowerCut,
}

/// What the machine is like.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Bytes that the disk has.
    pub disk_size: u64,
    /// The order of changes of names.
    pub journal: Journal,
    /// The folder whose syncs lie, if there is one.
    pub liar: Option<PathBuf>,
    /// The first wall clock time, in ms since 1970.
    pub now: i64,
}

/// How often things happen: once in so many calls, or never for 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The calling process is killed.
    pub kill: u32,
    /// The power fails.
    pub power_cut: u32,
    /// A read fails.
    pub read_error: u32,
    /// A write, or an allocation, fails.
    pub write_error: u32,
    /// A sync fails.
    pub sync_error: u32,
    /// Another program gets a turn.
    pub turn: u32,
    /// The kernel writes something back.
    pub write_back: u32,
}

/// What comes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The process is killed before it.
    Kill,
    /// The power fails before it.
    PowerCut,
    /// It fails: the device does not answer.
    Error,
    /// It fails if it needs space: there is none.
    NoSpace,
}

/// A call that a program makes.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Who.
    pub process: Process,
    /// What, as a verb.
    pub action: &'static str,
    /// To what.
    pub path: &'a Path,
}

/// Calls that may have to ask the disk for space; what was written may have to be given some when it is synced.
const NEED_SPACE: [&str; 7] = ["create", "create folder", "write", "append", "allocate", "rename", "sync"];

/// errno(3): the device failed.
const EIO: i32 = 5;

type Hook = Box<dyn FnMut(&Call<'_>)>;
type Watch = Box<dyn Fn(&World, &Call<'_>)>;

/// The machine.
pub struct World {
    machine: Machine,
    /// Where its monotonic time begins. Only differences of it are ever seen.
    epoch: Instant,
    elapsed: Cell<Duration>,
    wall: Cell<i64>,
    faults: Cell<Faults>,
    /// The call with this number has this fate.
    fate: Cell<Option<(u64, Fate)>>,
    current: Cell<Option<Process>>,
    dead: RefCell<BTreeSet<Process>>,
    steps: Cell<u64>,
    /// Files whose syncs failed, each time.
    failed_syncs: RefCell<Vec<PathBuf>>,
    trace: Cell<u64>,
    chance: RefCell<Chance>,
    hook: RefCell<Option<Hook>>,
    waiter: RefCell<Option<Box<dyn Fn()>>>,
    watch: RefCell<Option<Watch>>,
    disk: RefCell<Disk>,
    /// What happens at a step that is still to come.
    doom: Cell<Option<(u64, Death)>>,
    /// The process will die at its next step, and this write will have been cut short.
    cut_short: RefCell<Option<CutShort>>,
}

struct Disk {
    /// Of each file system: that of the data, and that of all else.
    names: [Names; 2],
    files: BTreeMap<u64, SimulatedFile>,
    next_file: u64,
    /// Space that somebody else takes.
    ballast: u64,
    locks: BTreeMap<u64, Vec<(u64, bool)>>,
    /// Maps of a file that were written through, and so keep its pages in memory.
    touched: BTreeMap<u64, BTreeSet<u64>>,
    next_handle: u64,
}

struct CutShort {
    process: Process,
    file: u64,
    offset: usize,
    before: Vec<u8>,
}

thread_local! {
    static HERE: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The world of this thread.
pub(crate) fn here() -> Option<Rc<World>> {
    HERE.with_borrow(Clone::clone)
}

/// While this is held, the world is that of its thread.
pub struct Entered(());

impl Drop for Entered {
    fn drop(&mut self) {
        HERE.set(None);
    }
}

impl World {
    /// A machine that was just switched on, with an empty disk.
    pub fn new(seed: u64, machine: Machine) -> Rc<Self> {
        let names = || Names::new(machine.journal);
        Rc::new(Self {
            epoch: Instant::now(),
            elapsed: Cell::default(),
            wall: Cell::new(machine.now),
            faults: Cell::default(),
            fate: Cell::default(),
            current: Cell::default(),
            dead: RefCell::default(),
            steps: Cell::default(),
            failed_syncs: RefCell::default(),
            trace: Cell::default(),
            chance: RefCell::new(Chance::new(seed)),
            hook: RefCell::default(),
            waiter: RefCell::default(),
            watch: RefCell::default(),
            disk: RefCell::new(Disk {
                names: [names(), names()],
                files: BTreeMap::new(),
                next_file: 0,
                ballast: 0,
                locks: BTreeMap::new(),
                touched: BTreeMap::new(),
                next_handle: 0,
            }),
            doom: Cell::default(),
            cut_short: RefCell::default(),
            machine,
        })
    }

    /// Makes it the world of this thread.
    pub fn enter(self: &Rc<Self>) -> Entered {
        HERE.set(Some(Rc::clone(self)));
        Entered(())
    }

    /// What may happen from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.faults.set(faults);
    }

    /// What comes of the call with this number ([`World::steps`]), all chance apart; nothing special by default.
    pub fn set_fate(&self, fate: Option<(u64, Fate)>) {
        self.fate.set(fate);
    }

    /// What may happen.
    pub fn faults(&self) -> Faults {
        self.faults.get()
    }

    /// What runs between the steps of a program: turns of others. It is not asked again while it runs.
    pub fn set_hook(&self, hook: impl FnMut(&Call<'_>) + 'static) {
        *self.hook.borrow_mut() = Some(Box::new(hook));
    }

    /// What sees every call before it is made.
    pub fn set_watch(&self, watch: impl Fn(&Self, &Call<'_>) + 'static) {
        *self.watch.borrow_mut() = Some(Box::new(watch));
    }

    /// What runs while a thread waits for another: turns of those that it may wait for.
    pub fn set_waiter(&self, waiter: impl Fn() + 'static) {
        *self.waiter.borrow_mut() = Some(Box::new(waiter));
    }

    /// Lets a process run until it is done or dead. Any other panic goes on.
    ///
    /// # Errors
    /// If it died.
    pub fn run<T>(&self, process: Process, doing: impl FnOnce() -> T) -> Result<T, Death> {
        let before = self.current.replace(Some(process));
        let done = catch_unwind(AssertUnwindSafe(|| {
            let done = doing();
            self.die_if_cut_short(process);
            done
        }));
        self.current.set(before);
        done.map_err(|panic| match panic.downcast::<Death>() {
            Ok(death) => *death,
            Err(panic) => resume_unwind(panic),
        })
    }

    /// A death that another process was in the middle of goes on with that.
    pub fn go_on_dying(death: Death) -> ! {
        resume_unwind(Box::new(death))
    }

    /// So many steps from now, this happens, if the process that is to be killed makes that step.
    pub fn doom(&self, steps: usize, death: Death) {
        self.doom.set(Some((self.steps.get() + steps as u64, death)));
    }

    /// What was to happen so does not.
    pub fn spare(&self) {
        self.doom.take();
    }

    /// The process may be started again.
    pub fn revive(&self, process: Process) {
        self.dead.borrow_mut().remove(&process);
    }

    /// The process is no more: whatever it still does while it is cleared away does not happen.
    pub fn bury(&self, process: Process) {
        self.dead.borrow_mut().insert(process);
    }

    /// The power was cut, and is back. All programs are gone before this.
    pub fn power_cut(&self) {
        let mut disk = self.disk.borrow_mut();
        let mut chance = self.chance.borrow_mut();
        let kept = *chance.pick(&[0, 10, 50, 90, 100]);
        for names in &mut disk.names {
            names.power_cut(&mut chance, kept);
        }
        let linked: BTreeSet<u64> = disk.names.iter().flat_map(Names::files).collect();
        disk.files.retain(|file, _| linked.contains(file));
        for file in disk.files.values_mut() {
            // a page for itself, or what makes the most trouble: the header page alone, or all but that
            match chance.below(8) {
                0 => file.power_cut(&mut chance, |page| if page == 0 { 100 } else { 0 }),
                1 => file.power_cut(&mut chance, |page| if page == 0 { 0 } else { 100 }),
                2 => file.power_cut(&mut chance, |_| 0),
                3 => file.power_cut(&mut chance, |_| 100),
                _ => file.power_cut(&mut chance, |_| kept),
            }
        }
        disk.locks.clear();
        disk.touched.clear();
        self.cut_short.take();
        self.dead.borrow_mut().clear();
    }

    /// Time passes.
    pub fn advance(&self, time: Duration) {
        self.elapsed.set(self.elapsed.get() + time);
        self.wall.set(self.wall.get() + i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    }

    /// Somebody sets the clock.
    pub fn set_clock(&self, now: i64) {
        self.wall.set(now);
    }

    /// The wall clock.
    pub fn now(&self) -> i64 {
        self.wall.get()
    }

    /// How long it has been running.
    pub fn elapsed(&self) -> Duration {
        self.elapsed.get()
    }

    pub(crate) fn instant(&self) -> Instant {
        self.epoch + self.elapsed.get()
    }

    pub(crate) fn bits(&self) -> u64 {
        self.chance.borrow_mut().bits()
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Syncs of files below this folder that failed so far.
    pub fn failed_syncs(&self, folder: &Path) -> u64 {
        self.failed_syncs.borrow().iter().filter(|path| path.starts_with(folder)).count() as u64
    }

    /// A digest of all steps: the same for the same seed.
    pub fn trace(&self) -> u64 {
        self.trace.get()
    }

    /// Somebody else takes so much space.
    pub fn set_ballast(&self, bytes: u64) {
        self.disk.borrow_mut().ballast = bytes;
    }

    /// What a file surely holds after a power cut, if it is surely there.
    pub fn durable(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.disk.borrow();
        let file = disk.names[file_system(path)].durable_file(path)?;
        Some(disk.files.get(&file)?.on_platter())
    }

    /// All files below a folder, as they are named now.
    pub fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let disk = self.disk.borrow();
        let names = disk.names[file_system(folder)].paths();
        names.filter(|(path, _)| path.starts_with(folder)).map(|(path, _)| path.to_owned()).collect()
    }

    /// Flips a bit that is on disk, in a file below this folder whose name ends so. False if none was found.
    pub fn rot(&self, folder: &Path, end: &str) -> bool {
        let mut disk = self.disk.borrow_mut();
        let mut chance = self.chance.borrow_mut();
        let Disk { names, files, .. } = &mut *disk;
        let is_meant = |path: &Path| path.starts_with(folder) && path.to_string_lossy().ends_with(end);
        let all = names[file_system(folder)].paths();
        let meant: Vec<u64> = all.filter(|(path, _)| is_meant(path)).map(|(_, file)| file).collect();
        if meant.is_empty() {
            return false;
        }
        let file = files.get_mut(chance.pick(&meant)).expect("it has a name");
        let bit = chance.below(file.len() * 8);
        file.rot(bit)
    }

    pub(crate) fn open(&self, path: &Path, mode: Mode) -> io::Result<Handle> {
        let action = if matches!(mode, Mode::Read | Mode::Write) { "open" } else { "create" };
        self.step(action, path)?;
        self.may_fail(|faults| faults.read_error)?;
        let mut disk = self.disk.borrow_mut();
        let names = &mut disk.names[file_system(path)];
        let file = match (names.get(path), mode) {
            (Ok(Node::File(file)), _) => file,
            (Ok(Node::Folder), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Err(error), Mode::Read | Mode::Write) => return Err(error),
            (Err(_), Mode::Create | Mode::Truncate) => {
                let file = disk.next_file;
                disk.names[file_system(path)].add(path, Node::File(file))?;
                disk.next_file += 1;
                disk.files.insert(file, SimulatedFile::new());
                file
            }
        };
        if mode == Mode::Truncate {
            disk.file(file).set_len(0);
        }
        disk.next_handle += 1;
        let (handle, told) = (disk.next_handle, disk.file(file).failed_syncs);
        Ok(Handle::new(handle, file, path, told))
    }

    pub(crate) fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.step("look at", path)?;
        let mut disk = self.disk.borrow_mut();
        match disk.names[file_system(path)].get(path)? {
            Node::Folder => Ok(Metadata { len: 0, allocated: 0, is_folder: true }),
            Node::File(file) => Ok(disk.file(file).metadata()),
        }
    }

    pub(crate) fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.step("create folder", path)?;
        self.disk.borrow_mut().names[file_system(path)].add(path, Node::Folder)?;
        self.step("created folder", path)
    }

    pub(crate) fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        self.step("list", folder)?;
        self.may_fail(|faults| faults.read_error)?;
        self.disk.borrow().names[file_system(folder)].list(folder)
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename", from)?;
        self.may_fail(|faults| faults.write_error)?;
        self.disk.borrow_mut().names[file_system(from)].rename(from, to)?;
        self.step("renamed", to)
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        self.step("remove", path)?;
        self.disk.borrow_mut().names[file_system(path)].remove(path)?;
        self.step("removed", path)
    }

    pub(crate) fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.step("sync folder", folder)?;
        self.may_fail(|faults| faults.sync_error)?;
        if self.sync_of(folder) != Sync::Lying {
            let mut disk = self.disk.borrow_mut();
            disk.names[file_system(folder)].sync(folder)?;
            if folder == Path::new("/") {
                // where both file systems are mounted
                disk.names.iter_mut().try_for_each(|names| names.sync(folder))?;
            }
        }
        self.step("synced folder", folder)
    }

    pub(crate) fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.step("ask for the free space of", path)?;
        Ok(self.disk.borrow().free(self.machine.disk_size))
    }

    fn sync_of(&self, path: &Path) -> Sync {
        let lies = self.machine.liar.as_ref().is_some_and(|folder| path.starts_with(folder));
        if lies { Sync::Lying } else { Sync::Honest }
    }

    /// A program does something. Others may run first, and it may not live to do it.
    fn step(&self, action: &'static str, path: &Path) -> io::Result<()> {
        let Some(process) = self.current.get() else { return Ok(()) };
        if self.dead.borrow().contains(&process) {
            return Err(io::Error::other("the process is dead"));
        }
        self.die_if_cut_short(process);
        self.steps.set(self.steps.get() + 1);
        self.note(process, action, path);
        if let Some(watch) = &*self.watch.borrow() {
            watch(self, &Call { process, action, path });
        }
        let faults = self.faults.get();
        if self.one_in(faults.write_back) {
            self.write_back();
        }
        if self.one_in(faults.turn) {
            self.others_run(&Call { process, action, path });
        }
        match self.fate.get().filter(|(at, _)| *at == self.steps.get()).map(|(_, fate)| fate) {
            Some(Fate::Kill) => self.die(Death::Killed(process)),
            Some(Fate::PowerCut) => self.die(Death::PowerCut),
            Some(Fate::Error) => return Err(io::Error::from_raw_os_error(EIO)),
            Some(Fate::NoSpace) if NEED_SPACE.contains(&action) => return Err(io::ErrorKind::StorageFull.into()),
            Some(Fate::NoSpace) | None => {}
        }
        if let Some((_, death)) = self.doom.get().filter(|(step, _)| *step == self.steps.get()) {
            self.doom.take();
            if matches!(death, Death::PowerCut) || death == Death::Killed(process) {
                self.die(death);
            }
        }
        // between what is done and the sync that makes it last is where it hurts
        let often = if action.starts_with("sync") || action == "renamed" { 2 } else { 1 };
        if self.one_in(faults.kill.div_ceil(often)) {
            self.die(Death::Killed(process));
        }
        if self.one_in(faults.power_cut.div_ceil(often)) {
            self.die(Death::PowerCut);
        }
        Ok(())
    }

    /// A thread waits for another one of its process, which gets a turn.
    pub(crate) fn wait_for_others(&self) {
        if let Some(waiter) = &*self.waiter.borrow() {
            waiter();
        }
    }

    fn others_run(&self, call: &Call<'_>) {
        struct GiveBack<'a>(&'a World, Option<Hook>);
        impl Drop for GiveBack<'_> {
            fn drop(&mut self) {
                *self.0.hook.borrow_mut() = self.1.take();
            }
        }
        let hook = self.hook.borrow_mut().take();
        let mut running = GiveBack(self, hook);
        if let Some(hook) = &mut running.1 {
            hook(call);
        }
    }

    fn may_fail(&self, how_often: impl Fn(&Faults) -> u32) -> io::Result<()> {
        let fails = self.current.get().is_some() && self.one_in(how_often(&self.faults.get()));
        if fails { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }

    fn one_in(&self, times: u32) -> bool {
        times > 0 && self.chance.borrow_mut().one_in(times)
    }

    fn write_back(&self) {
        let mut disk = self.disk.borrow_mut();
        let mut chance = self.chance.borrow_mut();
        for names in &mut disk.names {
            if chance.one_in(4) {
                names.write_back(&mut chance);
            }
        }
        for file in disk.files.values_mut() {
            if chance.one_in(4) {
                file.write_back(&mut chance);
            }
        }
    }

    fn die(&self, death: Death) -> ! {
        match death {
            Death::Killed(process) => self.bury(process),
            // nobody does anything any more
            Death::PowerCut => self.dead.borrow_mut().extend((0..=u8::MAX).map(Process)),
        }
        resume_unwind(Box::new(death))
    }

    fn die_if_cut_short(&self, process: Process) {
        let cut_short = self.cut_short.borrow_mut().take_if(|cut| cut.process == process);
        if let Some(CutShort { file, offset, before, .. }) = cut_short {
            let written = self.chance.borrow_mut().below(before.len());
            self.disk.borrow_mut().file(file).write(offset + written, &before[written..]);
            self.die(Death::Killed(process));
        }
    }

    fn note(&self, process: Process, action: &str, path: &Path) {
        let mut trace = self.trace.get();
        for byte in [process.0].iter().chain(action.as_bytes()).chain(path.as_os_str().as_encoded_bytes()) {
            // FNV-1a
            trace = (trace ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.trace.set(trace);
    }
}

impl Disk {
    fn file(&mut self, file: u64) -> &mut SimulatedFile {
        self.files.get_mut(&file).expect("files with handles are kept")
    }

    fn free(&self, size: u64) -> u64 {
        let linked: BTreeSet<u64> = self.names.iter().flat_map(Names::paths).map(|(_, file)| file).collect();
        let pages: usize = linked.iter().filter_map(|file| self.files.get(file)).map(SimulatedFile::pages).sum();
        size.saturating_sub((pages * PAGE) as u64).saturating_sub(self.ballast)
    }
}

impl SimulatedFile {
    fn metadata(&self) -> Metadata {
        Metadata { len: self.len() as u64, allocated: (self.pages() * PAGE) as u64, is_folder: false }
    }
}

/// The data and the output are on file systems of their own.
fn file_system(path: &Path) -> usize {
    usize::from(!path.starts_with("/data"))
}
