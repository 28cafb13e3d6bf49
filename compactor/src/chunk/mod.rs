//! Column chunks of Parquet, encoded here.
//!
//! The library's writer hashes every text again to find its dictionary, although ours are numbered when they come, and
//! copies every number twice. It still writes the file around the chunks, and it is what reads them back.
//!
//! The rule: **a chunk's bytes depend on its values alone.**
//!
//! | values | encoding |
//! | --- | --- |
//! | [`texts`](Encoder::texts) | a dictionary in the order of their numbers; DELTA_LENGTH_BYTE_ARRAY, if most of them came once |
//! | [`times`](Encoder::times) | DELTA_BINARY_PACKED |
//! | [`numbers`](Encoder::numbers), [`doubles`](Encoder::doubles) | a dictionary; plain, if most of them came once |
//! | [`binaries`](Encoder::binaries), [`ids`](Encoder::ids), [`flags`](Encoder::flags) | plain |
//!
//! Pages are zstd at its fastest, ids excepted, which are random. Which values are null, or belong to one row,
//! stands before a page's values as levels (<https://parquet.apache.org/docs/file-format/>). Lengths stand apart from texts, since
//! between them they are what zstd looks at for longest, and what keeps it from coding random digits by their frequency alone.

mod packing;

use std::ops::Range;

use bytes::Bytes;
use hashbrown::HashMap;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::{ByteArray, FixedLenByteArray};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

use crate::texts::TextList;

/// Rows of a page.
const PAGE_ROWS: usize = 64 * 1024;
/// A longer text is not told as the least or greatest one.
const STATISTICS_BYTES: usize = 64;
/// zstd at its fastest.
const ZSTD_LEVEL: i32 = 1;

/// A column's part of a row group: its bytes, and what the footer says of them.
pub struct Chunk {
    /// Its pages.
    pub bytes: Bytes,
    /// For the library.
    pub close: ColumnCloseResult,
}

/// Which values there are of each row.
#[derive(Clone, Copy)]
pub enum Levels<'a> {
    /// One.
    Required,
    /// One where it says so.
    Optional(&'a [bool]),
    /// So many.
    Repeated(&'a [u32]),
}

/// Makes chunks, with the same memory for each.
pub struct Encoder {
    zstd: Compressor<'static>,
    /// A page's bytes, and the same compressed.
    raw: Vec<u8>,
    compressed: Vec<u8>,
    /// The bytes of a dictionary.
    dictionary: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        let zstd = Compressor::new(ZSTD_LEVEL).expect("1 is a level of zstd");
        Self { zstd, raw: Vec::new(), compressed: Vec::new(), dictionary: Vec::new() }
    }
}

impl Encoder {
    /// Texts by the number of each value; without numbers each value has its own text, in order.
    pub fn texts(
        &mut self,
        column: &ColumnDescPtr,
        levels: Levels<'_>,
        texts: &TextList,
        numbers: Option<&[u32]>,
    ) -> Chunk {
        let statistics = |nulls| {
            let least = texts.iter().min().map(told_text);
            let greatest = texts.iter().max().map(told_text);
            let (least, greatest) = least.flatten().zip(greatest.flatten()).unzip();
            Statistics::byte_array(least, greatest, None, Some(nulls), false)
        };
        match numbers {
            Some(numbers) if is_worth_a_dictionary(texts.len(), numbers.len()) => {
                self.dictionary.clear();
                texts.iter().for_each(|text| put(text, &mut self.dictionary));
                self.by_dictionary(column, levels, texts.len(), numbers, statistics)
            }
            Some(numbers) => {
                let text = |row: usize| texts.get(numbers[row]);
                self.one_by_one(column, levels, numbers.len(), statistics, text)
            }
            None => self.one_by_one(column, levels, texts.len(), statistics, |row| texts.at(row)),
        }
    }

