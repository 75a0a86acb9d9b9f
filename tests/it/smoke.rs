//! The support itself, tried with raw sockets: a test server that does not do what it says would make
//! every test against it worthless.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::nasty::{Behaviour, NastyServer, RetryAfter, good_jpeg, gzip_bomb, huge_png};
use crate::support::tls::{Reply, TestAuthority, TlsFarm};

/// What came before the connection ended, the reader had `MAX_BYTES`, or nothing came for 300 ms.
struct Seen {
    bytes: Vec<u8>,
    end: Result<(), ErrorKind>,
}

const MAX_BYTES: usize = 4 << 20;

impl Seen {
    fn head(&self) -> String {
        let end = self.bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap_or(self.bytes.len());
        String::from_utf8_lossy(&self.bytes[..end]).into_owned()
    }

    fn body(&self) -> &[u8] {
        let end = self.bytes.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
        &self.bytes[end + 4..]
    }

    fn header(&self, name: &str) -> Option<String> {
        let head = self.head();
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    }

    fn content_length(&self) -> usize {
        self.header("content-length").expect("a length").parse().unwrap()
    }
}

fn ask(addr: SocketAddr, server: &str, path: &str) -> Seen {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    exchange(&mut stream, server, path)
}

fn exchange(stream: &mut (impl Read + Write), server: &str, path: &str) -> Seen {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 << 10];
    let end = loop {
        match stream.read(&mut piece) {
            Ok(0) => break Ok(()),
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
            Err(error) => break Err(error.kind()),
        }
        if bytes.len() >= MAX_BYTES {
            break Err(ErrorKind::FileTooLarge);
        }
    };
    Seen { bytes, end }
}

fn seen(behaviour: Behaviour) -> Seen {
    let server = NastyServer::start([("/x", behaviour)]);
    ask(server.addr(), "nasty.example", "/x")
}

#[test]
fn good_answers_are_good() {
    for behaviour in [Behaviour::Ok, Behaviour::SlowFirstByte(Duration::from_millis(100))] {
        let seen = seen(behaviour);
        assert!(seen.head().starts_with("HTTP/1.1 200 "));
        assert_eq!((seen.body(), seen.content_length()), (good_jpeg(), good_jpeg().len()));
        assert_eq!(seen.end, Ok(()));
    }
    assert!(image::load_from_memory(good_jpeg()).is_ok());
    assert_eq!(seen(Behaviour::Body("image/gif", b"GIF89a".to_vec())).body(), b"GIF89a");
}

#[test]
fn bodies_and_lengths_disagree_as_scripted() {
    let half = good_jpeg().len() / 2;
    let check = |behaviour: Behaviour, announced: usize, sent: usize| {
        let name = format!("{behaviour:?}");
        let seen = seen(behaviour);
        assert_eq!((seen.content_length(), seen.body().len()), (announced, sent), "{name}");
        assert_eq!(seen.end, Ok(()), "{name}");
    };
    check(Behaviour::Empty, 0, 0);
    check(Behaviour::HalfJpeg, half, half);
    check(Behaviour::TruncatedBody, good_jpeg().len(), half);
    check(Behaviour::ShortContentLength, half, good_jpeg().len());
    assert!(seen(Behaviour::Html).body().starts_with(b"<!DOCTYPE html>"));
}

#[test]
fn connections_end_or_stay_as_scripted() {
    let check = |behaviour: Behaviour, end: Result<(), ErrorKind>, has_bytes: bool| {
        let name = format!("{behaviour:?}");
        let seen = seen(behaviour);
        assert_eq!((seen.end, !seen.bytes.is_empty()), (end, has_bytes), "{name}");
    };
    check(Behaviour::CloseAtOnce, Ok(()), false);
    check(Behaviour::ResetBefore, Err(ErrorKind::ConnectionReset), false);
    check(Behaviour::ResetInside, Err(ErrorKind::ConnectionReset), true);
    check(Behaviour::Hang, Err(ErrorKind::WouldBlock), false);
    check(Behaviour::HangInside, Err(ErrorKind::WouldBlock), true);
    check(Behaviour::Endless, Err(ErrorKind::FileTooLarge), true);
    check(Behaviour::EndlessHeaders, Err(ErrorKind::FileTooLarge), true);
    check(Behaviour::Garbage, Ok(()), true);
    let slow = seen(Behaviour::Drip(Duration::from_secs(1)));
    assert_eq!((slow.body().len(), slow.end), (1, Err(ErrorKind::WouldBlock)));
    assert!(seen(Behaviour::HugeHeader).head().len() > 1 << 20);
}

