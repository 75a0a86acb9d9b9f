//! Equal images: those whose `hashsum_original` is the same.
//!
//! 1. All hashes go into a [`Sketch`].
//! 2. Images whose hash may repeat are read, [`MAX_IMAGES`] or so at a time: always all of a hash together.
//! 3. Of each hash the first in the order of preference stays; the others go for it.
//!
//! If they are far more, as one picture may be behind millions of URLs, only the first of each hash is kept in memory, and
//! the others are read again.
//!
//! Numbers that are made of the hashes are sorted; the other columns are compared only where these are equal.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray, Int32Array, Int32Builder, Int64Array, RecordBatch, StringArray,
    StringBuilder,
};
use arrow::compute::{cast, interleave_record_batch};
use arrow::datatypes::{DataType, Int32Type, Int64Type};

use super::sketch::{Sketch, mixed};
use super::{Dedup, FilterInput, Gone, IMAGE, Keep, ToolError, failed, gone_schema, texts};
use crate::query::QuerySession;

/// Images that are in memory at once, of some 200 bytes each.
pub(super) const MAX_IMAGES: u64 = 4_000_000;

/// Rows of a batch of what goes.
const BATCH_ROWS: usize = 8192;

pub(super) async fn find(tool: &Dedup, input: &FilterInput<'_>, gone: &mut Gone) -> Result<(), ToolError> {
    let session = input.session();
    let (against, readable) = (tool.against.is_some(), input.readable());
    let sketch = sketch(tool, input).await?;
    let num_passes = sketch.num_repeating().div_ceil(tool.images_at_once).clamp(1, 1 << 16);
    session.register_text_function("hash_pass", move |hash| match hash {
        Some(hash) if sketch.may_repeat(hash) => (mixed(hash) % num_passes) as i32,
        _ => -1,
    });
    let keep = if against { Keep::First } else { tool.keep };
    let columns = format!("{IMAGE}, hashsum_original, {}", keep.columns());
    let mut num_gone = 0;
    for pass in 0..num_passes {
        let chosen = format!("hash_pass(hashsum_original) = {pass}");
        let ours = format!("select {columns} from ordered_images where {readable} and {chosen}");
        let mut statements = vec![ours.clone()];
        if against {
            statements.push(format!(
                "select {IMAGE}, hashsum_original, cast(0 as bigint) as \"ddl:first\", \
                 cast(0 as bigint) as \"ddl:second\" from other_images where {chosen}"
            ));
        }
        let mut gathered = Gathered::new(tool.images_at_once);
        for sql in statements {
            let mut rows = session.stream(&sql).await?;
            while let Some(batch) = rows.next().await? {
                gathered.add(&batch)?;
            }
        }
        if gathered.is_reduced {
            gathered.reduce()?;
            let mut rows = session.stream(&ours).await?;
            while let Some(batch) = rows.next().await? {
                gathered.images.push(Images::new(&batch)?);
                if gathered.num_rows() >= gathered.most {
                    num_gone += compare(&gathered.images, against, gone)?;
                    gathered.images.truncate(1);
                }
            }
        }
        num_gone += compare(&gathered.images, against, gone)?;
    }
    // Gives back the memory of the sketch.
    session.register_text_function("hash_pass", |_| -1);
    tracing::info!(equal = num_gone, "images that are equal to another");
    Ok(())
}

async fn sketch(tool: &Dedup, input: &FilterInput<'_>) -> Result<Sketch, ToolError> {
    let session = input.session();
    let num_ours: u64 = input.partitions().map(|(.., num_images, _)| num_images).sum();
    let ours = format!("select hashsum_original from ordered_images where {}", input.readable());
    if tool.against.is_none() {
        let mut sketch = Sketch::new(num_ours);
        each_hash(session, &ours, |hash| sketch.add(hash)).await?;
        return Ok(sketch);
    }
    let counted = session.collect("select count(*) as n from other_images").await?;
    let num_theirs: i64 = counted.iter().map(|batch| batch["n"].as_primitive::<Int64Type>().value(0)).sum();
    let mut sketch = Sketch::new(num_ours + num_theirs as u64);
    let (mut digits_of_theirs, mut digits_of_ours) = (None, None);
    each_hash(session, "select hashsum_original from other_images", |hash| {
        digits_of_theirs = Some(hash.len());
        sketch.add_first(hash);
    })
    .await?;
    each_hash(session, &ours, |hash| {
        digits_of_ours = Some(hash.len());
        sketch.add_second(hash);
    })
    .await?;
    if digits_of_ours.zip(digits_of_theirs).is_some_and(|(ours, theirs)| ours != theirs) {
        return Err(ToolError::Failed(
            "`hashsum_original` is of another algorithm in the other dataset: nothing can be found equal"
                .into(),
        ));
    }
    Ok(sketch)
}

async fn each_hash(session: &QuerySession, sql: &str, mut each: impl FnMut(&str)) -> Result<(), ToolError> {
    let mut rows = session.stream(sql).await?;
    while let Some(batch) = rows.next().await? {
        texts(&batch, "hashsum_original")?.iter().flatten().for_each(&mut each);
    }
    Ok(())
}

