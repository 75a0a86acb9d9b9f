//! The table of keys: everything that can be configured, once.
//!
//! Reading, validation, hints, environment names, `ddl config show`, `config/default.yaml` and
//! `config/README.md` all come from here. A key's default is text, read by its own kind, so the
//! table cannot hold a default that a user could not write.

use super::{Family, Key, Kind};

impl Key {
    const fn zero_is_unset(mut self) -> Self {
        self.zero_is_unset = true;
        self
    }
}

const fn integer(min: u64, max: u64) -> Kind {
    Kind::Integer { min, max }
}

const fn number(min: f64, max: f64) -> Kind {
    Kind::Number { min, max }
}

const fn duration(min: f64, max: f64) -> Kind {
    Kind::Duration { min, max }
}

const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max }
}

const fn dd(path: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { path, kind, default, family: Family::Dd, doc, zero_is_unset: false }
}

const fn ddl(path: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { path, kind, default, family: Family::Ddl, doc, zero_is_unset: false }
}

/// FLOW-DC's, which are found at the top level as well.
const fn flow(path: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    ddl(path, kind, default, doc)
}

/// A script of distributed-downloader's.
const fn script(path: &'static str) -> Key {
    dd(path, Kind::Path, "", "A path, relative to the working folder.")
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const DAY: f64 = 86_400.0;

/// Groups of keys, in the order of the table.
pub const GROUPS: &[(&str, &str)] = &[
    ("output_structure", "Names of files and folders in the output folder."),
    ("columns", "Which columns of the input mean what. A column that is named here must exist."),
    ("downloader_parameters", "How images are asked for, decoded and written."),
    (
        "paarc",
        "FLOW-DC's controller, for `rate_control: paarc`: the names and defaults of its `download_batch`. FLOW-DC has \
         these keys at the top level, and there they work, too.",
    ),
    ("aimd", "FLOW-DC's older token bucket, one for each server, for `rate_control: aimd`; likewise."),
    ("ingest_parameters", "How lists are read and cut into partitions."),
    (
        "export_parameters",
        "What `ddl run` exports once all is downloaded: FLOW-DC's keys, which it has at the top level, with its defaults. \
         `ddl export` has flags for the same.",
    ),
    ("catalog_parameters", "How ranks and the catalog work together."),
    ("query_parameters", "What queries and exports may take of the machine."),
    ("tools_parameters", "What the tools do (`ddl tool`), and the jobs that run them."),
    ("unit_parameters", "Work units for other workflow engines (`ddl unit`)."),
    (
        "slurm_parameters",
        "What `ddl submit` writes into job scripts. Nodes, tasks and cores are those of `downloader_parameters` and \
         `tools_parameters`, the account is `account`.",
    ),
    (
        "scripts",
        "Distributed-downloader's way, for sites that have it: a submit script (`*_submitter`) is called with a job script and its \
         arguments, and its last word is the job's id. Without effect unless `slurm_parameters.use_scripts` (`--scripts`) says so: \
         distributed-downloader's own job scripts start its programs. `scripts/slurm/distributed-downloader/` has those for ddl.",
    ),
];

const RATE_CONTROLS: &[&str] = &["adaptive", "paarc", "aimd", "fixed"];

/// What can be set for one server, below its name in `servers`.
#[rustfmt::skip]
pub(in crate::config) const SERVER_KEYS: &[Key] = &[
    ddl("rate_limit", number(0.0, 10_000.0), "", "Most requests per second; 0 is no limit."),
    ddl("max_connections", integer(1, 10_000), "", "Most requests under way."),
    ddl("rate_control", Kind::Choice(RATE_CONTROLS), "", "As the key of that name."),
    ddl("bytes_per_hour", bytes(0, TIB), "", "Most bytes of bodies in any 60 minutes; 0 is no limit."),
    ddl("bytes_per_day", bytes(0, 24 * TIB), "", "Most bytes of bodies in any 24 hours; 0 is no limit."),
    ddl("accept_invalid_certificates", Kind::Bool, "", "Takes any certificate of this server."),
    ddl("source", Kind::Text, "", "Where the rule comes from: a note."),
];

/// What a rule of `renditions` has.
#[rustfmt::skip]
pub(in crate::config) const RENDITION_KEYS: &[Key] = &[
    ddl("server", Kind::Text, "", "The server, by `host` or `host:port`; none: any."),
    ddl("pattern", Kind::Pattern, "", "What is replaced in path and query."),
    ddl("replace", Kind::Text, "", "By what."),
    ddl("size", integer(1, 65_535), "", "The longest side that the rendition has at least."),
    ddl("source", Kind::Text, "", "Where the rule comes from: a note."),
];

/// Every key, in the order in which it is shown.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    // What and where.
    dd("path_to_input", Kind::List, "",
        "The list of URLs: one path or several. Needed by `ddl ingest`."),
    dd("path_to_output_folder", Kind::Path, "",
        "The root of everything that is written. Needed by every command but `ddl init`."),
    ddl("user_agent", Kind::Text, "",
        "Sent with every request. Needed by `ddl download`: it must name a contact (an e-mail address or a URL), \
         so that a server's operator can write to you instead of blocking you."),
    dd("initializer_type",
        Kind::Choice(&["", "generic", "gbif", "eol", "fathom_net", "lila", "tol200m_general", "tol200m_fathomNet"]), "",
        "The kind of list. `generic` or nothing: any table with a column of URLs."),
    dd("included_sources", Kind::List, "",
        "`tol200m_*` only: the values of `data_source` that are taken."),
    dd("excluded_servers_path", Kind::Path, "",
        "A CSV with a column `server_name`: rows of these servers are left out, whatever the kind of list."),
    dd("bounding_box_information_path", Kind::Path, "",
        "`tol200m_fathomNet` only: Parquet of bounding boxes, keyed by `uuid`."),
    ddl("image_encoding", Kind::Choice(&["auto", "original", "jpeg", "png", "webp", "raw"]), "auto",
        "How images are stored. `auto` keeps the bytes as received unless the image is resized, then JPEG; \
         `original` always keeps them (and cannot be combined with `image_size`); \
         `webp` is lossless; `raw` is BGR pixels, for consumers of distributed-downloader."),
    ddl("hash_algorithm", Kind::Choice(&["blake3", "md5", "sha256"]), "blake3",
        "Makes `hashsum_original` and `hashsum_resized`. BLAKE3 has about five times the speed of MD5 \
         and is collision-resistant; `md5` is what distributed-downloader writes."),
    ddl("allow_private_networks", Kind::Bool, "false",
        "Allows requests to private and loopback addresses. Off, because a list or a redirect could otherwise \
         make ddl ask machines inside your network."),
    ddl("allow_addresses", Kind::Addresses, "",
        "Addresses that may be asked although they are not public: a list of addresses and networks, such as \
         `[192.168.1.20, fd00::/8]`. Link-local addresses and the metadata services of clouds must be named \
         one by one; a network around them does not admit them."),
    ddl("rate_control", Kind::Choice(RATE_CONTROLS), "adaptive",
        "Who decides how hard a server is worked, below `default_rate_limit` and `max_connections_per_server`. \
         `adaptive` begins with one request at a time, takes more only as long as that makes no answer slower, and \
         stays away from where the server refused. `fixed` goes to both limits at once, as distributed-downloader \
         does, and is slowed down only by refusals. `paarc` and `aimd` are FLOW-DC's."),
    ddl("servers", Kind::Servers, "{}",
        "What holds for single servers, by `host` or `host:port`. `rate_limit` (requests per second, 0 for no limit) \
         and `max_connections` stand for `default_rate_limit` and `max_connections_per_server`, `rate_control` for the \
         key of that name; `bytes_per_hour` and `bytes_per_day` bound the bytes of its images, in any 60 minutes and any 24 \
         hours over all ranks (`5GB`; 0 for no limit); `accept_invalid_certificates: true` takes its certificate even if it \
         is expired, self-signed or of another name, with a warning in the log; `source` is a note. With `rate_control: fixed` the rate is pinned, else it is a cap. These \
         rules win over `servers_profiles.csv`, and that over those that ddl knows (`config/servers.yaml`), which only \
         ever make limits tighter. With several files, the later wins server by server."),
    ddl("renditions", Kind::Renditions, "[]",
        "How servers name smaller renditions of their images, for `rendition_size`: a list of rules. `pattern` is a \
         [regular expression](https://docs.rs/regex/#syntax) for path and query of a URL; what it matches becomes `replace`, \
         where `${1}` is what the first group has found. `size` is the longest side that comes of it at least, and `{size}` \
         in `replace` stands for that; a rule without `size` gives every size, and `{size}` is then `rendition_size`. `server` (`host` or `host:port`) \
         limits a rule to one server; scheme and server of a URL never change. These rules come before those that ddl knows \
         (`config/renditions.yaml`); with several files, the last list counts."),
    ddl("connect_to", Kind::ConnectTo, "",
        "Connects elsewhere than the URL says: a list of `HOST1:PORT1:HOST2:PORT2`, as curl's `--connect-to`; \
         empty parts match anything or change nothing. For tests and mirrors."),
    ddl("http_proxy", Kind::Proxy, "environment",
        "The forward proxy of http requests, such as `http://name:password@proxy.example:3128`; the password is never shown or \
         logged. `environment` takes it from the variables `http_proxy`, `HTTP_PROXY`, `all_proxy`, `ALL_PROXY`, the first \
         that is set; `none` does without. A proxy resolves names itself: those that lead to a private address here are \
         refused all the same, those that do not resolve here are the proxy's to judge."),
    ddl("https_proxy", Kind::Proxy, "environment",
        "The same for https requests, which go through a tunnel (CONNECT); `environment` looks at `https_proxy`, \
         `HTTPS_PROXY`, `all_proxy`, `ALL_PROXY`."),
    ddl("no_proxy", Kind::List, "[environment]",
        "What is asked directly all the same: names (with all below them), addresses, networks, or `*`. `environment` takes \
         them from the variables `no_proxy` or `NO_PROXY`; `none` is none. This machine itself (`localhost`, loopback) and \
         what `connect_to` sends elsewhere never go through a proxy."),
    ddl("ca_certificate", Kind::Path, "",
        "A PEM file with further certificates to trust, for networks that intercept TLS."),
    dd("schedule_rules", Kind::Rules, "{1: 1}",
        "How many ranks may work on one server at once: from this number of open partitions on, so many ranks, \
         but no more than it may have connections, or whole requests per second. \
         A server's limits are shared among them, so more ranks do not mean more requests. \
         The rule for 1 is required: without it small servers would never be asked."),
    dd("suppress_unchanged_error", Kind::Bool, "false",
        "Lets a chain of jobs go on although a whole job has changed nothing. Without it the chain ends there, as it does in \
         distributed-downloader: the next job would do no better."),
    dd("account", Kind::Text, "",
        "The Slurm account of jobs (`ddl submit`)."),

    dd("output_structure.urls_folder", Kind::Inside, "servers_batched", "The lists, by server and partition."),
    dd("output_structure.logs_folder", Kind::Inside, "logs", "Logs of runs and jobs."),
    dd("output_structure.images_folder", Kind::Inside, "downloaded_images", "The images."),
    dd("output_structure.schedules_folder", Kind::Inside, "schedules", "How far submitted jobs are, in distributed-downloader's files."),
    dd("output_structure.profiles_table", Kind::Inside, "servers_profiles.csv", "The rate of each server."),
    dd("output_structure.ignored_table", Kind::Inside, "ignored_servers.csv", "Servers that are not asked."),
    dd("output_structure.inner_checkpoint_file", Kind::Inside, "inner_checkpoint.yaml",
        "Accepted, without effect: progress is in the catalog."),
    dd("output_structure.tools_folder", Kind::Inside, "tools", "Results of tools, each in a folder of its own; and `uuid_ref` of `tol200m_fathomNet`."),

    ddl("columns.url", Kind::Text, "",
        "The image's URL. Default: the first of `identifier`, `url`, `image_url`, `photo_url`, `accessURI`, \
         whatever the case."),
    ddl("columns.id", Kind::Text, "", "Becomes `source_id`."),
    ddl("columns.label", Kind::Text, "", "Becomes `label`, the class in exports."),
    ddl("columns.license", Kind::Text, "", "Becomes `license`."),
    ddl("columns.source", Kind::Text, "", "Becomes `source`."),
    ddl("columns.title", Kind::Text, "", "Becomes `title`."),
    ddl("columns.uuid", Kind::Text, "", "Becomes `uuid`. Default: a UUIDv5 of the URL."),

    // Politeness.
    dd("downloader_parameters.header", Kind::Header, "",
        "One header of every request, `Name: value`. `User-Agent: ...` is the same as `user_agent`, \
         which wins when both are set."),
    dd("downloader_parameters.default_rate_limit", number(0.0, 10_000.0), "10",
        "Most requests per second to one server, over all ranks together, where neither `servers` nor \
         `servers_profiles.csv` says anything else; whatever `rate_control` finds, it is never exceeded. \
         10 is distributed-downloader's. 0 sets no limit: then only `rate_control`, `max_connections_per_server` \
         and what the server itself asks for (429, Retry-After) hold."),
    dd("downloader_parameters.rate_multiplier", number(0.0, 10_000.0), "1",
        "`rate_control: fixed` only: how far a server that refuses is slowed down, from its rate `r` to \
         `r * (1 - rate_multiplier)`. \
         1 is distributed-downloader's, and lets the rate fall as far as needed; more counts as 1."),
    ddl("downloader_parameters.max_connections_per_server", integer(1, 10_000), "8",
        "Most requests under way to one server, over all ranks together. `adaptive` takes them one by one, and only \
         where that makes no answer slower: they serve servers that are far away, not those that are weak. Eight is \
         near the six of a browser, and allows 10 requests per second where an answer takes 0.8 s. With \
         `rate_control: fixed` all are used at once: take fewer there."),
    ddl("downloader_parameters.max_connections_per_address", integer(0, 100_000), "0",
        "Most requests under way to one IP address, over all servers: many small museums share one machine. Each of `n` \
         ranks has a whole `n`-th, at least 1. 0 is four times `max_connections_per_server`, as many small servers as that \
         may be busy at once on one machine, and enough for the large ones that share a content network's address; a rank \
         then never has less than one server may have, and loopback addresses are spared."),
    ddl("downloader_parameters.rate_limit_per_address", number(0.0, 10_000.0), "0",
        "Most requests per second to one IP address, likewise, in equal parts for all ranks; 0 sets no limit. Off, because \
         content networks have thousands of servers at one address, each with limits of its own."),
    ddl("downloader_parameters.max_attempts", integer(1, 100), "5",
        "Attempts at one URL before its failure is final. 5 is distributed-downloader's."),
    ddl("downloader_parameters.retry_backoff", duration(0.0, 3600.0), "1s",
        "Pause before the second attempt; doubled for each further one, with jitter. 1 s spreads five attempts \
         over up to 15 s, longer than a restart of a web server takes."),
    ddl("downloader_parameters.max_retry_after", duration(0.0, 30.0 * DAY), "1h",
        "The longest Retry-After that is obeyed in full; a longer one counts as this. \
         An hour is longer than what overloaded servers ask for and shorter than a job."),
    ddl("downloader_parameters.server_patience", duration(0.0, 30.0 * DAY), "15m",
        "How long a server may do nothing but fail (no answer, 5xx, 429) before its URLs fail unasked; it is still \
         probed after each of its pauses, at least three of them, and is used again once it answers. \
         15 min is longer than a restart or a deployment and short against a job. An outage of your own network \
         looks the same, so raise it where those last longer."),

    ddl("downloader_parameters.respect_robots_txt", Kind::Bool, "true",
        "Asks each server for `/robots.txt` (RFC 9309) before its first image. URLs that it disallows are skipped \
         (`robots`); while it cannot be had for trouble of the server's, nothing else is asked for. The groups that count \
         are those of `ddl` and of the first word of `user_agent`, else those of `*`."),
    ddl("downloader_parameters.robots_txt_max_age", duration(0.0, 30.0 * DAY), "24h",
        "A robots.txt is asked for again after so long; the catalog keeps it meanwhile. RFC 9309 has a day as the most."),
    ddl("downloader_parameters.max_crawl_delay", duration(0.0, DAY), "30s",
        "The longest `Crawl-delay` of a robots.txt that is obeyed in full; a longer one counts as this, and 0 ignores all. \
         30 s is what crawlers that skip such sites altogether take for the limit; at that pace 10,000 images take 3.5 days."),
    ddl("downloader_parameters.respect_x_robots_tag", Kind::Bool, "true",
        "Skips images (`opt_out`) whose response has an `X-Robots-Tag` with one of `x_robots_tag_directives`: for all, for \
         `ddl`, or for the first word of `user_agent`."),
    ddl("downloader_parameters.x_robots_tag_directives", Kind::List,
        "[noai, noimageai, noml, noindex, noimageindex, none]",
        "The directives that count. The first three are about machine learning; the others are meant for search engines, but \
         were for long the only way to say no, so they count until you decide otherwise."),
    ddl("downloader_parameters.respect_content_usage", Kind::Bool, "true",
        "Skips images (`opt_out`) whose response has a `Content-Usage` (the IETF's AIPREF drafts) that says `n` to one of \
         `content_usage_categories`."),
    ddl("downloader_parameters.content_usage_categories", Kind::List,
        "[train-ai, train-genai, ai, genai, tdm, bots]",
        "The categories that count: those of any of the drafts that include the training of models. `search` does not."),
    ddl("downloader_parameters.respect_tdm_reservation", Kind::Bool, "true",
        "Skips images (`opt_out`) whose response has `tdm-reservation: 1` (TDMRep): rights to text and data mining are \
         reserved. Turn it off where you have them, by licence or by law."),
    ddl("downloader_parameters.respect_rate_limit_headers", Kind::Bool, "true",
        "Obeys `RateLimit`, `RateLimit-Policy` (the IETF's drafts) and `X-RateLimit-*` of any answer: when nothing remains, \
         the server is paused until the reset, within `max_retry_after`; a quota per time lowers its rate, to no less than a \
         request in `max_crawl_delay`."),

    // One request.
    ddl("downloader_parameters.connect_timeout", duration(0.001, 3600.0), "10s",
        "Name resolution, TCP and TLS together. Three lost packets cost 7 s before TCP is through."),
    ddl("downloader_parameters.first_byte_timeout", duration(0.001, 3600.0), "30s",
        "From the request to the end of the response header. Image servers that scale on demand take seconds; \
         30 s is the usual limit of proxies in front of them."),
    ddl("downloader_parameters.request_timeout", duration(0.001, DAY), "2m",
        "All of an attempt, redirects and body included. The default brings 100 MiB at 1 MB/s, and frees the slot of \
         a server that trickles."),
    ddl("downloader_parameters.max_body_bytes", bytes(1, 4 * GIB), "100 MiB",
        "Larger bodies fail (`body_too_large`). A 100-megapixel JPEG has about 50 MB."),
    ddl("downloader_parameters.max_redirects", integer(0, 50), "5",
        "Redirects followed in one attempt. Real chains have one to three; browsers stop at 20."),

    // Images.
    dd("downloader_parameters.image_size", integer(0, 65_535), "0",
        "Longest side in pixels; larger images are scaled down, smaller ones never up. 0 keeps every size."),
    ddl("downloader_parameters.rendition_size", integer(0, 65_535), "0",
        "Longest side in pixels that suffices. Where a rule (`renditions`, `config/renditions.yaml`) knows a smaller rendition with \
         at least so many, that is asked for in place of the image, and `rendition_url` says so; where the server has none, the image \
         itself, once more. 0 asks for all images as they are listed: off, because what is stored is then not what the list names. \
         With `image_size` or the tool `resize` (`new_resize_size`), take that size or more: half as much again leaves the resizing \
         something to sharpen."),
    ddl("downloader_parameters.jpeg_quality", integer(1, 100), "95",
        "Quality of JPEG files that ddl writes. Above 95 files grow fast and nothing is gained that can be seen."),
    ddl("downloader_parameters.jpeg_scaling", Kind::Choice(&["twice", "once", "full"]), "twice",
        "How much a JPEG may be shrunk while it is decoded, before it is resized: to no less than `twice` the target \
         size (no visible loss), to no less than the size itself (`once`, faster, slightly softer), or not at all (`full`)."),
    ddl("downloader_parameters.max_image_pixels", integer(1, 10_000_000_000), "100000000",
        "Images with more pixels fail (`too_many_pixels`), before they are decoded. 100 megapixels take 300 MB in memory, \
         and camera images have fewer; a file of a few KB can claim billions."),
    ddl("downloader_parameters.perceptual_hash", Kind::Choice(&["auto", "always", "never"]), "auto",
        "Whether `perceptual_hash` is written. `auto`: when the image is decoded anyway, since decoding is most of the cost."),

    // Partitions and parts.
    dd("downloader_parameters.batch_size", integer(1, 1_000_000), "10000",
        "Records of one partition at most. 10000 is distributed-downloader's: a partition is then some GB, \
         a file that tools handle well. The first ingest settles it: later ones keep to that, with a warning when this says otherwise."),
    ddl("downloader_parameters.part_images", integer(1, 1_000_000), "1000",
        "A part of an unfinished partition is sealed after so many images. What is not sealed is downloaded again \
         after a kill, so this bounds that loss."),
    ddl("downloader_parameters.part_bytes", bytes(MIB, 64 * GIB), "128 MiB",
        "... or after so many bytes; a few row groups, so that sealing stays cheap."),
    ddl("downloader_parameters.part_seconds", duration(1.0, DAY), "1m",
        "... or after so long, so that a slow server's images are safe within a minute."),
    ddl("downloader_parameters.row_group_bytes", bytes(64 * KIB, GIB), "8 MiB",
        "Images of one row group: what a reader must take in at once. 8 MiB is some dozen images \
         and large enough for disks and object stores. The last one of a part is smaller, and so are others when \
         `part_memory` is used up."),

    // Limits of one rank.
    ddl("downloader_parameters.max_in_flight", integer(1, 100_000), "256",
        "Requests under way on one rank, over all servers. 256 at 200 ms each is above 1000 images per second, and far \
         below the usual limit of 1024 open files.").zero_is_unset(),
    ddl("downloader_parameters.max_name_lookups", integer(1, 10_000), "64",
        "Names that one rank resolves at once, each with two queries. A small name server (dnsmasq) refuses more than 150 \
         queries at once, and each takes an open file. Names that are known do not wait behind them."),
    ddl("downloader_parameters.max_open_partitions", integer(1, 100_000), "256",
        "Partitions that one rank works on at once. As many as requests: each may then go to another server."),
    ddl("downloader_parameters.body_memory", bytes(MIB, TIB), "128 MiB",
        "Bodies on their way on one rank. When it is used up, requests wait; one body at a time may go beyond. \
         This, `part_memory` and `decode_memory` together leave room on a laptop with 4 GiB."),
    ddl("downloader_parameters.connection_memory", bytes(MIB, TIB), "32 MiB",
        "What connections with a request read ahead, beyond `body_memory`: dealt evenly to `max_in_flight`, 16 to 64 KiB \
         each. One that is kept for the next request may hold as much. More than 64 KiB saves no CPU time, less than 16 might not hold a response header."),
    ddl("downloader_parameters.http2_window", bytes(64 * KIB, 64 * MIB), "256 KiB",
        "What a server may send of an image over HTTP/2 before there is room for it in `body_memory`. An image comes at \
         no more than this per round trip: 2.5 MiB/s at 100 ms."),
    ddl("downloader_parameters.part_memory", bytes(MIB, TIB), "128 MiB",
        "Images that wait to be written, on one rank. When it is used up, the partition with the most of them writes \
         its row group early, and downloads wait for the disk."),
    ddl("downloader_parameters.decode_memory", bytes(MIB, TIB), "512 MiB",
        "Decoded pixels on one rank. At least 3 bytes for each of `max_image_pixels`."),
    ddl("downloader_parameters.cpu_threads", integer(0, 4096), "0",
        "Threads that decode, resize and hash. 0: as many as the machine or the Slurm job gives this rank."),
    ddl("downloader_parameters.request_ledger", Kind::Bool, "true",
        "Whether every request is written down in `logs/requests/`, 20 bytes each where a rank is busy and up to a kilobyte where it sends one in a second, so that `ddl audit` can prove \
         what servers saw."),
    ddl("downloader_parameters.stop_grace", duration(0.0, 3600.0), "15s",
        "After a request to stop: how long images under way may still arrive before parts are sealed. \
         Slurm kills 30 s after its signal (KillWait), and sealing takes the rest."),

    // Jobs.
    dd("downloader_parameters.num_downloads", integer(1, 1000), "1",
        "Download jobs in a row (`ddl submit`), each resuming the one before. When nothing is left to do, those that remain end \
         at once.").zero_is_unset(),
    dd("downloader_parameters.max_nodes", integer(1, 10_000), "1", "Nodes of a job.").zero_is_unset(),
    dd("downloader_parameters.workers_per_node", integer(1, 1024), "1",
        "Ranks on one node. One rank serves all servers at once; more help when decoding keeps its threads busy.").zero_is_unset(),
    dd("downloader_parameters.cpu_per_worker", integer(0, 1024), "0",
        "Cores of one rank in a job. 0 leaves it to Slurm."),
    dd("downloader_parameters.logger_level", Kind::Choice(&["TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]), "INFO",
        "How much is logged. `-v` and `-q` win."),

    flow("paarc.enable_paarc", Kind::Bool, "true", "Off, the number under way stays at `C_max`."),
    flow("paarc.C_init", integer(1, 100_000), "4", "Requests under way to a server at first."),
    flow("paarc.C_min", integer(1, 100_000), "2", "... at least."),
    flow("paarc.C_max", integer(1, 100_000), "10000", "... at most; `max_connections_per_server` holds all the same."),
    flow("paarc.mu", number(0.01, 1.0), "0.85", "The operating point, as a fraction of the ceiling."),
    flow("paarc.beta", number(0.01, 1.0), "0.5", "What an overload leaves of the ceiling."),
    flow("paarc.theta_50", number(1.0, 1000.0), "1.5",
        "Latency is degraded when its median is beyond this multiple of that of the idle server ..."),
    flow("paarc.theta_95", number(1.0, 1000.0), "2", "... or its 95th percentile beyond this."),
    flow("paarc.startup_theta_50", number(1.0, 1000.0), "3", "The same while starting up, where it ends the growth ..."),
    flow("paarc.startup_theta_95", number(1.0, 1000.0), "4", "... for the 95th percentile."),
    flow("paarc.probe_rtt_period", duration(0.1, DAY), "10s",
        "Time between two probes for the latency of the idle server."),
    flow("paarc.rtprop_window", duration(0.1, DAY), "35s", "How long a latency counts as that of the idle server."),
    flow("paarc.cooldown_floor", duration(0.0, DAY), "2s", "Least pause of growth after an overload."),
    flow("paarc.alpha_ema", number(0.001, 1.0), "0.3", "Weight of the newest interval in averages of latency."),
    flow("paarc.startup_additive_increase", integer(1, 10_000), "30", "Growth per interval while starting up."),
    flow("paarc.probe_bw_additive_increase", integer(1, 10_000), "10", "... and later."),

    flow("aimd.enable_rate_limiting", Kind::Bool, "true",
        "Off, only `max_connections_per_server` and `default_rate_limit` hold. On, as who chooses `aimd` wants it; \
         FLOW-DC's own default is off."),
    flow("aimd.rate_limit", number(0.001, 10_000.0), "100", "Requests per second to a server at first."),
    flow("aimd.rate_capacity", number(0.0, 1e6), "200",
        "Requests saved up in idle time. Without effect, as in FLOW-DC: ddl saves up none."),

    ddl("ingest_parameters.input_format",
        Kind::Choice(&[
            "", "parquet", "csv", "tsv", "jsonl", "json", "ndjson", "excel", "xlsx", "xls", "xml", "txt", "dwca", "zip",
        ]), "",
        "Format of all inputs. Default: by each file's name, else by its first bytes."),
    ddl("ingest_parameters.strict", Kind::Bool, "false",
        "Stop at the first malformed row instead of counting it. Off: one bad row in 200 million should not cost the rest."),
    ddl("ingest_parameters.max_row_bytes", bytes(KIB, 256 * MIB), "1 MiB",
        "Longer rows are malformed. A GBIF row has about 2 KB; a megabyte is a stray quote."),
    ddl("ingest_parameters.max_url_bytes", bytes(16, MIB), "8 KiB",
        "Longer URLs are skipped (`url_too_long`). Servers refuse request lines from about 8 KB on."),
    ddl("ingest_parameters.memory_bytes", bytes(16 * MIB, TIB), "512 MiB",
        "Rows in memory at once; beyond it they wait in `temp_folder`. Lists of any length fit."),
    ddl("ingest_parameters.temp_folder", Kind::Path, "",
        "Where rows wait between reading and writing, about a third of the list's size. \
         Default: inside the urls folder, which is known to have room."),
    ddl("ingest_parameters.max_server_folders", integer(1, 10_000_000), "10000",
        "Up to so many servers each have a folder of their own. More make listing slow on the parallel \
         filesystems of clusters."),
    ddl("ingest_parameters.share_servers_below", integer(0, 1_000_000), "100",
        "With more servers than that, those with fewer records than this share partitions. \
         A file of fewer than 100 rows is mostly Parquet's own overhead."),
    ddl("ingest_parameters.threads", integer(0, 4096), "0",
        "Threads that read and write. 0: as many as there are cores."),

    flow("export_parameters.output", Kind::Path, "",
        "The folder that `ddl run` writes; its archive and its overview stand beside it. FLOW-DC's `output`; the dataset \
         itself is then `output` with `.ddl` behind it, unless `path_to_output_folder` says otherwise."),
    flow("export_parameters.output_format", Kind::Choice(&["imagefolder", "webdataset", "parquet"]), "imagefolder",
        "What it is: folders of labels, shards of samples, or Parquet as Hugging Face has it."),
    flow("export_parameters.naming_mode", Kind::Choice(&["sequential", "url_based", "uuid"]), "sequential",
        "How images are named. FLOW-DC's `row_id` is `uuid` here."),
    flow("export_parameters.file_name_pattern", Kind::Text, "",
        "With `naming_mode: url_based`: the name, made of parts of the URL. Default: `{segment[-2]}`."),
    flow("export_parameters.create_tar", Kind::Bool, "true", "With `imagefolder`: also makes an archive of the folder ..."),
    flow("export_parameters.compress_tar", Kind::Bool, "true",
        "... as `.tar.gz`. Photos hardly get smaller by it; on, because FLOW-DC's users expect that file."),
    flow("export_parameters.create_overview", Kind::Bool, "true",
        "Also writes the overview beside the folder, as `OUTPUT_overview.json`."),
    flow("export_parameters.croissant", Kind::Choice(&["no_croissant", "basic_croissant", "comprehensive_croissant"]),
        "no_croissant", "How much a `croissant.json` in the folder says of it."),
    flow("export_parameters.dataset_name", Kind::Text, "", "Its name there. Default: that of the folder."),
    flow("export_parameters.dataset_description", Kind::Text, "", "What it is."),
    flow("export_parameters.dataset_license", Kind::Text, "", "Its licence, best as a URL. Default: those of the images."),
    flow("export_parameters.dataset_creator", Kind::Text, "", "Who made it."),
    flow("export_parameters.dataset_url", Kind::Text, "", "Where it is published."),
    flow("export_parameters.dataset_version", Kind::Text, "", "Its version. Default: 1.0.0."),
    flow("export_parameters.dataset_citation", Kind::Text, "", "How to cite it."),
    flow("export_parameters.dataset_keywords", Kind::List, "", "Keywords: a list, or a text with commas."),

    ddl("catalog_parameters.lease_timeout", duration(5.0, DAY), "2m",
        "A rank that is silent for so long loses its partitions to others. Longer than a busy parallel \
         filesystem stalls, short against a job. A rank speaks once a second, hence not below 5 s."),
    ddl("catalog_parameters.lock_timeout", duration(1.0, DAY), "2m",
        "A catalog locked by another node may be taken over when the lock shows no sign of life for so long. \
         Same reasoning as for `lease_timeout`. A batch job waits for that, up to twice as long: the one before may have been \
         killed on another node."),
    ddl("catalog_parameters.status_interval", duration(0.1, 3600.0), "2s",
        "How often a running download publishes `status.json`. Fresh for people, one small file for the filesystem."),

    ddl("query_parameters.memory_bytes", bytes(16 * MIB, TIB), "1 GiB",
        "Memory that the sorts, groups and joins of a query may share; beyond it they spill to disk. \
         The default is a quarter of a laptop with 4 GiB."),
    ddl("query_parameters.temp_folder", Kind::Path, "",
        "The folder for what is spilled. Default: `tmp` in the output folder, where there is room for images; \
         `/tmp` is memory on many machines."),
    ddl("query_parameters.max_temp_bytes", bytes(MIB, 1024 * TIB), "100 GiB",
        "Most that may lie there at once, so that a slip in a query does not fill the disk. \
         200 million rows of 300 bytes take 60 GB to sort."),
    ddl("query_parameters.threads", integer(0, 4096), "0", "Threads of a query; 0 is one per core."),

    dd("tools_parameters.threshold_size", integer(0, 65_535), "224",
        "Tool `size`: images whose shorter side has fewer pixels are removed. 224 is the input of most vision models."),
    dd("tools_parameters.new_resize_size", integer(1, 65_535), "720",
        "Tool `resize`: the new longest side in pixels. 720 is what TreeOfLife-200M uses.").zero_is_unset(),
    ddl("tools_parameters.custom_folder", Kind::Path, "config/tools",
        "The folder of tools of your own, one YAML file each (`ddl tool --list`). It is looked for beside the \
         configuration file, then in the working folder."),
    ddl("tools_parameters.resize_mode",
        Kind::Choice(&["keep_ratio_largest", "keep_ratio", "center_crop", "border", "no"]), "keep_ratio_largest",
        "Tool `resize`: which side gets `new_resize_size`, in img2dataset's words. `keep_ratio_largest` the longer one, \
         `keep_ratio` the shorter one; `center_crop` then cuts the square in the middle out, `border` lays white around \
         the longer side's square; `no` only changes the encoding. New images are encoded as `image_encoding` and \
         `jpeg_quality` say."),
    ddl("tools_parameters.resize_only_if_bigger", Kind::Bool, "true",
        "Tool `resize`: images whose side is not larger stay as they are, without a border or a cut. \
         `false` enlarges them, which adds bytes and no detail."),
    ddl("tools_parameters.remove_blank", Kind::Bool, "false",
        "Tool `verify`: also removes images all of whose pixels have one colour."),
    ddl("tools_parameters.placeholder_min_urls", integer(2, GIB), "10",
        "Tool `placeholder`: a picture that came, byte for byte the same, from so many URLs of one server stands in place \
         of images that are gone, and is removed. Fewer may well be one photo under several URLs: that is for `dedup`."),
    ddl("tools_parameters.keep", Kind::Choice(&["first", "largest", "oldest", "licence-open"]), "first",
        "Tool `dedup`: which of several equal or near images stays. `largest`: most pixels, then bytes; `oldest`: first \
         fetched; `licence-open`: CC0 and public domain, then CC BY, CC BY-SA, other CC licences, the rest. `first`, and \
         where these say nothing, as in distributed-downloader: lowest `partition_id`, then `server_name`; then `uuid`."),
    ddl("tools_parameters.near_distance", integer(0, 40), "0",
        "Tools `dedup` and `dedup_against` (`--near`): images are near when at most so many of the 256 bits of their \
         `perceptual_hash` differ. 0 looks for equal files only; 16 finds what was scaled or \
         compressed again, and no two different photos (`docs/BENCHMARKS.md`). Needs `perceptual_hash: always` in the \
         download, or an `image_size`."),
    ddl("tools_parameters.against", Kind::Path, "",
        "Tool `dedup_against` (`--against`): the other dataset, whose images are to go here: its output folder, its \
         configuration (`.yaml`; its folder is then relative to that file), or a manifest that was exported from it \
         (`.parquet`)."),
    dd("tools_parameters.num_workers", integer(1, 1000), "1",
        "Tool jobs in a row, each resuming the one before.").zero_is_unset(),
    dd("tools_parameters.max_nodes", integer(1, 10_000), "1", "Nodes of a job.").zero_is_unset(),
    dd("tools_parameters.workers_per_node", integer(1, 1024), "1", "Ranks on one node.").zero_is_unset(),
    dd("tools_parameters.cpu_per_worker", integer(0, 1024), "0", "Cores of one rank. 0 leaves it to Slurm."),

    ddl("unit_parameters.lease", duration(1.0, 365.0 * DAY), "168h",
        "How long a unit's partitions are its own (`--lease`): until then its result can be imported, and nobody else takes \
         them. A week outlasts the queue of a busy cluster; what was not imported by then, the next `ddl download` does."),
    ddl("unit_parameters.method", Kind::Choice(&["host", "greedy", "simple"]), "host",
        "How partitions are dealt to units (`--method`). `host`: a server lies in one unit, which has its whole limits. \
         `greedy`: partitions by size, the largest first, each to the unit with the fewest records; `simple`: in the order of \
         the catalog. With these two a server may lie in several units, in as many at most as it may have connections, or \
         whole requests per second; each then has its part of the limits."),
    ddl("unit_parameters.host_column", Kind::Bool, "false",
        "Gives the units FLOW-DC's column `host` (`--host-column`)."),

    ddl("slurm_parameters.partition", Kind::Text, "", "`#SBATCH --partition`. Default: the site's."),
    ddl("slurm_parameters.time", duration(60.0, 365.0 * DAY), "3h",
        "Time limit of a job of many ranks, a download or a tool. 3 h is distributed-downloader's, and short enough to find a \
         place between large jobs; what is not done by then the next job goes on with."),
    ddl("slurm_parameters.serial_time", duration(60.0, 365.0 * DAY), "3h",
        "Time limit of a job of one process, an ingest or a check. An ingest that does not end by then is done again from its start."),
    ddl("slurm_parameters.serial_cpus", integer(0, 1024), "0",
        "Cores of such a job. 0 leaves it to Slurm, which gives one; an ingest and a check use what they get."),
    ddl("slurm_parameters.memory", Kind::Text, "",
        "`#SBATCH --mem`, per node, such as `64G`; `0` is all that a node has. Default: the site's. A rank needs its \
         `body_memory`, `part_memory`, `decode_memory` and `connection_memory`, and some hundred MiB."),
    ddl("slurm_parameters.extra_lines", Kind::List, "",
        "Further `#SBATCH` lines, without that word: `[--qos=long, --mail-type=END]`."),
    ddl("slurm_parameters.modules", Kind::List, "", "Modules that a job loads: the MPI that ddl was built with, say."),
    ddl("slurm_parameters.setup", Kind::List, "", "Lines of bash that a job runs next."),
    ddl("slurm_parameters.apptainer_image", Kind::Path, "",
        "Jobs run `ddl` in this Apptainer (Singularity) image. It needs the MPI of the one that submits."),
    ddl("slurm_parameters.apptainer_options", Kind::List, "",
        "Options of `apptainer exec`, such as `[--bind /scratch]`."),
    ddl("slurm_parameters.launcher", Kind::Text, "",
        "The command that starts the ranks, such as `srun --mpi=pmix_v4`. Default: `srun` if `srun --mpi=list` has a plug-in for \
         the MPI that ddl was built with (`pmix` for Open MPI, `pmi2` for MPICH), else `mpirun`; `ddl submit` says which."),
    ddl("slurm_parameters.warn_before", duration(1.0, DAY), "3m",
        "How long before its end a job stops by itself (`#SBATCH --signal=B:USR2@...`, and what Slurm says of its end): ddl then \
         seals, commits and exits with 75. Slurm's warning may be 20 s late, images under way may take `stop_grace`, and a busy \
         filesystem a minute."),
    ddl("slurm_parameters.max_requeues", integer(0, 100), "3",
        "How often a job begins again, in its place in the chain, after one of its processes was killed. What has no memory \
         for a task would be killed for ever."),
    ddl("slurm_parameters.use_scripts", Kind::Bool, "false",
        "Whether `ddl submit` submits by `scripts` instead of `sbatch` and scripts of its own (`--scripts`)."),
    ddl("slurm_parameters.tools", Kind::List, "", "Tools that `ddl submit all` runs after the download, in this order."),

    script("scripts.general_submitter"),
    script("scripts.mpi_submitter"),
    script("scripts.schedule_creator_submitter"),
    script("scripts.tools_submitter"),
    script("scripts.initialization_script"),
    script("scripts.profiling_script"),
    script("scripts.schedule_creation_script"),
    script("scripts.verify_script"),
    script("scripts.download_script"),
    script("scripts.tools_filter_script"),
    script("scripts.tools_scheduling_script"),
    script("scripts.tools_worker_script"),
    script("scripts.tools_verification_script"),
];