#[test]
fn redirects_point_where_scripted() {
    let server = NastyServer::start([
        ("/to", Behaviour::RedirectTo("https://b.example/y".into())),
        ("/cloud", Behaviour::RedirectToLinkLocal),
        ("/loop", Behaviour::RedirectLoop),
        ("/forever", Behaviour::RedirectForever),
        ("/nowhere", Behaviour::RedirectNowhere),
    ]);
    let location = |path| {
        let seen = ask(server.addr(), "nasty.example", path);
        assert!(seen.head().starts_with("HTTP/1.1 302 "));
        seen.header("location")
    };
    assert_eq!(location("/to").as_deref(), Some("https://b.example/y"));
    assert!(location("/cloud").unwrap().starts_with("http://169.254.169.254/"));
    assert_eq!(location("/loop").as_deref(), Some("/loop"));
    assert_eq!(location("/forever").as_deref(), Some("/forever?hop=1"));
    assert_eq!(location("/forever?hop=1").as_deref(), Some("/forever?hop=2"));
    assert_eq!(location("/nowhere"), None);
    assert_eq!((server.num_requests("/forever"), server.num_requests("/to")), (2, 1));
    assert_eq!(server.log().len(), 6);
    assert!(ask(server.addr(), "nasty.example", "/other").head().starts_with("HTTP/1.1 404 "));
}

#[test]
fn refusals_come_to_an_end() {
    let wait = Duration::from_secs(90);
    let refuse = |status, times, retry_after| Behaviour::Refuse { status, times, retry_after };
    let server = NastyServer::start([
        ("/seconds", refuse(429, 2, RetryAfter::Seconds(3))),
        ("/date", refuse(503, 1, RetryAfter::Date(wait))),
        ("/absent", refuse(429, 1, RetryAfter::Absent)),
    ]);
    let get = |path| ask(server.addr(), "nasty.example", path);
    let status = |seen: &Seen| seen.head()[9..12].to_owned();
    for _ in 0..2 {
        let refused = get("/seconds");
        assert_eq!((status(&refused).as_str(), refused.header("retry-after").as_deref()), ("429", Some("3")));
    }
    assert_eq!(status(&get("/seconds")), "200");
    let date = get("/date").header("retry-after").unwrap();
    let until = httpdate::parse_http_date(&date).unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(until > wait / 2 && until <= wait, "{date}");
    assert_eq!(status(&get("/date")), "200");
    assert_eq!(get("/absent").header("retry-after"), None);
    let log = server.log();
    assert!(log.windows(2).all(|pair| pair[0].at <= pair[1].at));
    assert!(log[0].head.contains("Host: nasty.example"));
}

#[test]
fn encodings_and_bombs_are_real() {
    // Made on first use, which takes longer than a reader here waits.
    assert!(!gzip_bomb().is_empty() && !huge_png().is_empty());
    let unpacked = |bytes: &[u8]| {
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).map(|_| out)
    };
    let gzip = seen(Behaviour::Gzip);
    assert_eq!(gzip.header("content-encoding").as_deref(), Some("gzip"));
    assert_eq!(unpacked(gzip.body()).unwrap(), good_jpeg());
    assert!(unpacked(seen(Behaviour::CorruptGzip).body()).is_err());
    assert_eq!(seen(Behaviour::UnknownEncoding).header("content-encoding").as_deref(), Some("x-zebra"));
    assert_eq!(seen(Behaviour::GzipBomb).body(), gzip_bomb());
    assert!(gzip_bomb().len() < 400 << 10, "{}", gzip_bomb().len());
    let size = std::io::copy(&mut flate2::read::GzDecoder::new(gzip_bomb()), &mut std::io::sink());
    assert_eq!(size.unwrap(), 256 << 20);
    assert_eq!(seen(Behaviour::HugePng).body(), huge_png());
    assert!(huge_png().len() < 300 << 10, "{}", huge_png().len());
    let reader = image::ImageReader::new(std::io::Cursor::new(huge_png())).with_guessed_format().unwrap();
    assert_eq!(reader.into_dimensions().unwrap(), (30_000, 30_000));
}

#[test]
fn a_dropped_server_leaves_nothing_behind() {
    let server = NastyServer::start([("/x", Behaviour::Hang)]);
    let addr = server.addr();
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let start = Instant::now();
    while server.num_requests("/x") == 0 {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(server);
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn one_port_speaks_for_every_name_with_and_without_tls() {
    let authority = TestAuthority::new();
    let farm = TlsFarm::start(authority.clone(), |server, path| match path {
        "/missing" => Reply::status(404),
        _ => Reply::jpeg(format!("{server} {path}")),
    });
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.pem_path()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    for name in ["upload.museum.example", "photos_2.garden.example", "127.0.0.1", "upload.museum.example"] {
        let server_name = ServerName::try_from(name.to_owned()).unwrap();
        let session = ClientConnection::new(config.clone(), server_name).unwrap();
        let mut stream = StreamOwned::new(session, TcpStream::connect(farm.addr()).unwrap());
        let seen = exchange(&mut stream, name, "/a?b=1");
        assert_eq!(seen.body(), format!("{name} /a?b=1").as_bytes());
    }
    assert_eq!(authority.num_minted(), 3);
    let plain = ask(farm.addr(), "plain.example:8080", "/a");
    assert_eq!(plain.body(), b"plain.example:8080 /a");
    assert!(ask(farm.addr(), "plain.example", "/missing").head().starts_with("HTTP/1.1 404 "));
    let over_tls: Vec<_> = farm.log().iter().map(|request| request.over_tls).collect();
    assert_eq!(over_tls, [true, true, true, true, false, false]);
    assert_eq!(farm.log()[0].server, "upload.museum.example");
}