/// Images of one pass.
struct Gathered {
    images: Vec<Images>,
    /// So many are in memory; more are reduced to the first of each hash.
    most: usize,
    is_reduced: bool,
}

impl Gathered {
    /// With room for a quarter more than are expected.
    fn new(expected: u64) -> Self {
        Self { images: Vec::new(), most: (expected + expected.div_ceil(4)) as usize, is_reduced: false }
    }

    fn num_rows(&self) -> usize {
        self.images.iter().map(|images| images.hash.len()).sum()
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<(), ToolError> {
        self.images.push(Images::new(batch)?);
        if self.num_rows() > self.most { self.reduce() } else { Ok(()) }
    }

    /// Leaves one batch, of the first of each hash.
    fn reduce(&mut self) -> Result<(), ToolError> {
        let firsts: Vec<_> = in_order(&self.images)
            .chunk_by(|a, b| is_equal(&self.images, a, b))
            .map(|equal| (equal[0].1 as usize, equal[0].2 as usize))
            .collect();
        let batches: Vec<_> = self.images.iter().map(|images| &images.batch).collect();
        let batch = interleave_record_batch(&batches, &firsts).map_err(|error| failed(&error))?;
        // Where hashes are as many as that, it would be done again and again.
        self.most = self.most.max(2 * batch.num_rows());
        self.images = vec![Images::new(&batch)?];
        self.is_reduced = true;
        Ok(())
    }
}

/// A batch of images.
struct Images {
    /// All these columns, in the same types for all batches.
    batch: RecordBatch,
    hash: StringArray,
    preferences: [Int64Array; 2],
    position: Int32Array,
    record: Int32Array,
    uuid: StringArray,
    source_id: StringArray,
    server_name: StringArray,
    partition_id: Int32Array,
}

impl Images {
    fn new(batch: &RecordBatch) -> Result<Self, ToolError> {
        let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
        let mut take = |name: &'static str, data_type: &DataType| -> Result<ArrayRef, ToolError> {
            let column = cast(&batch[name], data_type).map_err(|error| failed(&error))?;
            columns.push((name, column.clone()));
            Ok(column)
        };
        let mut text = |name| Ok::<_, ToolError>(take(name, &DataType::Utf8)?.as_string::<i32>().clone());
        let (hash, uuid) = (text("hashsum_original")?, text("uuid")?);
        let (source_id, server_name) = (text("source_id")?, text("server_name")?);
        let mut number =
            |name| Ok::<_, ToolError>(take(name, &DataType::Int32)?.as_primitive::<Int32Type>().clone());
        let (position, record) = (number("ddl:partition")?, number("record")?);
        let partition_id = number("partition_id")?;
        let mut preference =
            |name| Ok::<_, ToolError>(take(name, &DataType::Int64)?.as_primitive::<Int64Type>().clone());
        let preferences = [preference("ddl:first")?, preference("ddl:second")?];
        let columns = columns.into_iter().map(|(name, column)| (name, column, true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| failed(&error))?;
        Ok(Self { batch, hash, preferences, position, record, uuid, source_id, server_name, partition_id })
    }
}

/// One image.
#[derive(Clone, Copy)]
struct Image<'a> {
    images: &'a Images,
    row: usize,
}

impl<'a> Image<'a> {
    fn hash(self) -> &'a str {
        self.images.hash.value(self.row)
    }

    /// Of ours, each has another.
    fn place(self) -> (i32, i32) {
        (self.images.position.value(self.row), self.images.record.value(self.row))
    }

    fn is_other(self) -> bool {
        self.images.position.value(self.row) < 0
    }

    fn uuid(self) -> Option<&'a str> {
        text(&self.images.uuid, self.row)
    }

    fn source_id(self) -> Option<&'a str> {
        text(&self.images.source_id, self.row)
    }

    fn server_name(self) -> Option<&'a str> {
        text(&self.images.server_name, self.row)
    }

    fn partition_id(self) -> Option<i32> {
        number(&self.images.partition_id, self.row)
    }

    /// Another dataset's come first, by `uuid`; ours in order of preference.
    fn preferred(self, other: Self) -> Ordering {
        let first = |image: Self| {
            let [one, two] = &image.images.preferences;
            let place = (!image.is_other()).then(|| (image.partition_id(), image.server_name()));
            (!image.is_other(), one.value(image.row), two.value(image.row), place)
        };
        let last = |image: Self| {
            let Images { position, record, .. } = image.images;
            (image.uuid(), position.value(image.row), record.value(image.row), image.source_id())
        };
        first(self).cmp(&first(other)).then_with(|| last(self).cmp(&last(other)))
    }
}

fn text(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

fn number(column: &Int32Array, row: usize) -> Option<i32> {
    column.is_valid(row).then(|| column.value(row))
}

/// An image of several batches: its hash as a number, its batch, its row.
type Place = (u64, u32, u32);

fn image<'a>(images: &'a [Images], &(_, batch, row): &Place) -> Image<'a> {
    Image { images: &images[batch as usize], row: row as usize }
}

fn is_equal(images: &[Images], a: &Place, b: &Place) -> bool {
    a.0 == b.0 && image(images, a).hash() == image(images, b).hash()
}