    /// Texts without a dictionary.
    fn one_by_one<'t>(
        &mut self,
        column: &ColumnDescPtr,
        levels: Levels<'_>,
        values: usize,
        statistics: impl FnOnce(u64) -> Statistics,
        text: impl Fn(usize) -> &'t [u8],
    ) -> Chunk {
        let encoding = Encoding::DELTA_LENGTH_BYTE_ARRAY;
        let pages = Pages { levels, values, encoding, is_compressed: true };
        let mut lengths = Vec::new();
        self.chunk(column, None, pages, statistics, |range, out| {
            put_lengths(range.clone().map(|row| text(row).len()), &mut lengths, out);
            range.for_each(|row| out.extend_from_slice(text(row)));
        })
    }

    /// Times, or other whole numbers that are mostly different.
    pub fn times(&mut self, column: &ColumnDescPtr, levels: Levels<'_>, times: &[i64]) -> Chunk {
        let statistics = |nulls| int64_statistics(times, nulls);
        let pages = Pages { levels, values: times.len(), encoding: Encoding::DELTA_BINARY_PACKED, is_compressed: true };
        self.chunk(column, None, pages, statistics, |range, out| packing::deltas(&times[range], out))
    }

    /// Whole numbers.
    pub fn numbers(&mut self, column: &ColumnDescPtr, levels: Levels<'_>, numbers: &[i64]) -> Chunk {
        let statistics = |nulls| int64_statistics(numbers, nulls);
        let words: Vec<u64> = numbers.iter().map(|number| number.cast_unsigned()).collect();
        self.words(column, levels, &words, statistics)
    }

    /// Doubles, none of which is NaN.
    pub fn doubles(&mut self, column: &ColumnDescPtr, levels: Levels<'_>, doubles: &[f64]) -> Chunk {
        let statistics = |nulls| {
            // the sign of a zero must not hide the other one
            let least = doubles.iter().copied().reduce(f64::min).map(|least| if least == 0.0 { -0.0 } else { least });
            let greatest = doubles.iter().copied().reduce(f64::max).map(|most| if most == 0.0 { 0.0 } else { most });
            Statistics::double(least, greatest, None, Some(nulls), false)
        };
        let words: Vec<u64> = doubles.iter().map(|double| double.to_bits()).collect();
        self.words(column, levels, &words, statistics)
    }

    /// Bytes that are hardly ever the same, but begin alike: zstd finds that, and the lengths before them, together.
    pub fn binaries(&mut self, column: &ColumnDescPtr, bytes: &[u8], ends: &[usize]) -> Chunk {
        let statistics = |nulls| Statistics::byte_array(None, None, None, Some(nulls), false);
        let begin = |at: usize| at.checked_sub(1).map_or(0, |before| ends[before]);
        self.plain(column, Levels::Required, ends.len(), statistics, |range, out| {
            range.for_each(|at| put(&bytes[begin(at)..ends[at]], out));
        })
    }

    /// Ids, not compressed.
    pub fn ids(&mut self, column: &ColumnDescPtr, ids: &[[u8; 16]]) -> Chunk {
        let told = |id: Option<&[u8; 16]>| id.map(|id| FixedLenByteArray::from(id.to_vec()));
        let statistics = |nulls| {
            Statistics::fixed_len_byte_array(told(ids.iter().min()), told(ids.iter().max()), None, Some(nulls), false)
        };
        let pages =
            Pages { levels: Levels::Required, values: ids.len(), encoding: Encoding::PLAIN, is_compressed: false };
        self.chunk(column, None, pages, statistics, |range, out| out.extend_from_slice(ids[range].as_flattened()))
    }

    /// Yes or no.
    pub fn flags(&mut self, column: &ColumnDescPtr, flags: &[bool]) -> Chunk {
        let statistics = |nulls| {
            Statistics::boolean(flags.iter().min().copied(), flags.iter().max().copied(), None, Some(nulls), false)
        };
        self.plain(column, Levels::Required, flags.len(), statistics, |range, out| {
            out.extend(
                flags[range]
                    .chunks(8)
                    .map(|eight| eight.iter().rev().fold(0, |byte, flag| byte << 1 | u8::from(*flag))),
            );
        })
    }

    /// Values of eight bytes.
    fn words(
        &mut self,
        column: &ColumnDescPtr,
        levels: Levels<'_>,
        words: &[u64],
        statistics: impl FnOnce(u64) -> Statistics,
    ) -> Chunk {
        let mut known = HashMap::<u64, u32, foldhash::fast::RandomState>::default();
        self.dictionary.clear();
        let mut numbers = Vec::with_capacity(words.len());
        for word in words {
            let next = u32::try_from(known.len()).expect("fewer than there are rows");
            let number = *known.entry(*word).or_insert_with(|| {
                self.dictionary.extend_from_slice(&word.to_le_bytes());
                next
            });
            numbers.push(number);
        }
        if is_worth_a_dictionary(known.len(), numbers.len()) {
            self.by_dictionary(column, levels, known.len(), &numbers, statistics)
        } else {
            self.plain(column, levels, numbers.len(), statistics, |range, out| {
                words[range].iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
            })
        }
    }

    fn plain(
        &mut self,
        column: &ColumnDescPtr,
        levels: Levels<'_>,
        values: usize,
        statistics: impl FnOnce(u64) -> Statistics,
        put: impl FnMut(Range<usize>, &mut Vec<u8>),
    ) -> Chunk {
        self.chunk(
            column,
            None,
            Pages { levels, values, encoding: Encoding::PLAIN, is_compressed: true },
            statistics,
            put,
        )
    }

    /// By the dictionary that was made, of so many entries.
    fn by_dictionary(
        &mut self,
        column: &ColumnDescPtr,
        levels: Levels<'_>,
        entries: usize,
        numbers: &[u32],
        statistics: impl FnOnce(u64) -> Statistics,
    ) -> Chunk {
        let entries = u32::try_from(entries).expect("fewer than there are rows");
        let width = packing::width(entries.saturating_sub(1));
        let pages = Pages { levels, values: numbers.len(), encoding: Encoding::RLE_DICTIONARY, is_compressed: true };
        self.chunk(column, Some(entries), pages, statistics, |range, out| {
            out.push(width.to_le_bytes()[0]);
            packing::hybrid(&numbers[range], width, out);
        })
    }

    /// The chunk of these pages; `put` appends a range of the values as they are encoded.
    fn chunk(
        &mut self,
        column: &ColumnDescPtr,
        dictionary: Option<u32>,
        pages: Pages<'_>,
        statistics: impl FnOnce(u64) -> Statistics,
        mut put: impl FnMut(Range<usize>, &mut Vec<u8>),
    ) -> Chunk {
        let compression = match pages.is_compressed {
            true => Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).expect("1 is a level of zstd")),
            false => Compression::UNCOMPRESSED,
        };
        let mut sink = TrackedWrite::new(Vec::new());
        let mut writer = SerializedPageWriter::new(&mut sink);
        let mut uncompressed = 0;
        let mut write = |page: Page, raw_len: usize| {
            let written = writer.write_page(CompressedPage::new(page, raw_len)).expect("a Vec takes all bytes");
            uncompressed += written.uncompressed_size;
            written.offset
        };
        let Self { zstd, raw, compressed, dictionary: entries } = self;
        let mut pack = |raw: &[u8]| {
            if !pages.is_compressed {
                return Bytes::copy_from_slice(raw);
            }
            compressed.clear();
            compressed.reserve(compress_bound(raw.len()));
            zstd.compress_to_buffer(raw, compressed).expect("there is room for the worst case");
            Bytes::copy_from_slice(compressed)
        };
        let dictionary_at = dictionary.map(|num_values| {
            let page =
                Page::DictionaryPage { buf: pack(entries), num_values, encoding: Encoding::PLAIN, is_sorted: false };
            write(page, entries.len())
        });
        let (mut data_at, mut slots, mut nulls) = (None, 0, 0);
        for (rows, values) in pages.ranges() {
            raw.clear();
            let in_page = pages.levels.put(rows, raw);
            nulls += (in_page - values.len()) as u64;
            put(values, raw);
            let page = Page::DataPage {
                buf: pack(raw),
                num_values: u32::try_from(in_page).expect("a page's values are bounded"),
                encoding: pages.encoding,
                def_level_encoding: Encoding::RLE,
                rep_level_encoding: Encoding::RLE,
                statistics: None,
            };
            data_at = data_at.or(Some(write(page, raw.len())));
            slots += in_page;
        }
        let bytes: Bytes = sink.into_inner().expect("a Vec takes all bytes").into();
        let offset = |at: u64| i64::try_from(at).expect("it is in memory");
        let metadata = ColumnChunkMetaData::builder(column.clone())
            .set_compression(compression)
            .set_encodings(pages.encodings(dictionary.is_some()))
            .set_num_values(offset(slots as u64))
            .set_total_compressed_size(offset(bytes.len() as u64))
            .set_total_uncompressed_size(offset(uncompressed as u64))
            .set_dictionary_page_offset(dictionary_at.map(offset))
            .set_data_page_offset(data_at.map_or(0, offset))
            .set_statistics(statistics(nulls))
            .build()
            .expect("all is set");
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: pages.rows() as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        Chunk { bytes, close }
    }
}

