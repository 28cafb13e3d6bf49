//! What both kinds of Parquet file have in common: how they are written, and what their footers say.
//!
//! The rule: a file is published whole ([`NewFile`]), and its footer says which node made it and up to which
//! position of the log it covers its hour. So whoever comes back after a crash asks the files, not a memory.
//!
//! A file that was harmed is an error, and nothing worse: Parquet has no checksum over its footer, so that nothing that it
//! says is believed before it is known to lie within the file, and the library, which panics on some of what it does not
//! expect, is only called where that is caught.

use std::io::{self, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::arrow::{ArrowSchemaConverter, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescPtr;
use thiserror::Error;

use crate::chunk::Chunk;
use crate::storage::{NewFile, ReadFile, StorageError};

/// The node that made the file.
pub const NODE: &str = "tallylight.node";
/// The position behind the last record of the hour that is in the file.
pub const COVERED_POSITION: &str = "tallylight.covered_position";
/// The columns of `--by`, with commas.
pub const BY: &str = "tallylight.by";
/// Sums that the doubles do not give back: `[[row, "millionths"], …]`.
pub const EXACT_SUMS: &str = "tallylight.exact_sums";

/// Why a Parquet file could not be written or read.
#[derive(Debug, Error)]
pub enum FileError {
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Parquet, which may be the disk as well.
    #[error("cannot {action} {}", path.display())]
    Parquet {
        /// As a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the library says.
        source: ParquetError,
    },
    /// It is Parquet, but not as this program writes it.
    #[error("{} is not as this program wrote it: {what}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
}

/// What all our files have in common; how columns are encoded is [`crate::chunk`]'s.
pub fn properties() -> WriterPropertiesBuilder {
    WriterProperties::builder().set_created_by(concat!("tallylight-compactor ", env!("CARGO_PKG_VERSION")).to_owned())
}

/// What the columns of a file are.
pub fn schema(fields: &Schema) -> SchemaDescPtr {
    Arc::new(ArrowSchemaConverter::new().convert(fields).expect("types that Parquet has"))
}

/// A Parquet file being written aside.
pub struct Writer {
    writer: SerializedFileWriter<NewFile>,
    path: PathBuf,
}

impl Writer {
    /// Begins a file whose folder exists.
    pub fn create(path: &Path, schema: &SchemaDescPtr, properties: WriterProperties) -> Result<Self, FileError> {
        let writer = SerializedFileWriter::new(NewFile::create(path)?, schema.root_schema_ptr(), Arc::new(properties));
        Ok(Self { writer: writer.map_err(because("write", path))?, path: path.to_owned() })
    }

    /// Adds a row group of these columns.
    pub fn write(&mut self, chunks: Vec<Chunk>) -> Result<(), FileError> {
        let write = || {
            let mut row_group = self.writer.next_row_group()?;
            chunks.into_iter().try_for_each(|chunk| row_group.append_column(&chunk.bytes, chunk.close))?;
            row_group.close().map(drop)
        };
        write().map_err(because("write", &self.path))
    }

    /// Adds the footer and publishes the file.
    pub fn commit(mut self, footer: impl IntoIterator<Item = (&'static str, String)>) -> Result<(), FileError> {
        for (key, value) in footer {
            self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        let file = self.writer.into_inner().map_err(because("write", &self.path))?;
        Ok(file.commit()?)
    }
}

/// What the end of a Parquet file says, without the rest being read.
pub fn footer(path: &Path) -> Result<ParquetMetaData, FileError> {
    const TAIL: usize = 8;
    let file = ReadFile::open(path)?;
    let len = file.len()?;
    let foreign = |what| FileError::Foreign { path: path.to_owned(), what };
    let mut tail = [0; TAIL];
    file.read_at(&mut tail, len.checked_sub(TAIL as u64).ok_or(foreign("it is too short"))?)?;
    if &tail[4..] != b"PAR1" {
        return Err(foreign("it does not end as Parquet"));
    }
    let footer_len = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    let from =
        (len - TAIL as u64).checked_sub(footer_len.into()).ok_or(foreign("its footer is longer than the file"))?;
    let mut footer = vec![0; footer_len as usize];
    file.read_at(&mut footer, from)?;
    guarded(path, || ParquetMetaDataReader::decode_metadata(&footer).map_err(because("read", path)))
}

/// Begins reading a file.
pub fn open<R: ChunkReader + 'static>(path: &Path, file: R) -> Result<ParquetRecordBatchReaderBuilder<R>, FileError> {
    let len = file.len();
    let builder = guarded(path, || ParquetRecordBatchReaderBuilder::try_new(file).map_err(because("read", path)))?;
    if is_within(builder.metadata(), len) {
        Ok(builder)
    } else {
        Err(FileError::Foreign { path: path.to_owned(), what: "its footer says more than there is" })
    }
}

/// Begins reading some columns of a file, a page at a time from the disk.
pub fn columns(path: &Path, names: &[&str]) -> Result<ParquetRecordBatchReaderBuilder<Chunks>, FileError> {
    let builder = open(path, Chunks(Arc::new(ReadFile::open(path)?)))?;
    let projection = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
    Ok(builder.with_projection(projection))
}

/// The rows of a file.
pub struct Batches {
    reader: ParquetRecordBatchReader,
    path: PathBuf,
}

impl Batches {
    /// Those that the builder was told to read.
    pub fn new<R: ChunkReader + 'static>(
        path: &Path,
        builder: ParquetRecordBatchReaderBuilder<R>,
    ) -> Result<Self, FileError> {
        let reader = guarded(path, || builder.build().map_err(because("read", path)))?;
        Ok(Self { reader, path: path.to_owned() })
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { reader, path } = self;
        let next = || match reader.next() {
            Some(batch) => batch.map(Some).map_err(|source| because("read", path)(source.into())),
            None => Ok(None),
        };
        guarded(path, next).transpose()
    }
}

/// Calls the library on what may be harmed. After an error, what it was called on is not to be used again.
fn guarded<T>(path: &Path, call: impl FnOnce() -> Result<T, FileError>) -> Result<T, FileError> {
    let foreign = |_| Err(FileError::Foreign { path: path.to_owned(), what: "the Parquet library fails on it" });
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(foreign)
}

/// Whether all that a footer says to be in a file of this length can be.
fn is_within(metadata: &ParquetMetaData, len: u64) -> bool {
    let is_there = |start: i64, length: i64| {
        let end =
            u64::try_from(start).ok().zip(u64::try_from(length).ok()).and_then(|(from, len)| from.checked_add(len));
        end.is_some_and(|end| end <= len)
    };
    metadata.row_groups().iter().all(|group| {
        let are_there = group.columns().iter().all(|column| {
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            is_there(start, column.compressed_size()) && column.data_page_offset() >= start
        });
        are_there && group.num_rows() >= 0
    })
}

/// A file of which only those parts are in memory that are asked for.
#[derive(Clone, Debug)]
pub struct Chunks(Arc<ReadFile>);

/// Reads a file from an offset on.
#[derive(Debug)]
pub struct FromOffset {
    file: Arc<ReadFile>,
    offset: u64,
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        // what cannot be asked for cannot be read either
        self.0.len().unwrap_or(0)
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<FromOffset>;

    fn get_read(&self, offset: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(FromOffset { file: Arc::clone(&self.0), offset }))
    }

    fn get_bytes(&self, offset: u64, length: usize) -> Result<Bytes, ParquetError> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.len()) {
            return Err(ParquetError::EOF(format!("{length} bytes at {offset} are not there")));
        }
        let mut bytes = vec![0; length];
        self.0.read_at(&mut bytes, offset).map_err(|error| ParquetError::External(Box::new(error)))?;
        Ok(bytes.into())
    }
}

impl Read for FromOffset {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_up_to(buffer, self.offset).map_err(|error| error.source)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// A value of the footer.
pub fn value<'m>(metadata: &'m ParquetMetaData, key: &str) -> Option<&'m str> {
    let values = metadata.file_metadata().key_value_metadata()?;
    values.iter().find(|value| value.key == key)?.value.as_deref()
}

/// The position that a file covers its hour up to.
pub fn covered_position(path: &Path, metadata: &ParquetMetaData) -> Result<u64, FileError> {
    let covered = value(metadata, COVERED_POSITION).and_then(|text| text.parse().ok());
    covered.ok_or_else(|| FileError::Foreign { path: path.to_owned(), what: "no covered position" })
}

/// Names the action and the path of a failure.
pub fn because(action: &'static str, path: &Path) -> impl FnOnce(ParquetError) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Parquet { action, path, source }
}