/// By hash, then preference.
fn in_order(images: &[Images]) -> Vec<Place> {
    let mut order: Vec<Place> = Vec::with_capacity(images.iter().map(|images| images.hash.len()).sum());
    for (batch, images) in images.iter().enumerate() {
        order.extend(
            (0..images.hash.len()).map(|row| (mixed(images.hash.value(row)), batch as u32, row as u32)),
        );
    }
    order.sort_unstable_by(|a, b| {
        a.0.cmp(&b.0).then_with(|| {
            let (one, other) = (image(images, a), image(images, b));
            one.hash().cmp(other.hash()).then_with(|| one.preferred(other))
        })
    });
    order
}

/// Of images that have the first of their hash with them, those go that are another; against another dataset, those of
/// ours that are after one of its. Returns how many.
fn compare(images: &[Images], against: bool, gone: &mut Gone) -> Result<u64, ToolError> {
    let mut rows = Rows::new(if against { "exact_in_other" } else { "exact_duplicate" });
    let mut num_gone = 0;
    for equal in in_order(images).chunk_by(|a, b| is_equal(images, a, b)) {
        let keeper = image(images, &equal[0]);
        if against && !keeper.is_other() {
            continue;
        }
        let others = equal[1..].iter().map(|place| image(images, place));
        for image in others.filter(|image| !image.is_other() && image.place() != keeper.place()) {
            rows.add(image, keeper);
            num_gone += 1;
            if rows.len() == BATCH_ROWS {
                gone.add(&rows.finish()?)?;
            }
        }
    }
    gone.add(&rows.finish()?)?;
    Ok(num_gone)
}

/// Rows of what goes.
struct Rows {
    reason: &'static str,
    position: Int32Builder,
    record: Int32Builder,
    image: Names,
    main: Names,
}

#[derive(Default)]
struct Names {
    uuid: StringBuilder,
    source_id: StringBuilder,
    server_name: StringBuilder,
    partition_id: Int32Builder,
}

impl Names {
    fn add(&mut self, image: Image<'_>) {
        self.uuid.append_option(image.uuid());
        self.source_id.append_option(image.source_id());
        self.server_name.append_option(image.server_name());
        self.partition_id.append_option(image.partition_id());
    }

    fn finish(&mut self) -> [ArrayRef; 4] {
        [
            Arc::new(self.uuid.finish()),
            Arc::new(self.source_id.finish()),
            Arc::new(self.server_name.finish()),
            Arc::new(self.partition_id.finish()),
        ]
    }
}

impl Rows {
    fn new(reason: &'static str) -> Self {
        Self {
            reason,
            position: Int32Builder::new(),
            record: Int32Builder::new(),
            image: Names::default(),
            main: Names::default(),
        }
    }

    fn add(&mut self, image: Image<'_>, keeper: Image<'_>) {
        self.position.append_value(image.images.position.value(image.row));
        self.record.append_value(image.images.record.value(image.row));
        self.image.add(image);
        self.main.add(keeper);
    }

    fn len(&self) -> usize {
        arrow::array::ArrayBuilder::len(&self.position)
    }

    fn finish(&mut self) -> Result<RecordBatch, ToolError> {
        let num_rows = self.len();
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(self.position.finish()), Arc::new(self.record.finish())];
        columns.extend(self.image.finish());
        columns.push(Arc::new(StringArray::from(vec![self.reason; num_rows])));
        columns.extend(self.main.finish());
        columns.push(Arc::new(Int32Array::from(vec![0; num_rows])));
        RecordBatch::try_new(gone_schema(), columns).map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One picture behind 20 million URLs took 4 GB.
    #[test]
    fn memory_does_not_grow_with_the_copies_of_an_image() {
        let mut gathered = Gathered::new(100);
        for batch in 0..200 {
            let column = |number: i32| -> ArrayRef { Arc::new(Int32Array::from(vec![number; 10])) };
            let text = |text: String| -> ArrayRef { Arc::new(StringArray::from(vec![text; 10])) };
            // Every tenth is of another hash, and the last are preferred.
            let hash = if batch % 10 == 0 { format!("hash-{batch}") } else { "hash".to_owned() };
            let columns = [
                ("ddl:partition", column(batch)),
                ("record", Arc::new(Int32Array::from_iter_values(0..10)) as ArrayRef),
                ("uuid", text(format!("{batch}"))),
                ("source_id", text(String::new())),
                ("server_name", text("s".into())),
                ("partition_id", column(0)),
                ("hashsum_original", text(hash)),
                ("ddl:first", column(-batch)),
                ("ddl:second", column(0)),
            ];
            gathered.add(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
            assert!(gathered.num_rows() <= 125, "{}", gathered.num_rows());
        }
        gathered.reduce().unwrap();
        let [images] = &gathered.images[..] else { panic!("several batches are left") };
        assert_eq!(images.hash.len(), 21);
        let kept = images.hash.iter().position(|hash| hash == Some("hash")).unwrap();
        assert_eq!((images.uuid.value(kept), images.record.value(kept)), ("199", 0));
    }
}
