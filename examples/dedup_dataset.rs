//! A dataset of made-up rows to look for duplicates in: `dedup_dataset FOLDER IMAGES`.
//!
//! The files and the catalog are as a download leaves them, only that an image has 16 bytes. One image in ten has the
//! hash of an earlier one, and one in twenty a perceptual hash that is 1 to 12 bits off an earlier one's.
//! `benches/dedup.py` measures with it.

use std::collections::HashSet;
use std::error::Error;
use std::path::PathBuf;

use ddl::catalog::{
    Catalog, CatalogOptions, CompactionReport, ManifestFile, NewPartition, PartReport, RecordOutcome, Report,
};
use ddl::model::{
    Epoch, HashAlgorithm, ImageFormat, PartId, PartRow, PartitionKey, PixelSize, RecordState, ServerName,
    UrlKey,
};
use ddl::storage::{
    CompactionInput, DatasetLayout, ImageRow, LayoutOptions, ManifestRecord, PartWriter, StorageOptions,
    compact_partition, finish_partition,
};

const SERVERS: u64 = 20;
const PARTITION_IMAGES: u64 = 10_000;
const ROW_GROUP_IMAGES: u64 = 1_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, num_images] = &arguments[..] else { return Err("FOLDER IMAGES".into()) };
    let num_images: u64 = num_images.parse()?;
    let layout = DatasetLayout::new(PathBuf::from(folder), LayoutOptions::default());
    std::fs::create_dir_all(layout.root())?;
    let catalog = Catalog::create(&layout.catalog(), &CatalogOptions::default())?;
    catalog.pin_hash_algorithm(HashAlgorithm::default())?;
    for (partition, first) in (0..num_images).step_by(PARTITION_IMAGES as usize).enumerate() {
        let images = first..num_images.min(first + PARTITION_IMAGES);
        let server = ServerName::from_catalog(&format!("server-{:02}.example", partition as u64 % SERVERS));
        let partition_id = (partition as u64 / SERVERS) as u32;
        add_partition(&catalog, &layout, &server, partition_id, images)?;
    }
    Ok(())
}

fn add_partition(
    catalog: &Catalog,
    layout: &DatasetLayout,
    server: &ServerName,
    partition_id: u32,
    images: std::ops::Range<u64>,
) -> Result<(), Box<dyn Error>> {
    let num_records = (images.end - images.start) as u32;
    let file = ManifestFile { name: "part-0.parquet".into(), num_records, bytes: 1, crc32: 0 };
    catalog.add_partitions(&[NewPartition {
        folder: server.clone(),
        members: Vec::new(),
        partition_id,
        manifest_files: vec![file],
        states: vec![RecordState::Pending; num_records as usize],
        url_keys: images.clone().map(|image| UrlKey::of_bytes(&image.to_le_bytes())).collect(),
    }])?;
    let servers = catalog.view()?.servers()?;
    let server_id = servers.iter().find(|known| known.folder == *server).ok_or("no server")?.id;
    let key = PartitionKey { server_id, partition_id };
    let epoch = Epoch::new(1, 1);
    let part = PartId { epoch, sequence: 0 };
    let mut writer =
        PartWriter::create(&layout.success_part(server, partition_id, part), StorageOptions::default())?;
    let mut digests = Vec::new();
    for first in images.clone().step_by(ROW_GROUP_IMAGES as usize) {
        let group = first..images.end.min(first + ROW_GROUP_IMAGES);
        let mut rows: Vec<_> = group.map(|image| row(image, (image - images.start) as u32, server)).collect();
        digests.extend(rows.iter().flat_map(|row| row.hashsum_original.as_bytes().to_vec()));
        writer.write_row_group(&mut rows)?;
    }
    let outcome = |record| RecordOutcome {
        record,
        state: RecordState::Success.to_byte(),
        http_status: 200,
        retry_count: 0,
    };
    let report = PartReport {
        partition: key,
        part: PartRow { part, successes: writer.seal()?, errors: Default::default() },
        outcomes: (0..num_records).map(outcome).collect(),
        digest_bytes: (digests.len() / num_records as usize) as u8,
        digests,
        image_bytes: 16 * u64::from(num_records),
    };
    commit(catalog, Report::Part(report))?;
    let parts = catalog.view()?.partition(key)?.ok_or("no partition")?.parts;
    let output = compact_partition(&CompactionInput {
        layout,
        folder: server,
        partition_id,
        parts: &parts,
        failed: &HashSet::new(),
        epoch,
        options: StorageOptions::default(),
    })?;
    let parts = parts.iter().map(|part| part.part).collect();
    let (successes, errors) = (output.successes, output.errors);
    commit(catalog, Report::Compacted(CompactionReport { partition: key, epoch, parts, successes, errors }))?;
    finish_partition(layout, server, partition_id)?;
    commit(catalog, Report::Finished(key))
}

fn commit(catalog: &Catalog, report: Report) -> Result<(), Box<dyn Error>> {
    for answer in catalog.commit_reports(&[report])? {
        answer.map_err(|refusal| format!("{refusal:?}"))?;
    }
    Ok(())
}

fn row(image: u64, record: u32, server: &ServerName) -> ImageRow {
    let mut random = fastrand::Rng::with_seed(image);
    let (uuid_high, uuid_low) = (random.u64(..), random.u64(..));
    let kind = random.u8(..20);
    let earlier = random.u64(..image.max(1));
    let content = if kind < 2 { earlier } else { image };
    let mut perceptual_hash = perceptual_hash(if kind < 3 { earlier } else { image });
    if kind == 2 {
        for _ in 0..random.usize(1..=12) {
            let bit = random.usize(..256);
            perceptual_hash[bit / 8] ^= 1 << (bit % 8);
        }
    }
    let digest = HashAlgorithm::default().digest(&content.to_le_bytes());
    let size = PixelSize { height: 1000, width: 1500 };
    let record = ManifestRecord {
        record,
        uuid: format!(
            "{:08x}-{:04x}-5{:03x}-{:04x}-{:012x}",
            uuid_high >> 32,
            uuid_high >> 16 & 0xffff,
            uuid_high & 0xfff,
            0x8000 | uuid_low >> 48 & 0x3fff,
            uuid_low & 0xffff_ffff_ffff
        ),
        source_id: Some((4_000_000_000 + image).to_string()),
        identifier: format!("https://{server}/media/{image}/original.jpg"),
        license: Some("http://creativecommons.org/licenses/by/4.0/".into()),
        source: None,
        title: None,
        label: None,
        shared_server_name: None,
    };
    ImageRow {
        record: record.into(),
        image: image.to_le_bytes().repeat(2).into(),
        image_format: ImageFormat::Jpeg,
        original_size: size,
        resized_size: size,
        hashsum_original: digest,
        hashsum_resized: digest,
        perceptual_hash: Some(perceptual_hash),
        content_type: Some("image/jpeg".into()),
        http_status: 200,
        fetched_at: 1_700_000_000_000 + image as i64,
        final_url: None,
        rendition_url: None,
    }
}

fn perceptual_hash(image: u64) -> [u8; 32] {
    let mut random = fastrand::Rng::with_seed(!image);
    std::array::from_fn(|_| random.u8(..))
}
