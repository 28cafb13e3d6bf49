use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::SchemaDescriptor;
use proptest::prelude::*;

use super::*;
use crate::texts::{TextColumn, Texts};

/// A file with one column, of this type, of a chunk made by `make`.
fn file(field: &str, make: impl FnOnce(&mut Encoder, &ColumnDescPtr) -> Chunk) -> Bytes {
    let schema = Arc::new(parse_message_type(&format!("message m {{ {field} }}")).unwrap());
    let column = SchemaDescriptor::new(Arc::clone(&schema)).column(0);
    let chunk = make(&mut Encoder::default(), &column);
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(WriterProperties::new())).unwrap();
    let mut row_group = writer.next_row_group().unwrap();
    row_group.append_column(&chunk.bytes, chunk.close).unwrap();
    row_group.close().unwrap();
    writer.into_inner().unwrap().into()
}

/// Its rows, as the library reads them.
fn rows(file: &Bytes) -> Vec<RecordBatch> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap();
    builder.build().unwrap().map(Result::unwrap).collect()
}

fn column<T>(file: &Bytes, values: impl Fn(&dyn Array) -> Vec<T>) -> Vec<T> {
    rows(file).iter().flat_map(|batch| values(batch.column(0))).collect()
}

fn statistics(file: &Bytes) -> Statistics {
    let reader = SerializedFileReader::new(file.clone()).unwrap();
    reader.metadata().row_group(0).column(0).statistics().unwrap().clone()
}

fn encodings(file: &Bytes) -> Vec<Encoding> {
    let reader = SerializedFileReader::new(file.clone()).unwrap();
    reader.metadata().row_group(0).column(0).encodings().collect()
}

fn times(values: &[i64]) -> Vec<i64> {
    let file = file("required int64 a;", |encoder, column| encoder.times(column, Levels::Required, values));
    column(&file, |array| array.as_primitive::<Int64Type>().values().to_vec())
}

fn texts(values: &[String]) -> Vec<String> {
    texts_of(&texts_file(values))
}

fn texts_file(values: &[String]) -> Bytes {
    file("required binary a (STRING);", |encoder, column| texts_chunk(encoder, column, values))
}

fn texts_of(file: &Bytes) -> Vec<String> {
    column(file, |array| array.as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect())
}