/// How a chunk's values become pages.
struct Pages<'a> {
    levels: Levels<'a>,
    values: usize,
    encoding: Encoding,
    is_compressed: bool,
}

impl Pages<'_> {
    fn rows(&self) -> usize {
        match self.levels {
            Levels::Required => self.values,
            Levels::Optional(is_there) => is_there.len(),
            Levels::Repeated(counts) => counts.len(),
        }
    }

    /// The rows of each page and the values that they have.
    fn ranges(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let mut value = 0;
        (0..self.rows()).step_by(PAGE_ROWS).map(move |from| {
            let rows = from..self.rows().min(from + PAGE_ROWS);
            let first = value;
            value += self.levels.values(rows.clone());
            (rows, first..value)
        })
    }

    fn encodings(&self, has_dictionary: bool) -> Vec<Encoding> {
        let mut encodings = vec![self.encoding];
        encodings.extend(has_dictionary.then_some(Encoding::PLAIN));
        encodings.extend((!matches!(self.levels, Levels::Required)).then_some(Encoding::RLE));
        encodings
    }
}

impl Levels<'_> {
    /// How many values these rows have.
    fn values(self, rows: Range<usize>) -> usize {
        match self {
            Levels::Required => rows.len(),
            Levels::Optional(is_there) => is_there[rows].iter().filter(|is_there| **is_there).count(),
            Levels::Repeated(counts) => counts[rows].iter().map(|count| *count as usize).sum(),
        }
    }

    /// Appends the levels of these rows, and says how many there are: one for each value, and for each row without any.
    fn put(self, rows: Range<usize>, out: &mut Vec<u8>) -> usize {
        match self {
            Levels::Required => rows.len(),
            Levels::Optional(is_there) => {
                let definition: Vec<u32> = is_there[rows].iter().map(|is_there| u32::from(*is_there)).collect();
                put_levels(&definition, out);
                definition.len()
            }
            Levels::Repeated(counts) => {
                let (mut repetition, mut definition) = (Vec::new(), Vec::new());
                for count in &counts[rows] {
                    repetition.push(0);
                    definition.push(u32::from(*count > 0));
                    let further = repetition.len() + count.saturating_sub(1) as usize;
                    repetition.resize(further, 1);
                    definition.resize(further, 1);
                }
                put_levels(&repetition, out);
                put_levels(&definition, out);
                definition.len()
            }
        }
    }
}

