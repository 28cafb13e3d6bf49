//! A run: first copies sorted by id, in a file that never changes.
//!
//! ```text
//! group 0: up to 16 blocks, leaf │ group 1: … │ … │ fences │ footer          pages of 4 KiB
//! ```
//!
//! | page | bytes |
//! | --- | --- |
//! | block | up to 127 copies of 32 bytes: id 16 (big-endian), position 8, received at 8 |
//! | leaf | the first id of each of its group's blocks, 16 × 16; a filter of its ids, 3836 |
//! | fences | the first id of each group, 255 to a page |
//! | footer | magic 8, copies 8, last id 16, newest receive time 8 |
//!
//! Every block but the run's last is full, and every group but its last has 16: how many copies there are says where
//! everything is. Fences alone stay in memory, 16 bytes for 2032 copies; all else is read through the cache. Ids of
//! version 7 sort by their time, so those asked for together lie together; of other ids, nothing but speed differs.

use std::path::{Path, PathBuf};

use super::cache::PageCache;
use super::filter::{self, FilterKey};
use super::page::{BODY_BYTES, PAGE_BYTES, Page, id_at, is_whole, seal, u64_at};
use super::{FirstCopy, IndexError};
use crate::storage::{NewFile, ReadFile};

const MAGIC: [u8; 8] = *b"TLindex1";
const COPY_BYTES: usize = 32;
const COPIES_IN_BLOCK: usize = BODY_BYTES / COPY_BYTES;
const BLOCKS_IN_GROUP: usize = 16;
const ID_BYTES: usize = 16;
/// In a leaf, behind the blocks' first ids.
const FILTER_AT: usize = BLOCKS_IN_GROUP * ID_BYTES;
const FENCES_IN_PAGE: usize = BODY_BYTES / ID_BYTES;

/// `<number, 20 digits>.run`
pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.run"))
}

/// Where everything is in a run of so many copies.
#[derive(Clone, Copy, Debug)]
struct Shape {
    blocks: usize,
    groups: usize,
    fence_pages: usize,
}

impl Shape {
    fn of(copies: u64) -> Option<Self> {
        let blocks = usize::try_from(copies).ok()?.div_ceil(COPIES_IN_BLOCK);
        let groups = blocks.div_ceil(BLOCKS_IN_GROUP);
        Some(Self { blocks, groups, fence_pages: groups.div_ceil(FENCES_IN_PAGE) })
    }

    fn block(block: usize) -> u64 {
        (block + block / BLOCKS_IN_GROUP) as u64
    }

    fn leaf(self, group: usize) -> u64 {
        (self.blocks_before(group + 1) + group) as u64
    }

    /// The first block of a group.
    fn blocks_before(self, group: usize) -> usize {
        (group * BLOCKS_IN_GROUP).min(self.blocks)
    }

    fn fence_page(self, page: usize) -> u64 {
        (self.blocks + self.groups + page) as u64
    }

    fn footer(self) -> u64 {
        self.fence_page(self.fence_pages)
    }

    fn bytes(self) -> u64 {
        (self.footer() + 1) * PAGE_BYTES as u64
    }
}

/// A run that can be asked.
#[derive(Debug)]
pub(super) struct Run {
    file: ReadFile,
    /// Its number, never used again.
    pub(super) number: u64,
    /// How many copies it holds, at least one.
    pub(super) copies: u64,
    /// The greatest receive time in it: it can go once that is old enough.
    pub(super) newest: i64,
    shape: Shape,
    /// The first id of each group.
    fences: Vec<u128>,
    last: u128,
}

impl Run {
    /// Opens a run that is known to hold so many copies, and checks its length, footer and fences. The rest is checked
    /// as it is read.
    pub(super) fn open(folder: &Path, number: u64, copies: u64) -> Result<Self, IndexError> {
        let file = ReadFile::open(&path(folder, number)).map_err(IndexError::from_read)?;
        let corrupt = |page| IndexError::Corrupt { path: file.path().to_owned(), page };
        let shape = Shape::of(copies).filter(|_| copies > 0).ok_or_else(|| corrupt(0))?;
        if file.len()? != shape.bytes() {
            return Err(corrupt(shape.footer()));
        }
        let mut page = [0; PAGE_BYTES];
        let mut read = |at: u64| {
            file.read_at(&mut page, at * PAGE_BYTES as u64).map_err(IndexError::from_read)?;
            if is_whole(&page, number, at) { Ok(page) } else { Err(corrupt(at)) }
        };

        let footer = read(shape.footer())?;
        if footer[..8] != MAGIC || u64_at(&footer, 8) != copies {
            return Err(corrupt(shape.footer()));
        }
        let (last, newest) = (id_at(&footer, 16), u64_at(&footer, 32).cast_signed());
        let mut fences = Vec::with_capacity(shape.groups);
        for at in 0..shape.fence_pages {
            let page = read(shape.fence_page(at))?;
            let here = FENCES_IN_PAGE.min(shape.groups - fences.len());
            fences.extend((0..here).map(|n| id_at(&page, n * ID_BYTES)));
        }
        Ok(Self { file, number, copies, newest, shape, fences, last })
    }

