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
use crate::side_by_side;
use crate::storage::{NewFile, ReadFile};

const MAGIC: [u8; 8] = *b"TLindex2";
const COPY_BYTES: usize = 32;
const COPIES_IN_BLOCK: usize = BODY_BYTES / COPY_BYTES;
const BLOCKS_IN_GROUP: usize = 16;
pub(super) const COPIES_IN_GROUP: usize = BLOCKS_IN_GROUP * COPIES_IN_BLOCK;
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
    /// The last id.
    pub(super) last: u128,
    /// How often its pages were looked at, since it was opened.
    pub(super) asked: u64,
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
        Ok(Self { file, number, copies, newest, shape, fences, last, asked: 0 })
    }

    /// Bytes of memory that it holds on to.
    pub(super) fn memory(&self) -> usize {
        self.fences.capacity() * size_of::<u128>()
    }

    /// Shows all copies of an id, until one of them is an answer.
    pub(super) fn find<T>(
        &mut self,
        cache: &mut PageCache,
        id: u128,
        mut answer: impl FnMut(FirstCopy) -> Option<T>,
    ) -> Result<Option<T>, IndexError> {
        let key = FilterKey::of(id);
        // the copies of one id may go on behind a fence that is this very id
        let mut group = self.fences.partition_point(|fence| *fence < id).saturating_sub(1);
        while self.fences.get(group).is_some_and(|fence| *fence <= id) {
            self.asked += 1;
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
        RunReader { run: self, group: 0, bytes: Vec::new(), copies: Vec::new(), read: 0 }
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
    bytes: Vec<u8>,
    copies: Vec<FirstCopy>,
    /// How many of these were read.
    read: usize,
}

impl RunReader<'_> {
    /// The next copy, without going on; none at the end.
    pub(super) fn peek(&mut self) -> Result<Option<FirstCopy>, IndexError> {
        if self.read == self.copies.len() && self.group < self.run.shape.groups {
            self.read_group()?;
        }
        Ok(self.copies.get(self.read).copied())
    }

    /// Goes on behind the copy that was peeked at.
    pub(super) fn skip(&mut self) {
        self.read += 1;
    }

    fn read_group(&mut self) -> Result<(), IndexError> {
        let run = self.run;
        let blocks = run.shape.blocks_before(self.group)..run.shape.blocks_before(self.group + 1);
        let first_page = Shape::block(blocks.start);
        self.bytes.resize(blocks.len() * PAGE_BYTES, 0);
        run.file.read_at(&mut self.bytes, first_page * PAGE_BYTES as u64).map_err(IndexError::from_read)?;
        self.copies.clear();
        self.read = 0;
        for ((page, block), number) in self.bytes.as_chunks::<PAGE_BYTES>().0.iter().zip(blocks).zip(first_page..) {
            if !is_whole(page, run.number, number) {
                return Err(IndexError::Corrupt { path: run.file.path().to_owned(), page: number });
            }
            self.copies.extend((0..run.copies_in(block)).map(|n| copy_at(page, n)));
        }
        self.group += 1;
        Ok(())
    }
}

/// Writes a run of copies that come sorted, each once, [`COPIES_IN_GROUP`] at a time but for the last ones. If they are many,
/// they are fetched by `copies_of` and encoded on all processors. Then it is durable; says how many copies it has. A run of none
/// is not written.
pub(super) fn write<G: Send>(
    folder: &Path,
    number: u64,
    are_many: bool,
    groups: impl Iterator<Item = Result<G, IndexError>>,
    copies_of: impl Fn(G) -> Vec<FirstCopy> + Sync,
) -> Result<u64, IndexError> {
    let groups = groups.zip(0..).map(|(group, n)| Ok((group?, n)));
    let mut file = NewFile::create(&path(folder, number))?;
    let (mut fences, mut held, mut newest, mut last) = (Vec::new(), 0, i64::MIN, None);
    let encode = |(): &mut (), (group, n): (G, u64)| Group::of(&copies_of(group), number, n);
    side_by_side::in_order(
        are_many,
        groups,
        encode,
        || Ok(()),
        |group| {
            assert!(last < Some(group.first), "copies come sorted, each once");
            (last, newest) = (Some(group.last), newest.max(group.newest));
            fences.push(group.first.id);
            held += group.copies;
            Ok::<_, IndexError>(file.append(&group.pages)?)
        },
    )?;
    let Some(last) = last else { return Ok(0) };
    let shape = Shape::of(held).expect("so many were in memory, group by group");
    let mut page = [0; PAGE_BYTES];
    for (fences, number_of_page) in fences.chunks(FENCES_IN_PAGE).zip(shape.fence_page(0)..) {
        page.fill(0);
        for (n, fence) in fences.iter().enumerate() {
            page[n * ID_BYTES..][..ID_BYTES].copy_from_slice(&fence.to_be_bytes());
        }
        seal(&mut page, number, number_of_page);
        file.append(&page)?;
    }
    page.fill(0);
    page[..8].copy_from_slice(&MAGIC);
    page[8..16].copy_from_slice(&held.to_le_bytes());
    page[16..32].copy_from_slice(&last.id.to_be_bytes());
    page[32..40].copy_from_slice(&newest.to_le_bytes());
    seal(&mut page, number, shape.footer());
    file.append(&page)?;
    file.commit()?;
    Ok(held)
}

/// A group as it stands in its run.
struct Group {
    /// Its blocks and its leaf.
    pages: Vec<u8>,
    copies: u64,
    first: FirstCopy,
    last: FirstCopy,
    newest: i64,
}

impl Group {
    /// The `group`th of a run, of at least one copy.
    fn of(copies: &[FirstCopy], run: u64, group: u64) -> Self {
        assert!(copies.is_sorted_by(|a, b| a < b), "copies come sorted, each once");
        let blocks = copies.chunks(COPIES_IN_BLOCK);
        let mut pages = Vec::with_capacity((blocks.len() + 1) * PAGE_BYTES);
        let mut leaf = [0; PAGE_BYTES];
        for (n, block) in blocks.enumerate() {
            leaf[n * ID_BYTES..][..ID_BYTES].copy_from_slice(&block[0].id.to_be_bytes());
            for copy in block {
                pages.extend_from_slice(&copy.to_bytes());
                filter::add(&mut leaf[FILTER_AT..BODY_BYTES], FilterKey::of(copy.id));
            }
            pages.resize((n + 1) * PAGE_BYTES, 0);
        }
        pages.extend_from_slice(&leaf);
        let first_page = group * (BLOCKS_IN_GROUP as u64 + 1);
        pages.as_chunks_mut().0.iter_mut().zip(first_page..).for_each(|(page, number)| seal(page, run, number));
        Self {
            pages,
            copies: copies.len() as u64,
            first: copies[0],
            last: copies[copies.len() - 1],
            newest: copies.iter().map(|copy| copy.received_at).max().unwrap_or(i64::MIN),
        }
    }
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
