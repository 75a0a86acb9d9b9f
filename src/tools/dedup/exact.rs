//! Equal images: those whose `hashsum_original` is the same.
//!
//! 1. All hashes go into a [`Sketch`].
//! 2. Images whose hash may repeat are read, [`MAX_IMAGES`] or so at a time: always all of a hash together.
//! 3. Of each hash the first in the order of preference stays; the others go for it.
//!
//! Numbers that are made of the hashes are sorted; the other columns are compared only where these are equal.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray, Int32Array, Int32Builder, Int64Array, RecordBatch, StringArray,
    StringBuilder,
};
use arrow::compute::cast;
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
        let mut statements =
            vec![format!("select {columns} from ordered_images where {readable} and {chosen}")];
        if against {
            statements.push(format!(
                "select {IMAGE}, hashsum_original, cast(0 as bigint) as \"ddl:first\", \
                 cast(0 as bigint) as \"ddl:second\" from other_images where {chosen}"
            ));
        }
        let mut images = Vec::new();
        for sql in statements {
            let mut rows = session.stream(&sql).await?;
            while let Some(batch) = rows.next().await? {
                images.push(Images::new(&batch)?);
            }
        }
        num_gone += compare(&images, against, gone)?;
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

/// A batch of images.
struct Images {
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
        let number = |name: &str| -> Result<Int32Array, ToolError> {
            let column = cast(&batch[name], &DataType::Int32).map_err(|error| failed(&error))?;
            Ok(column.as_primitive::<Int32Type>().clone())
        };
        let preference = |name: &str| -> Result<Int64Array, ToolError> {
            let column = cast(&batch[name], &DataType::Int64).map_err(|error| failed(&error))?;
            Ok(column.as_primitive::<Int64Type>().clone())
        };
        Ok(Self {
            hash: texts(batch, "hashsum_original")?,
            preferences: [preference("ddl:first")?, preference("ddl:second")?],
            position: number("ddl:partition")?,
            record: number("record")?,
            uuid: texts(batch, "uuid")?,
            source_id: texts(batch, "source_id")?,
            server_name: texts(batch, "server_name")?,
            partition_id: number("partition_id")?,
        })
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

/// Of images that have all of their hash with them, those go that are not the first of it; against another dataset,
/// those of ours that are after one of its. Returns how many.
fn compare(images: &[Images], against: bool, gone: &mut Gone) -> Result<u64, ToolError> {
    let mut order: Vec<(u64, u32, u32)> =
        Vec::with_capacity(images.iter().map(|images| images.hash.len()).sum());
    for (batch, images) in images.iter().enumerate() {
        order.extend(
            (0..images.hash.len()).map(|row| (mixed(images.hash.value(row)), batch as u32, row as u32)),
        );
    }
    let image =
        |&(_, batch, row): &(u64, u32, u32)| Image { images: &images[batch as usize], row: row as usize };
    order.sort_unstable_by(|a, b| {
        a.0.cmp(&b.0).then_with(|| {
            let (one, other) = (image(a), image(b));
            one.hash().cmp(other.hash()).then_with(|| one.preferred(other))
        })
    });
    let mut rows = Rows::new(if against { "exact_in_other" } else { "exact_duplicate" });
    let mut num_gone = 0;
    for equal in order.chunk_by(|a, b| a.0 == b.0 && image(a).hash() == image(b).hash()) {
        let keeper = image(&equal[0]);
        if against && !keeper.is_other() {
            continue;
        }
        for image in equal[1..].iter().map(image).filter(|image| !image.is_other()) {
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
