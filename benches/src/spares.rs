//! What a compactor does for a collector's speed, and nothing else: segments that are finished become spares.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use tallylight_collector::log::storage::{self, MappedFile};
use tallylight_proto::layout;
use tallylight_proto::segment::{HEADER_LEN, HeaderPage};

/// How large segments are that are recycled.
pub const LEN: usize = 64 << 20;
/// How many there are before there are finished ones.
const COUNT: u64 = 8;
/// How often it is looked whether one is finished.
const LOOK: Duration = Duration::from_millis(20);

/// Files as a compactor leaves them: full length, all space real, pages in memory.
pub fn make(data: &Path) -> Result<()> {
    let spares = data.join(layout::LOG).join(layout::SPARE);
    std::fs::create_dir_all(&spares)?;
    for n in 0..COUNT {
        // through the map, as a collector does: what is written otherwise lies in the page cache in larger pieces, and so much of it
        // goes to disk again at each sync of a little
        let mut file = MappedFile::create(&spares.join(layout::segment(n * LEN as u64)), LEN as u64)?;
        file.bytes(HEADER_LEN as u64, LEN - HEADER_LEN).fill(0x55);
        file.sync()?;
    }
    Ok(())
}

/// Gives finished segments to `finish`, with where a spare of that name would be. Says of none twice.
pub fn recycle(data: &Path, finish: impl Fn(&Path, &Path) -> std::io::Result<()>) -> Result<()> {
    let folder = data.join(layout::LOG);
    for name in storage::list(&folder)?.into_iter().filter(|name| layout::segment_base(name).is_some()) {
        let path = folder.join(&name);
        let mut page = [0; HEADER_LEN];
        let len = File::open(&path)?.read_at(&mut page, 0)?;
        // before it is sealed twice the collector still writes to it
        if HeaderPage::decode(&page[..len]).is_ok_and(|page| page.is_sealed_twice) {
            finish(&path, &folder.join(layout::SPARE).join(&name)).context(name)?;
        }
    }
    Ok(())
}

/// Makes a spare of a finished segment.
pub fn keep(finished: &Path, spare: &Path) -> std::io::Result<()> {
    storage::rename(finished, spare).map_err(|error| error.source)
}

/// Recycles the segments of a collector that runs, until it is dropped.
pub struct Recycler {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Recycler {
    /// Begins with some spares.
    pub fn start(data: &Path) -> Result<Self> {
        make(data)?;
        let (stop, stopped) = channel();
        let data = data.to_owned();
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                recycle(&data, keep).unwrap_or_else(|error| eprintln!("segments are not recycled: {error:#}"));
            }
        });
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Recycler {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
