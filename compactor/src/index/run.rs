//! A run: first copies sorted by id, in a file that never changes.
//!
//! ```text
//! group 0: up to 16 blocks, leaf │ group 1: … │ … │ fences │ footer          pages of 4 KiB
//! ```
//!
//! | page | bytes |
//! | --- | --- |
//! | block | as many copies as have room, packed |
//! | leaf | the first id of each of its group's blocks, 16 × 16; a filter of its ids, 3808; its [`Packing`], 19 |
//! | fences | the first id of each group, 16, and the page of its leaf, 4; 204 to a page |
//! | footer | magic 8, copies 8, last id 16, newest receive time 8 |
//!
//! Ids are big-endian here, all other numbers little-endian.
//!
//! Every group but the last has 2032 copies, and every block but its group's last is full: so what a block has follows from how many
//! copies there are. Ids next to each other begin alike, those of version 7 were received at about the same time, too: so a copy takes
//! 18 to 21 bytes where it has such an id, 24 to 27 of others, with its share of the leaf, and 34 where fields are spread as far as they can be.
//! Fences alone stay in memory, 20 bytes for a group; all else is read through the cache. Ids of version 7 sort by their
//! time, so those asked for together lie together; of other ids, nothing but speed and size differ.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::cache::PageCache;
use super::filter::{self, FilterKey};
use super::packing::{MOST_BYTES, Packing};
use super::page::{BODY_BYTES, PAGE_BYTES, Page, id_at, is_whole, seal, u32_at, u64_at};
use super::{FirstCopy, IndexError};
use crate::side_by_side;
use crate::storage::{NewFile, ReadFile};

const MAGIC: [u8; 8] = *b"TLindex3";
const BLOCKS_IN_GROUP: usize = 16;
/// As many as surely have room.
pub(super) const COPIES_IN_GROUP: usize = BLOCKS_IN_GROUP * (BODY_BYTES / MOST_BYTES);
const ID_BYTES: usize = 16;
/// In a leaf, behind the blocks' first ids.
const FILTER_AT: usize = BLOCKS_IN_GROUP * ID_BYTES;
const PACKING_AT: usize = FILTER_AT + filter::BYTES;
const _: () = assert!(PACKING_AT + Packing::BYTES <= BODY_BYTES);
const FENCE_BYTES: usize = ID_BYTES + size_of::<u32>();
const FENCES_IN_PAGE: usize = BODY_BYTES / FENCE_BYTES;