/// Levels of one bit, with their length before them.
fn put_levels(levels: &[u32], out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    packing::hybrid(levels, 1, out);
    let len = u32::try_from(out.len() - at - 4).expect("a page's values are bounded");
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

/// Appends a value of bytes, its length before it.
fn put(value: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(value.len()).expect("a record is at most 256 KiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(value);
}

/// Appends lengths as differences, which are gathered in `scratch`.
fn put_lengths(lengths: impl Iterator<Item = usize>, scratch: &mut Vec<i64>, out: &mut Vec<u8>) {
    scratch.clear();
    scratch.extend(lengths.map(|len| i64::try_from(len).expect("it is in memory")));
    packing::deltas(scratch, out);
}

/// Whether numbers for so many values take less than the values themselves.
fn is_worth_a_dictionary(different: usize, values: usize) -> bool {
    different > 0 && different <= values / 2
}

fn told_text(text: &[u8]) -> Option<ByteArray> {
    (text.len() <= STATISTICS_BYTES).then(|| ByteArray::from(text.to_vec()))
}

fn int64_statistics(values: &[i64], nulls: u64) -> Statistics {
    Statistics::int64(values.iter().min().copied(), values.iter().max().copied(), None, Some(nulls), false)
}

#[cfg(test)]
mod tests;
