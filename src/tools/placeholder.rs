//! `placeholder`: pictures that a server sends in place of many images ("not available").
//!
//! They are images like any other, and give themselves away by coming, byte for byte the same, from many URLs of one
//! server. All of them go: none of the URLs has its own image.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::{FilterInput, FilterTable, Selects, Tool, ToolError, ToolOptions};

pub(super) struct Placeholder {
    min_urls: u64,
}

impl Placeholder {
    pub fn new(options: &ToolOptions) -> Self {
        Self { min_urls: options.placeholder_min_urls }
    }
}

impl Tool for Placeholder {
    fn name(&self) -> &str {
        "placeholder"
    }

    fn description(&self) -> &str {
        "finds one picture in place of many images of a server"
    }

    fn parameters(&self) -> String {
        format!("placeholder_min_urls: {}", self.min_urls)
    }

    fn selects(&self) -> Selects {
        Selects::Images
    }

    fn filter<'a>(
        &'a self,
        input: &'a FilterInput<'a>,
        table: &'a mut FilterTable,
    ) -> BoxFuture<'a, Result<(), ToolError>> {
        async move {
            // The URLs of a server are distinct, so its rows are as many. The pictures come first: the side of a join
            // that is kept in memory. What is sorted is what was chosen, which is little.
            let sql = format!(
                "with pictures as (
                   select server_name, hashsum_original from ordered_images as images
                   where {readable} group by server_name, hashsum_original having count(*) >= {min_urls}
                 )
                 select images.\"ddl:partition\", record, uuid, source_id, images.server_name, partition_id,
                   'placeholder' as reason
                 from pictures
                 join ordered_images as images on pictures.server_name = images.server_name
                   and pictures.hashsum_original = images.hashsum_original
                 where {readable}
                 order by images.\"ddl:partition\", record",
                readable = input.readable(),
                min_urls = self.min_urls,
            );
            let mut rows = input.session().stream(&sql).await?;
            while let Some(batch) = rows.next().await? {
                table.write(&batch)?;
            }
            Ok(())
        }
        .boxed()
    }
}