fn texts_chunk<T: AsRef<[u8]>>(encoder: &mut Encoder, column: &ColumnDescPtr, values: &[T]) -> Chunk {
    let mut texts = TextColumn::default();
    texts.push_all(&values.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    let (texts, numbers) = texts.parts();
    encoder.texts(column, Levels::Required, texts, numbers)
}

fn flags(values: &[bool]) -> Vec<bool> {
    let file = file("required boolean a;", |encoder, column| encoder.flags(column, values));
    column(&file, |array| array.as_boolean().values().iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn times_read_back(values in prop::collection::vec(any::<i64>(), 0..700), shift in 0..63_u32) {
        let values: Vec<i64> = values.iter().map(|value| value >> shift).collect();
        prop_assert_eq!(times(&values), values);
    }

    #[test]
    fn texts_read_back_however_often_they_come(values in prop::collection::vec((0..300_u32, 1..40_usize), 0..200), most in 1..300_u32) {
        let values: Vec<String> =
            values.iter().flat_map(|(text, times)| vec![(text % most).to_string(); *times]).collect();
        prop_assert_eq!(texts(&values), values);
    }

    #[test]
    fn binaries_read_back(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..300)) {
        let ends: Vec<usize> = values.iter().scan(0, |end, value| { *end += value.len(); Some(*end) }).collect();
        let file = file("required binary a;", |encoder, column| encoder.binaries(column, &values.concat(), &ends));
        let read = column(&file, |array| array.as_binary::<i32>().iter().map(|value| value.unwrap().to_vec()).collect());
        prop_assert_eq!(read, values);
    }

    #[test]
    fn numbers_that_are_there_or_not_read_back(values in prop::collection::vec(prop::option::of(-40..40_i64), 0..500)) {
        let is_there: Vec<bool> = values.iter().map(Option::is_some).collect();
        let numbers: Vec<i64> = values.iter().flatten().copied().collect();
        let levels = Levels::Optional(&is_there);
        let doubles: Vec<f64> = numbers.iter().map(|number| *number as f64 / 8.0).collect();
        let file_of_doubles = file("optional double a;", |encoder, column| encoder.doubles(column, levels, &doubles));
        let read = column(&file_of_doubles, |array| array.as_primitive::<Float64Type>().iter().collect());
        prop_assert_eq!(read, values.iter().map(|value| value.map(|value| value as f64 / 8.0)).collect::<Vec<_>>());
        type Make = fn(&mut Encoder, &ColumnDescPtr, Levels<'_>, &[i64]) -> Chunk;
        for make in [Encoder::numbers as Make, Encoder::times] {
            let file = file("optional int64 a;", |encoder, column| make(encoder, column, levels, &numbers));
            prop_assert_eq!(column(&file, |array| array.as_primitive::<Int64Type>().iter().collect()), values.clone());
        }
    }

    #[test]
    fn any_number_of_texts_a_row_reads_back(counts in prop::collection::vec(0..4_u32, 0..300)) {
        let mut texts = Texts::default();
        let numbers: Vec<u32> =
            (0..counts.iter().sum()).map(|n: u32| texts.number((n % 7).to_string().as_bytes())).collect();
        let levels = Levels::Repeated(&counts);
        let list = "required group a (LIST) { repeated group list { required binary element (STRING); } }";
        let file = file(list, |encoder, column| encoder.texts(column, levels, texts.list(), Some(&numbers)));
        let mut numbers = 0..;
        let expected: Vec<Vec<String>> =
            counts.iter().map(|count| numbers.by_ref().take(*count as usize).map(|n: u32| (n % 7).to_string()).collect()).collect();
        let row = |row: Option<arrow_array::ArrayRef>| -> Vec<String> {
            row.unwrap().as_string::<i32>().iter().map(|text| text.unwrap().to_owned()).collect()
        };
        let read = column(&file, |array| array.as_list::<i32>().iter().map(row).collect());
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn flags_read_back(values in prop::collection::vec(any::<bool>(), 0..100)) {
        prop_assert_eq!(flags(&values), values);
    }
}

#[test]
fn columns_of_several_pages_read_back() {
    let rows = 2 * PAGE_ROWS + 77;
    let values: Vec<i64> = (0..rows).map(|n| (n * n % 1_000_003) as i64).collect();
    assert_eq!(times(&values), values);
    for different in [3, 5_000, rows] {
        let values: Vec<String> = (0..rows).map(|n| (n % different).to_string()).collect();
        assert_eq!(texts(&values), values, "{different} different ones");
    }
    let counts: Vec<u32> = (0..rows).map(|n| u32::from(n % 3 == 0) * 2).collect();
    let numbers: Vec<u32> = (0..counts.iter().sum()).map(|n| n % 5).collect();
    let mut texts = Texts::default();
    (0..5).for_each(|n| _ = texts.number(&[b'a' + n]));
    let list = "required group a (LIST) { repeated group list { required binary element (STRING); } }";
    let file =
        file(list, |encoder, column| encoder.texts(column, Levels::Repeated(&counts), texts.list(), Some(&numbers)));
    let lengths = column(&file, |array| array.as_list::<i32>().iter().map(|row| row.unwrap().len()).collect());
    assert_eq!(lengths, counts.iter().map(|count| *count as usize).collect::<Vec<_>>());
}

#[test]
fn texts_that_come_once_have_their_lengths_apart() {
    let rows = 2 * PAGE_ROWS + 77;
    let once: Vec<String> = (0..rows).map(|n| format!("https://shop.example/books/{n}")).collect();
    let again: Vec<String> = (0..rows).map(|n| (n % 100).to_string()).collect();
    for (values, encoding) in [(once, Encoding::DELTA_LENGTH_BYTE_ARRAY), (again, Encoding::RLE_DICTIONARY)] {
        let file = texts_file(&values);
        assert!(encodings(&file).contains(&encoding), "{:?}", encodings(&file));
        assert_eq!(texts_of(&file), values);
    }
}

#[test]
fn differences_that_overflow_read_back() {
    let values = [i64::MIN, i64::MAX, 0, i64::MAX, i64::MIN, -1, i64::MIN + 1];
    assert_eq!(times(&values), values);
}

#[test]
fn a_chunk_tells_its_least_and_its_greatest_value() {
    let file_of =
        |values: &[&str]| file("required binary a (STRING);", |encoder, column| texts_chunk(encoder, column, values));
    let told = statistics(&file_of(&["b", "é", "a", "b"]));
    assert_eq!((told.min_bytes_opt(), told.max_bytes_opt()), (Some(&b"a"[..]), Some("é".as_bytes())));
    let told = statistics(&file_of(&["b", &"x".repeat(STATISTICS_BYTES + 1)]));
    assert_eq!((told.min_bytes_opt(), told.max_bytes_opt()), (None, None));

    let is_there = [true, false, true, false];
    let file = file("optional double a;", |encoder, column| {
        encoder.doubles(column, Levels::Optional(&is_there), &[0.0, -3.5])
    });
    let told = statistics(&file);
    assert_eq!(told.null_count_opt(), Some(2));
    assert_eq!(told.min_bytes_opt(), Some(&(-3.5_f64).to_le_bytes()[..]));
}
