//! The bytes of a file, three times: as processes see them, as the disk would give them back, as a power cut leaves
//! them.
//!
//! ```text
//!  write, map ─▶ cache ──sync, write-back──▶ device ──honest sync──▶ platter
//! ```
//!
//! The rule: pages of the cache reach the device one by one, in any order. A power cut leaves of each page any of its
//! three versions, or sectors of two. A sync that fails forgets what it did not write (the kernel marks it clean), one
//! that lies leaves the platter as it was.

use std::collections::BTreeMap;
use std::fs::File as RealFile;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::MemfdFlags;

use super::chance::Chance;
use crate::disk::PAGE;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// How a sync goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    Honest,
    Lying,
    Failing,
}

/// One of the versions of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Version {
    /// Whole pages; behind `len` they are zeros.
    bytes: Vec<u8>,
    len: usize,
    /// Which pages have space.
    has_space: Vec<bool>,
}

/// The bytes of the cache: in a file of memory once they are mapped, so that maps and reads see the same.
#[derive(Debug)]
enum Memory {
    Own(Vec<u8>),
    Mapped(RealFile),
}

#[derive(Debug)]
pub(super) struct SimulatedFile {
    memory: Memory,
    len: usize,
    has_space: Vec<bool>,
    device: Version,
    platter: Version,
    /// Pages that a failed sync has forgotten, as they were then.
    forgotten: BTreeMap<usize, Vec<u8>>,
    /// How many syncs have failed.
    pub failed_syncs: u64,
}

impl Version {
    fn page(&self, page: usize) -> &[u8] {
        const ZEROS: [u8; PAGE] = [0; PAGE];
        self.bytes.get(page * PAGE..(page + 1) * PAGE).unwrap_or(&ZEROS)
    }

    fn has_space(&self, page: usize) -> bool {
        self.has_space.get(page).copied().unwrap_or_default()
    }

    fn set_page(&mut self, page: usize, bytes: &[u8], has_space: bool) {
        if self.has_space.len() <= page {
            self.has_space.resize(page + 1, false);
            self.bytes.resize((page + 1) * PAGE, 0);
        }
        self.bytes[page * PAGE..(page + 1) * PAGE].copy_from_slice(bytes);
        self.has_space[page] = has_space;
    }
}

