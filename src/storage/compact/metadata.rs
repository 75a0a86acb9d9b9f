//! Metadata of parts, moved to where their pages stand in the merged file.

use std::io::{self, Write};
use std::ops::Range;

use parquet::arrow::ArrowSchemaConverter;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataWriter,
    RowGroupMetaData,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::TrackedWrite;
use parquet::schema::types::SchemaDescriptor;

use super::super::StorageOptions;
use super::super::schema::{successes_properties, successes_write_schema};

/// Where a file's pages are: one stretch, for nothing is between them.
pub(super) fn data_range(metadata: &ParquetMetaData) -> Range<u64> {
    let chunks = metadata.row_groups().iter().flat_map(RowGroupMetaData::columns);
    let ranges = chunks.map(|chunk| chunk.byte_range()).map(|(start, length)| start..start + length);
    ranges.reduce(|all, next| all.start.min(next.start)..all.end.max(next.end)).unwrap_or_default()
}

/// Row groups of the parts, at their places in the merged file.
pub(super) struct MergedMetadata {
    properties: WriterProperties,
    schema: SchemaDescriptor,
    row_groups: Vec<RowGroupMetaData>,
    column_index: Vec<Vec<ColumnIndexMetaData>>,
    offset_index: Vec<Vec<OffsetIndexMetaData>>,
}

impl MergedMetadata {
    pub fn new(options: StorageOptions) -> Self {
        Self {
            properties: successes_properties(options),
            schema: ArrowSchemaConverter::new()
                .convert(&successes_write_schema())
                .expect("the columns have Parquet types"),
            row_groups: Vec::new(),
            column_index: Vec::new(),
            offset_index: Vec::new(),
        }
    }

    pub fn num_rows(&self) -> u64 {
        self.row_groups.iter().map(|row_group| row_group.num_rows().unsigned_abs()).sum()
    }

    /// Adds what stands `by` bytes further on now.
    pub fn add(&mut self, part: ParquetMetaData, by: i64) -> parquet::errors::Result<()> {
        if part.file_metadata().schema() != self.schema.root_schema() {
            return Err(ParquetError::General("its columns are other ones".into()));
        }
        let mut part = part.into_builder();
        self.column_index.extend(part.take_column_index().into_iter().flatten());
        for mut chunks in part.take_offset_index().into_iter().flatten() {
            for page in chunks.iter_mut().flat_map(|chunk| &mut chunk.page_locations) {
                page.offset += by;
            }
            self.offset_index.push(chunks);
        }
        for row_group in part.take_row_groups() {
            let chunks =
                row_group.columns().iter().map(|chunk| moved(chunk, by)).collect::<Result<_, _>>()?;
            let ordinal = i16::try_from(self.row_groups.len())
                .map_err(|_| ParquetError::General("too many row groups".into()))?;
            let moved = row_group.into_builder().set_column_metadata(chunks).set_ordinal(ordinal);
            self.row_groups.push(moved.build()?);
        }
        Ok(())
    }

    /// What follows so many bytes of data.
    pub fn encode(self, data_bytes: u64) -> parquet::errors::Result<Vec<u8>> {
        let num_rows = self.num_rows().cast_signed();
        let file = FileMetaData::new(
            self.properties.writer_version().as_num(),
            num_rows,
            Some(self.properties.created_by().to_owned()),
            self.properties.key_value_metadata().cloned(),
            self.schema.into(),
            None,
        );
        let count = self.row_groups.len();
        let metadata = ParquetMetaDataBuilder::new(file)
            .set_row_groups(self.row_groups)
            .set_column_index((self.column_index.len() == count).then_some(self.column_index))
            .set_offset_index((self.offset_index.len() == count).then_some(self.offset_index))
            .build();
        let mut footer = Footer { skip: data_bytes, bytes: Vec::new() };
        let mut tracked = TrackedWrite::new(&mut footer);
        let piece = vec![0; 1 << 20];
        let mut left = data_bytes as usize;
        while left > 0 {
            let length = left.min(piece.len());
            tracked.write_all(&piece[..length])?;
            left -= length;
        }
        ParquetMetaDataWriter::new_with_tracked(tracked, &metadata).finish()?;
        Ok(footer.bytes)
    }
}

/// Takes the footer and drops what is before it. The writer of the metadata counts the bytes that pass
/// through it to know where it is in the file; the data does not pass through it.
struct Footer {
    skip: u64,
    bytes: Vec<u8>,
}

impl Write for Footer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        self.bytes.extend_from_slice(&bytes[skipped as usize..]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn moved(chunk: &ColumnChunkMetaData, by: i64) -> parquet::errors::Result<ColumnChunkMetaData> {
    let dictionary = chunk.dictionary_page_offset().map(|offset| offset + by);
    chunk
        .clone()
        .into_builder()
        .set_data_page_offset(chunk.data_page_offset() + by)
        .set_dictionary_page_offset(dictionary)
        .set_column_index_offset(None)
        .set_column_index_length(None)
        .set_offset_index_offset(None)
        .set_offset_index_length(None)
        .build()
}