    /// Bytes of memory that it holds on to.
    pub(super) fn memory(&self) -> usize {
        self.fences.capacity() * size_of::<u128>()
    }

    /// Shows all copies of an id, until one of them is an answer.
    pub(super) fn find<T>(
        &self,
        cache: &mut PageCache,
        id: u128,
        key: FilterKey,
        mut answer: impl FnMut(FirstCopy) -> Option<T>,
    ) -> Result<Option<T>, IndexError> {
        if id > self.last {
            return Ok(None);
        }
        // the copies of one id may go on behind a fence that is this very id
        let mut group = self.fences.partition_point(|fence| *fence < id).saturating_sub(1);
        while self.fences.get(group).is_some_and(|fence| *fence <= id) {
            let leaf = cache.page(&self.file, self.number, self.shape.leaf(group))?;
            if filter::may_hold(&leaf[FILTER_AT..BODY_BYTES], key) {
                let (before, end) = (self.shape.blocks_before(group), self.shape.blocks_before(group + 1));
                let firsts = |n: &usize| id_at(leaf, (n - before) * ID_BYTES);
                let from = (before..end).take_while(|n| firsts(n) < id).last().unwrap_or(before);
                let to = (from..end).take_while(|n| firsts(n) <= id).last();
                for block in to.map(|to| from..=to).into_iter().flatten() {
                    let page = cache.page(&self.file, self.number, Shape::block(block))?;
                    let copies = self.copies_in(block);
                    let answered = (first_not_below(page, copies, id)..copies)
                        .map(|n| copy_at(page, n))
                        .take_while(|copy| copy.id == id)
                        .find_map(&mut answer);
                    if answered.is_some() {
                        return Ok(answered);
                    }
                }
            }
            group += 1;
        }
        Ok(None)
    }

    /// All copies, sorted, each page checked.
    pub(super) fn read_all(&self) -> RunReader<'_> {
        RunReader { run: self, group: 0, copies: Vec::new().into_iter() }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the rest of the last block is less than a block")]
    fn copies_in(&self, block: usize) -> usize {
        (self.copies - (block * COPIES_IN_BLOCK) as u64).min(COPIES_IN_BLOCK as u64) as usize
    }
}

/// The copies of a run one after the other, a group at a time in memory.
pub(super) struct RunReader<'a> {
    run: &'a Run,
    group: usize,
    copies: std::vec::IntoIter<FirstCopy>,
}

impl RunReader<'_> {
    /// The next copy, until there are no more.
    pub(super) fn next(&mut self) -> Result<Option<FirstCopy>, IndexError> {
        if self.copies.as_slice().is_empty() && self.group < self.run.shape.groups {
            self.copies = self.read_group()?.into_iter();
            self.group += 1;
        }
        Ok(self.copies.next())
    }

    fn read_group(&self) -> Result<Vec<FirstCopy>, IndexError> {
        let run = self.run;
        let blocks = run.shape.blocks_before(self.group)..run.shape.blocks_before(self.group + 1);
        let first_page = Shape::block(blocks.start);
        let mut bytes = vec![0; blocks.len() * PAGE_BYTES];
        run.file.read_at(&mut bytes, first_page * PAGE_BYTES as u64).map_err(IndexError::from_read)?;
        let mut copies = Vec::with_capacity(blocks.len() * COPIES_IN_BLOCK);
        for ((page, block), number) in bytes.as_chunks::<PAGE_BYTES>().0.iter().zip(blocks).zip(first_page..) {
            if !is_whole(page, run.number, number) {
                return Err(IndexError::Corrupt { path: run.file.path().to_owned(), page: number });
            }
            copies.extend((0..run.copies_in(block)).map(|n| copy_at(page, n)));
        }
        Ok(copies)
    }
}

/// Writes a run; it is there once it is finished.
pub(super) struct RunWriter {
    file: NewFile,
    number: u64,
    block: Box<Page>,
    leaf: Box<Page>,
    fences: Vec<u128>,
    copies: u64,
    pages: u64,
    last: Option<FirstCopy>,
    newest: i64,
}

