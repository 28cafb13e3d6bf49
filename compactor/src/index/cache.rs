//! The pages in memory: as many as allowed, those used again and again the longest.
//!
//! A clock: a hand goes round, and takes the first page that was not used since it last came by.

use hashbrown::HashMap;

use super::IndexError;
use super::page::{PAGE_BYTES, Page, is_whole};
use crate::storage::ReadFile;

/// A run and a page in it.
type Place = (u64, u64);

#[derive(Debug)]
pub(super) struct PageCache {
    frames: Vec<Frame>,
    /// Where each page is. Pages of runs that are no more are in it too until the hand takes them: no run's number
    /// is used twice.
    at: HashMap<Place, usize, foldhash::fast::RandomState>,
    most: usize,
    hand: usize,
}

#[derive(Debug)]
struct Frame {
    /// `None` while there is no whole page in it.
    place: Option<Place>,
    used: bool,
    page: Box<Page>,
}

impl PageCache {
    /// For at most so many bytes, or one page.
    pub(super) fn new(bytes: usize) -> Self {
        Self { frames: Vec::new(), at: HashMap::default(), most: (bytes / PAGE_BYTES).max(1), hand: 0 }
    }

    /// Bytes of pages held.
    pub(super) fn bytes(&self) -> usize {
        self.frames.len() * PAGE_BYTES
    }

    /// A page, from memory or from its file; never one that fails its checksum.
    pub(super) fn page(&mut self, file: &ReadFile, run: u64, number: u64) -> Result<&Page, IndexError> {
        let at = match self.at.get(&(run, number)) {
            Some(at) => *at,
            None => self.fetch(file, run, number)?,
        };
        let frame = &mut self.frames[at];
        frame.used = true;
        Ok(&frame.page)
    }

    fn fetch(&mut self, file: &ReadFile, run: u64, number: u64) -> Result<usize, IndexError> {
        let at = self.free_frame();
        let frame = &mut self.frames[at];
        file.read_at(&mut frame.page[..], number * PAGE_BYTES as u64).map_err(IndexError::from_read)?;
        if !is_whole(&frame.page, run, number) {
            return Err(IndexError::Corrupt { path: file.path().to_owned(), page: number });
        }
        frame.place = Some((run, number));
        self.at.insert((run, number), at);
        Ok(at)
    }

    fn free_frame(&mut self) -> usize {
        if self.frames.len() < self.most {
            self.frames.push(Frame { place: None, used: false, page: Box::new([0; PAGE_BYTES]) });
            return self.frames.len() - 1;
        }
        loop {
            let at = self.hand;
            self.hand = (at + 1) % self.frames.len();
            let frame = &mut self.frames[at];
            if std::mem::take(&mut frame.used) {
                continue;
            }
            if let Some(place) = frame.place.take() {
                self.at.remove(&place);
            }
            return at;
        }
    }
}