impl SimulatedFile {
    pub fn new() -> Self {
        Self {
            memory: Memory::Own(Vec::new()),
            len: 0,
            has_space: Vec::new(),
            device: Version::default(),
            platter: Version::default(),
            forgotten: BTreeMap::new(),
            failed_syncs: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Pages with space of their own.
    pub fn pages(&self) -> usize {
        self.has_space.iter().filter(|has| **has).count()
    }

    /// Pages that would be allocated to write there.
    pub fn missing(&self, from: usize, to: usize) -> usize {
        pages(from, to).filter(|page| !self.has_space.get(*page).copied().unwrap_or_default()).count()
    }

    /// For a map.
    pub fn memory(&mut self) -> io::Result<RealFile> {
        if let Memory::Own(bytes) = &self.memory {
            let file = RealFile::from(rustix::fs::memfd_create("simulated", MemfdFlags::CLOEXEC)?);
            file.write_all_at(bytes, 0)?;
            file.set_len(self.len as u64)?;
            self.memory = Memory::Mapped(file);
        }
        match &self.memory {
            Memory::Mapped(file) => file.try_clone(),
            Memory::Own(_) => unreachable!("it was made a file"),
        }
    }

    pub fn read(&self, offset: usize, buffer: &mut [u8]) -> usize {
        let len = buffer.len().min(self.len.saturating_sub(offset));
        match &self.memory {
            Memory::Own(bytes) => buffer[..len].copy_from_slice(&bytes[offset.min(bytes.len())..][..len]),
            Memory::Mapped(file) => file.read_exact_at(&mut buffer[..len], offset as u64).expect("memory"),
        }
        len
    }

    /// Lengthens it if need be. The space has been seen to.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.allocate(offset, offset + bytes.len());
        match &mut self.memory {
            Memory::Own(all) => all[offset..offset + bytes.len()].copy_from_slice(bytes),
            Memory::Mapped(file) => file.write_all_at(bytes, offset as u64).expect("memory"),
        }
    }

    /// Gives space to a range, and lengthens the file to its end.
    pub fn allocate(&mut self, from: usize, to: usize) {
        self.set_len(self.len.max(to));
        for page in pages(from, to) {
            self.has_space[page] = true;
        }
    }

    pub fn set_len(&mut self, len: usize) {
        match &mut self.memory {
            Memory::Own(bytes) => bytes.resize(len, 0),
            Memory::Mapped(file) => file.set_len(len as u64).expect("memory"),
        }
        self.len = len;
        self.has_space.resize(len.div_ceil(PAGE), false);
    }

    /// Whole pages of this range have no space any more.
    pub fn punch_hole(&mut self, offset: usize, len: usize) {
        let end = (offset + len).min(self.len);
        for page in offset.div_ceil(PAGE)..end.div_ceil(PAGE) {
            let until = self.len.min((page + 1) * PAGE);
            self.write(page * PAGE, &vec![0; until - page * PAGE]);
            self.has_space[page] = false;
        }
    }

    fn now(&self) -> Version {
        let mut bytes = match &self.memory {
            Memory::Own(bytes) => bytes.clone(),
            Memory::Mapped(_) => {
                let mut bytes = vec![0; self.len];
                self.read(0, &mut bytes);
                bytes
            }
        };
        bytes.resize(self.len.next_multiple_of(PAGE), 0);
        Version { bytes, len: self.len, has_space: self.has_space.clone() }
    }

    /// The pages that are dirty: neither on the device nor forgotten.
    fn dirty(&mut self) -> Vec<(usize, Vec<u8>)> {
        let now = self.now();
        let mut dirty = Vec::new();
        for page in 0..now.has_space.len() {
            let bytes = now.page(page);
            if self.device.page(page) == bytes && self.device.has_space(page) == now.has_space[page] {
                continue;
            }
            if self.forgotten.get(&page).is_some_and(|forgotten| &**forgotten == bytes) {
                continue;
            }
            let is_zero = || bytes.iter().all(|byte| *byte == 0);
            assert!(now.has_space[page] || is_zero(), "page {page} was written to and has no space: SIGBUS");
            self.forgotten.remove(&page);
            dirty.push((page, bytes.to_vec()));
        }
        dirty
    }

    pub fn sync(&mut self, how: Sync, chance: &mut Chance) {
        for (page, bytes) in self.dirty() {
            if how == Sync::Failing && chance.percent(60) {
                self.forgotten.insert(page, bytes);
            } else {
                self.device.set_page(page, &bytes, self.has_space[page]);
            }
        }
        if how == Sync::Failing {
            self.failed_syncs += 1;
            return;
        }
        self.device.len = self.len;
        self.device.bytes.resize(self.len.next_multiple_of(PAGE), 0);
        self.device.has_space.resize(self.len.div_ceil(PAGE), false);
        if how == Sync::Honest {
            self.platter = self.device.clone();
        }
    }

    /// The kernel writes some pages without being asked.
    pub fn write_back(&mut self, chance: &mut Chance) {
        for (page, bytes) in self.dirty() {
            if chance.percent(30) {
                self.device.set_page(page, &bytes, self.has_space[page]);
            }
        }
    }

    /// What was forgotten is read from the device again.
    pub fn drop_cache(&mut self) {
        let now = self.now();
        for (page, bytes) in std::mem::take(&mut self.forgotten) {
            if now.page(page) == &*bytes && page * PAGE < self.len {
                let until = self.len.min((page + 1) * PAGE);
                let old = self.device.page(page).to_vec();
                self.write(page * PAGE, &old[..until - page * PAGE]);
                self.has_space[page] = true;
            }
        }
    }

    /// What a power cut surely leaves.
    pub fn on_platter(&self) -> Vec<u8> {
        self.platter.bytes[..self.platter.len].to_vec()
    }

    /// A bit of a page that is on disk is another now. False if there is no such page.
    pub fn rot(&mut self, bit: usize) -> bool {
        let (page, byte) = (bit / 8 / PAGE, bit / 8);
        let now = self.now();
        let is_on_disk =
            byte < self.len && [&self.device, &self.platter].iter().all(|v| v.page(page) == now.page(page));
        if is_on_disk && now.has_space[page] {
            let flipped = [now.bytes[byte] ^ 1 << (bit % 8)];
            self.write(byte, &flipped);
            self.device.bytes[byte] = flipped[0];
            self.platter.bytes[byte] = flipped[0];
            return true;
        }
        false
    }

    /// What is left. `kept` says how many of a hundred pages with this number, of those that are not surely on the
    /// platter, are kept.
    pub fn power_cut(&mut self, chance: &mut Chance, kept: impl Fn(usize) -> u32) {
        let now = self.now();
        let versions = [&self.platter, &self.device, &now];
        let pick = |chance: &mut Chance, page| if chance.percent(kept(page)) { 1 + chance.below(2) } else { 0 };
        let len = versions[pick(chance, 0)].len;
        let mut left = Version { len, ..Version::default() };
        for page in 0..len.div_ceil(PAGE) {
            let version = pick(chance, page);
            let (mut bytes, has_space) = (versions[version].page(page).to_vec(), versions[version].has_space(page));
            let is_torn = chance.percent(30) && versions.iter().all(|version| version.has_space(page));
            for sector in (0..PAGE).step_by(SECTOR).filter(|_| is_torn) {
                let other = versions[pick(chance, page)].page(page);
                bytes[sector..sector + SECTOR].copy_from_slice(&other[sector..sector + SECTOR]);
            }
            left.set_page(page, &bytes, has_space);
        }
        if !len.is_multiple_of(PAGE) {
            left.bytes[len..].fill(0);
        }
        self.memory = Memory::Own(left.bytes[..len].to_vec());
        self.len = len;
        self.has_space.clone_from(&left.has_space);
        self.forgotten.clear();
        self.platter = left.clone();
        self.device = left;
    }
}

fn pages(from: usize, to: usize) -> std::ops::Range<usize> {
    from / PAGE..to.div_ceil(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(file: &SimulatedFile) -> Vec<u8> {
        let mut bytes = vec![0; file.len()];
        file.read(0, &mut bytes);
        bytes
    }

    #[test]
    fn what_was_synced_is_left_and_of_the_rest_any_part() {
        let (mut lost, mut kept, mut torn) = (false, false, false);
        for seed in 0..200 {
            let mut chance = Chance::new(seed);
            let mut file = SimulatedFile::new();
            file.write(0, &[1; 3 * PAGE]);
            file.sync(Sync::Honest, &mut chance);
            file.write(PAGE, &[2; PAGE]);
            file.power_cut(&mut chance, |_| 50);
            let bytes = bytes(&file);
            assert_eq!(bytes.len(), 3 * PAGE);
            assert!(bytes[..PAGE].iter().chain(&bytes[2 * PAGE..]).all(|byte| *byte == 1));
            let twos = bytes.iter().filter(|byte| **byte == 2).count();
            lost |= twos == 0;
            kept |= twos == PAGE;
            torn |= twos % PAGE != 0;
        }
        assert!(lost && kept && torn, "{lost} {kept} {torn}");
    }

    #[test]
    fn a_failed_sync_forgets_and_the_next_one_says_that_all_is_well() {
        let mut chance = Chance::new(7);
        let mut file = SimulatedFile::new();
        file.write(0, &[1; 8 * PAGE]);
        file.sync(Sync::Honest, &mut chance);
        file.write(0, &[2; 8 * PAGE]);
        file.sync(Sync::Failing, &mut chance);
        file.sync(Sync::Honest, &mut chance);
        assert_eq!(bytes(&file), [2; 8 * PAGE], "the cache knows nothing of it");
        file.drop_cache();
        assert!(bytes(&file).contains(&1), "but the disk does");
        // written again, it is written
        file.write(0, &[3; 8 * PAGE]);
        file.sync(Sync::Honest, &mut chance);
        file.power_cut(&mut chance, |_| 0);
        assert_eq!(bytes(&file), [3; 8 * PAGE]);
    }

    #[test]
    fn a_sync_that_lies_leaves_nothing() {
        let mut chance = Chance::new(7);
        let mut file = SimulatedFile::new();
        file.write(0, &[1; PAGE]);
        file.sync(Sync::Lying, &mut chance);
        file.power_cut(&mut chance, |_| 0);
        assert!(bytes(&file).is_empty());
    }

    #[test]
    #[should_panic(expected = "SIGBUS")]
    fn a_page_without_space_must_not_be_touched() {
        let mut file = SimulatedFile::new();
        file.allocate(0, 2 * PAGE);
        file.punch_hole(PAGE, PAGE);
        let memory = file.memory().unwrap();
        memory.write_all_at(&[1], PAGE as u64).unwrap();
        file.sync(Sync::Honest, &mut Chance::new(1));
    }
}