impl RunWriter {
    pub(super) fn create(folder: &Path, number: u64) -> Result<Self, IndexError> {
        let page = || Box::new([0; PAGE_BYTES]);
        let file = NewFile::create(&path(folder, number))?;
        let (block, leaf) = (page(), page());
        Ok(Self { file, number, block, leaf, fences: Vec::new(), copies: 0, pages: 0, last: None, newest: i64::MIN })
    }

    /// Adds a copy, which sorts behind all before it.
    pub(super) fn push(&mut self, copy: FirstCopy) -> Result<(), IndexError> {
        assert!(self.last.is_none_or(|last| last < copy), "copies come sorted, each once");
        let (in_block, block) = place_in(self.copies, COPIES_IN_BLOCK);
        if in_block == 0 && block > 0 {
            self.end_block()?;
            if block.is_multiple_of(BLOCKS_IN_GROUP) {
                self.end_group()?;
            }
        }
        if in_block == 0 {
            let in_group = block % BLOCKS_IN_GROUP;
            if in_group == 0 {
                self.fences.push(copy.id);
            }
            self.leaf[in_group * ID_BYTES..][..ID_BYTES].copy_from_slice(&copy.id.to_be_bytes());
        }
        self.block[in_block * COPY_BYTES..][..COPY_BYTES].copy_from_slice(&copy.to_bytes());
        filter::add(&mut self.leaf[FILTER_AT..BODY_BYTES], FilterKey::of(copy.id));
        self.copies += 1;
        self.newest = self.newest.max(copy.received_at);
        self.last = Some(copy);
        Ok(())
    }

    /// Makes it durable and says how many copies it has. A run of none is not written.
    pub(super) fn finish(mut self) -> Result<u64, IndexError> {
        let Some(last) = self.last else { return Ok(0) };
        self.end_block()?;
        self.end_group()?;
        let mut page = Box::new([0; PAGE_BYTES]);
        for fences in std::mem::take(&mut self.fences).chunks(FENCES_IN_PAGE) {
            page.fill(0);
            for (n, fence) in fences.iter().enumerate() {
                page[n * ID_BYTES..][..ID_BYTES].copy_from_slice(&fence.to_be_bytes());
            }
            self.write(&mut page)?;
        }
        page.fill(0);
        page[..8].copy_from_slice(&MAGIC);
        page[8..16].copy_from_slice(&self.copies.to_le_bytes());
        page[16..32].copy_from_slice(&last.id.to_be_bytes());
        page[32..40].copy_from_slice(&self.newest.to_le_bytes());
        self.write(&mut page)?;
        self.file.commit()?;
        Ok(self.copies)
    }

    fn end_block(&mut self) -> Result<(), IndexError> {
        let mut block = std::mem::replace(&mut self.block, Box::new([0; PAGE_BYTES]));
        self.write(&mut block)
    }

    fn end_group(&mut self) -> Result<(), IndexError> {
        let mut leaf = std::mem::replace(&mut self.leaf, Box::new([0; PAGE_BYTES]));
        self.write(&mut leaf)
    }

    fn write(&mut self, page: &mut Page) -> Result<(), IndexError> {
        seal(page, self.number, self.pages);
        self.pages += 1;
        Ok(self.file.append(&page[..])?)
    }
}

/// The place of the n-th copy in its block, and the number of that block.
fn place_in(n: u64, copies_in_block: usize) -> (usize, usize) {
    let n = usize::try_from(n).expect("a run's copies are far fewer than addresses");
    (n % copies_in_block, n / copies_in_block)
}

fn copy_at(page: &Page, n: usize) -> FirstCopy {
    let bytes = &page[n * COPY_BYTES..][..COPY_BYTES];
    FirstCopy { id: id_at(bytes, 0), position: u64_at(bytes, 16), received_at: u64_at(bytes, 24).cast_signed() }
}

impl FirstCopy {
    fn to_bytes(self) -> [u8; COPY_BYTES] {
        let mut bytes = [0; COPY_BYTES];
        bytes[..16].copy_from_slice(&self.id.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.position.to_le_bytes());
        bytes[24..].copy_from_slice(&self.received_at.to_le_bytes());
        bytes
    }
}

/// The place of the first of a block's copies whose id is not below this one.
fn first_not_below(page: &Page, copies: usize, id: u128) -> usize {
    let (mut from, mut to) = (0, copies);
    while from < to {
        let middle = from.midpoint(to);
        if id_at(page, middle * COPY_BYTES) < id { from = middle + 1 } else { to = middle }
    }
    from
}