/// `<number, 20 digits>.run`
pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.run"))
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
    /// The first id of each group.
    fences: Vec<u128>,
    /// The page of each group's leaf.
    leaves: Vec<u32>,
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
        let mut page = [0; PAGE_BYTES];
        let mut read = |at: u64| {
            file.read_at(&mut page, at * PAGE_BYTES as u64).map_err(IndexError::from_read)?;
            if is_whole(&page, number, at) { Ok(page) } else { Err(corrupt(at)) }
        };
        let pages = Some(file.len()?).filter(|len| len % PAGE_BYTES as u64 == 0).map(|len| len / PAGE_BYTES as u64);
        let footer_at = pages.and_then(|pages| pages.checked_sub(1)).ok_or_else(|| corrupt(0))?;
        let footer = read(footer_at)?;
        if copies == 0 || footer[..8] != MAGIC || u64_at(&footer, 8) != copies {
            return Err(corrupt(footer_at));
        }
        let (last, newest) = (id_at(&footer, 16), u64_at(&footer, 32).cast_signed());

        let groups = usize::try_from(copies.div_ceil(COPIES_IN_GROUP as u64)).map_err(|_| corrupt(footer_at))?;
        let fence_pages = groups.div_ceil(FENCES_IN_PAGE) as u64;
        let fences_at = footer_at.checked_sub(fence_pages).ok_or_else(|| corrupt(footer_at))?;
        let (mut fences, mut leaves) = (Vec::with_capacity(groups), Vec::with_capacity(groups));
        for at in fences_at..footer_at {
            let page = read(at)?;
            let here = FENCES_IN_PAGE.min(groups - fences.len());
            fences.extend((0..here).map(|n| id_at(&page, n * FENCE_BYTES)));
            leaves.extend((0..here).map(|n| u32_at(&page, n * FENCE_BYTES + ID_BYTES)));
        }
        // how many blocks a group has is for its leaf to say
        let reach_the_fences = leaves.last().is_some_and(|leaf| u64::from(*leaf) + 1 == fences_at);
        if !leaves.is_sorted() || !reach_the_fences {
            return Err(corrupt(footer_at));
        }
        Ok(Self { file, number, copies, newest, fences, leaves, last, asked: 0 })
    }

    /// Bytes of memory that it holds on to.
    pub(super) fn memory(&self) -> usize {
        self.fences.capacity() * size_of::<u128>() + self.leaves.capacity() * size_of::<u32>()
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
            let blocks = self.blocks_of(group);
            let leaf = cache.page(&self.file, self.number, blocks.end.into())?;
            if filter::may_hold(&leaf[FILTER_AT..PACKING_AT], key) {
                let packing = self.packing_of(group, leaf)?;
                let firsts = |block: &u32| id_at(leaf, (block - blocks.start) as usize * ID_BYTES);
                let from = blocks.clone().take_while(|block| firsts(block) < id).last().unwrap_or(blocks.start);
                let to = (from..blocks.end).take_while(|block| firsts(block) <= id).last();
                for block in to.map(|to| from..=to).into_iter().flatten() {
                    let page = cache.page(&self.file, self.number, block.into())?;
                    let copies = self.copies_in(group, &packing, block - blocks.start);
                    let answered = (packing.first_not_below(page, copies, id)..copies)
                        .map(|n| packing.copy_at(page, n))
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

    /// The pages of a group's blocks; its leaf is the one behind them.
    fn blocks_of(&self, group: usize) -> Range<u32> {
        let start = group.checked_sub(1).map_or(0, |before| self.leaves[before] + 1);
        start..self.leaves[group]
    }

    /// How a group's copies are packed, as its leaf says.
    fn packing_of(&self, group: usize, leaf: &Page) -> Result<Packing, IndexError> {
        let blocks = self.blocks_of(group);
        Packing::read(id_at(leaf, 0), &leaf[PACKING_AT..])
            .filter(|packing| self.copies_in_group(group).div_ceil(packing.copies_in_block()) == blocks.len())
            .ok_or_else(|| IndexError::Corrupt { path: self.file.path().to_owned(), page: blocks.end.into() })
    }

    #[expect(clippy::cast_possible_truncation, reason = "a group has few copies")]
    fn copies_in_group(&self, group: usize) -> usize {
        (self.copies - (group * COPIES_IN_GROUP) as u64).min(COPIES_IN_GROUP as u64) as usize
    }

    /// How many copies the `block`th block of a group has.
    fn copies_in(&self, group: usize, packing: &Packing, block: u32) -> usize {
        let in_block = packing.copies_in_block();
        self.copies_in_group(group).saturating_sub(block as usize * in_block).min(in_block)
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
        if self.read == self.copies.len() && self.group < self.run.fences.len() {
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
        let blocks = run.blocks_of(self.group);
        let first_page = u64::from(blocks.start);
        self.bytes.resize((blocks.len() + 1) * PAGE_BYTES, 0);
        run.file.read_at(&mut self.bytes, first_page * PAGE_BYTES as u64).map_err(IndexError::from_read)?;
        self.copies.clear();
        self.read = 0;
        let pages = self.bytes.as_chunks::<PAGE_BYTES>().0;
        if let Some((_, number)) = pages.iter().zip(first_page..).find(|(page, n)| !is_whole(page, run.number, *n)) {
            return Err(IndexError::Corrupt { path: run.file.path().to_owned(), page: number });
        }
        if let Some((leaf, pages)) = pages.split_last() {
            let packing = run.packing_of(self.group, leaf)?;
            for (page, block) in pages.iter().zip(0..) {
                let copies = run.copies_in(self.group, &packing, block);
                self.copies.extend((0..copies).map(|n| packing.copy_at(page, n)));
            }
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
    let mut file = NewFile::create(&path(folder, number))?;
    let (mut fences, mut held, mut newest, mut last) = (Vec::new(), 0, i64::MIN, None);
    let mut pages_so_far = 0;
    let mut append = |pages: &mut [u8]| {
        for page in pages.as_chunks_mut().0 {
            seal(page, number, pages_so_far);
            pages_so_far += 1;
        }
        // the number of the last one
        file.append(pages).map(|()| pages_so_far - 1)
    };
    side_by_side::in_order(
        are_many,
        groups,
        |(): &mut (), group: G| Group::of(&copies_of(group)),
        || Ok(()),
        |mut group| {
            assert!(last < Some(group.first), "copies come sorted, each once");
            (last, newest) = (Some(group.last), newest.max(group.newest));
            held += group.copies;
            fences.push((group.first.id, append(&mut group.pages)?));
            Ok::<_, IndexError>(())
        },
    )?;
    let Some(last) = last else { return Ok(0) };
    let mut page = [0; PAGE_BYTES];
    for fences in fences.chunks(FENCES_IN_PAGE) {
        page.fill(0);
        for (fence, (first, leaf)) in page.as_chunks_mut::<FENCE_BYTES>().0.iter_mut().zip(fences) {
            let leaf = u32::try_from(*leaf).expect("a run has far fewer pages than four billion");
            fence[..ID_BYTES].copy_from_slice(&first.to_be_bytes());
            fence[ID_BYTES..].copy_from_slice(&leaf.to_le_bytes());
        }
        append(&mut page)?;
    }
    page.fill(0);
    page[..8].copy_from_slice(&MAGIC);
    page[8..16].copy_from_slice(&held.to_le_bytes());
    page[16..32].copy_from_slice(&last.id.to_be_bytes());
    page[32..40].copy_from_slice(&newest.to_le_bytes());
    append(&mut page)?;
    file.commit()?;
    Ok(held)
}

/// A group as it stands in its run, but for its pages' checksums.
struct Group {
    /// Its blocks and its leaf.
    pages: Vec<u8>,
    copies: u64,
    first: FirstCopy,
    last: FirstCopy,
    newest: i64,
}

impl Group {
    /// Of at least one copy.
    fn of(copies: &[FirstCopy]) -> Self {
        assert!(copies.is_sorted_by(|a, b| a < b), "copies come sorted, each once");
        let packing = Packing::of(copies);
        let blocks = copies.chunks(packing.copies_in_block());
        let leaf_at = blocks.len() * PAGE_BYTES;
        let (mut pages, mut leaf) = (vec![0; leaf_at + PAGE_BYTES], [0; PAGE_BYTES]);
        packing.write(&mut leaf[PACKING_AT..]);
        for (n, block) in blocks.enumerate() {
            leaf[n * ID_BYTES..][..ID_BYTES].copy_from_slice(&block[0].id.to_be_bytes());
            for (copy, at) in block.iter().zip((n * PAGE_BYTES..).step_by(packing.copy_bytes())) {
                packing.put(copy, pages[at..].first_chunk_mut().expect("there is room for the leaf behind it"));
                filter::add(&mut leaf[FILTER_AT..PACKING_AT], FilterKey::of(copy.id));
            }
        }
        pages[leaf_at..].copy_from_slice(&leaf);
        Self {
            pages,
            copies: copies.len() as u64,
            first: copies[0],
            last: copies[copies.len() - 1],
            newest: copies.iter().map(|copy| copy.received_at).max().unwrap_or(i64::MIN),
        }
    }
}
