//! Which files are opened, as the kernel tells.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::out;

/// Watches all files of a table.
pub struct Opened {
    inotify: OwnedFd,
    /// By the number that the kernel gives them, as parts of paths.
    hours: HashMap<i32, PathBuf>,
}

impl Opened {
    /// Begins to look. What is opened counts from when a file `begin` is made in `marks` until `end` is.
    pub fn watch(out: &Path, table: &str, marks: &Path) -> Self {
        fs::create_dir(marks).unwrap();
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&inotify, marks, WatchFlags::CREATE).unwrap();
        let hours: BTreeSet<PathBuf> =
            out::files(out, table).iter().map(|file| file.parent().unwrap().to_owned()).collect();
        let watch = |hour: PathBuf| {
            (inotify::add_watch(&inotify, out.join(table).join(&hour), WatchFlags::OPEN).unwrap(), hour)
        };
        let hours = hours.into_iter().map(watch).collect();
        Self { inotify, hours }
    }

    /// The files that were opened, by their paths in the table.
    pub fn files(self) -> BTreeSet<PathBuf> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut files = BTreeSet::new();
        let [mut has_begun, mut has_ended] = [false; 2];
        loop {
            let event = match reader.next() {
                Err(Errno::AGAIN) => break,
                event => event.unwrap(),
            };
            assert!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW));
            let name = event.file_name().map(|name| name.to_str().unwrap()).unwrap_or_default();
            match self.hours.get(&event.wd()) {
                None => {
                    has_begun |= name == "begin";
                    has_ended |= name == "end";
                }
                Some(hour) if has_begun && !has_ended && name.ends_with(".parquet") => {
                    files.insert(hour.join(name));
                }
                Some(_) => {}
            }
        }
        assert!(has_begun && has_ended, "the reader has marked its time");
        files
    }
}
