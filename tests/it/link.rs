//! The link to an upstream, against a real daemon; over TLS too, through a proxy that ends it.

use crate::support::{Daemon, Place, WSD, has, noise, sh, text};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};
use wsd::clock::Timestamp;
use wsd::store::rows::Kind;
use wsd::sync::link::{Hello, LinkError, Object, Pushed, Told, Upstream};
use wsd::sync::{
    Attributes, Author, ContentId, Cursor, Entry, NodeId, Offer, Place as Named, ReplicaId, State, Times,
};
use wsd::upstream::{Dial, Link};

const NO_MOUNT: &[(&str, &str)] = &[("FUSE_MOUNT", "none")];

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

fn to(url: String) -> Dial {
    Dial { url, token: None, ca: None, bandwidth: None }
}

fn here(daemon: &Daemon) -> Dial {
    to(format!("ws://127.0.0.1:{}", daemon.port))
}

fn hello(replica: u8) -> Hello {
    Hello {
        replica: ReplicaId([replica; 16]),
        label: format!("replica-{replica}"),
        workspace: String::new(),
        empty: true,
        merge: false,
        cursor: None,
        heard: None,
        lives: vec![(Author([replica; 16]), 0)],
    }
}

async fn greeted(dial: &Dial, replica: u8) -> Link {
    let link = Link::dial(dial).await.unwrap();
    let welcome = link.hello(hello(replica)).await.unwrap();
    assert!(!welcome.stale && !welcome.workspace.is_empty());
    link
}

fn object(bytes: Vec<u8>) -> Object {
    Object { hash: *blake3::hash(&bytes).as_bytes(), bytes }
}

fn file(author: u8, ino: u64, bytes: &[u8]) -> Offer {
    let id = NodeId { author: Author([author; 16]), ino };
    let name = [format!("{author}-{ino}-").as_bytes(), b"\xff\n"].concat();
    let stamp = Timestamp(1_700_000_000_123_456_789);
    let state = State {
        kind: Kind::File,
        places: BTreeSet::from([Named { parent: NodeId::ROOT, name: name.into() }]),
        attributes: Attributes { mode: 0o640, ..Attributes::default() },
        times: Times { atime: stamp, mtime: stamp, btime: stamp },
        content: Some(ContentId {
            size: bytes.len() as u64,
            hash: *blake3::hash(bytes).as_bytes(),
            depth: 0,
        }),
    };
    Offer { id, base: None, state: Some(state) }
}

async fn all_changes(link: &Link, mut after: Option<Cursor>) -> (Vec<Told<Entry>>, Cursor) {
    let mut all = Vec::new();
    loop {
        let portion = link.changes(after, Vec::new(), None).await.unwrap();
        assert!(!portion.reset);
        after = Some(portion.up_to);
        all.extend(portion.entries);
        if !portion.more {
            return (all, portion.up_to);
        }
    }
}

#[test]
fn what_one_replica_pushes_another_fetches() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    run(async {
        let (one, two) = (greeted(&here(&daemon), 1).await, greeted(&here(&daemon), 2).await);
        let (_, start) = all_changes(&two, None).await;
        // Small ones, whose bytes come along.
        let bytes = |ino: u64| format!("the bytes of {ino}").into_bytes();
        let told = |ino| Told { what: file(1, ino, &bytes(ino)), bytes: Some(bytes(ino)), allocated: 0 };
        let small: Vec<_> = (2..1000).map(told).collect();
        let Pushed::Taken(_) = one.push(small.clone(), 7, Author([1; 16])).await.unwrap() else {
            panic!("not taken");
        };
        // Large ones: noise, and what can be compressed.
        let objects: Vec<_> = (0..60).map(|seed| object(noise(seed, 64 << 10))).collect();
        let objects: Vec<_> =
            objects.into_iter().chain((0..60).map(|byte| object(vec![byte; 256 << 10]))).collect();
        let hashes: Vec<_> = objects.iter().map(|object| object.hash).collect();
        let large: Vec<_> = (5000..).zip(&objects).map(|(ino, object)| file(1, ino, &object.bytes)).collect();
        let large: Vec<_> = large.into_iter().map(|what| Told { what, bytes: None, allocated: 0 }).collect();
        let Pushed::Lacks(lacks) = one.push(large.clone(), 8, Author([1; 16])).await.unwrap() else {
            panic!("not lacking");
        };
        assert_eq!(BTreeSet::from_iter(lacks), BTreeSet::from_iter(hashes.clone()));
        assert_eq!(one.lacks(hashes.clone()).await.unwrap(), hashes);
        one.bring(objects.clone()).await.unwrap();
        assert_eq!(one.lacks(hashes.clone()).await.unwrap(), [[0; 32]; 0]);
        let taken = one.push(large.clone(), 8, Author([1; 16])).await.unwrap();
        assert!(matches!(taken, Pushed::Taken(_)), "{taken:?}");
        // At the other end.
        let (mut entries, now) = all_changes(&two, Some(start)).await;
        // The root changes with what is in it.
        entries.retain(|told| told.what.id != NodeId::ROOT);
        assert_eq!(entries.len(), small.len() + large.len());
        let sent = small.iter().chain(&large).map(|told| (told.what.id, told.what.state.clone()));
        let sent = std::collections::BTreeMap::from_iter(sent);
        for Told { what: Entry { id, state }, .. } in &entries {
            let (found, sent) = (state.as_ref().unwrap(), sent[id].as_ref().unwrap());
            assert_eq!((&found.places, found.content), (&sent.places, sent.content), "{id:?}");
            assert_eq!((found.attributes.mode, found.times.mtime), (0o640, sent.times.mtime));
        }
        let (mut rest, mut fetched) = (&hashes[..], Vec::new());
        while !rest.is_empty() {
            let (looked, some) = two.fetch(rest.to_vec()).await.unwrap();
            fetched.extend(some);
            rest = &rest[looked..];
        }
        assert_eq!(fetched, objects);
        let ids: Vec<_> = (2..1000).map(|ino| NodeId { author: Author([1; 16]), ino }).collect();
        let read = two.read_entries(ids.clone()).await.unwrap();
        assert!(read.0.iter().map(|told| told.what.id).eq(ids));
        assert_eq!(two.flush(now.revision).await.unwrap().life, now.life);
        let marks = two.watermarks().await.unwrap();
        let one = marks.iter().find(|mark| mark.replica == ReplicaId([1; 16])).unwrap();
        assert_eq!((one.pushed, one.label.as_str()), (8, "replica-1"));
    });
    daemon.stop();
    place.check();
}

#[test]
fn a_link_that_is_lost_says_so_and_stays_lost() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("WSD_TOKEN", "s3cret")]);
    run(async {
        let dial = Dial { token: Some("s3cret".to_owned()), ..here(&daemon) };
        let refused = Link::dial(&here(&daemon)).await.unwrap_err();
        assert!(matches!(&refused, LinkError::Refused(text) if text.contains("UPSTREAM_TOKEN")), "{refused}");
        let no_path = Dial { url: format!("ws://127.0.0.1:{}/nowhere", daemon.port), ..dial.clone() };
        let refused = Link::dial(&no_path).await.unwrap_err();
        assert!(matches!(&refused, LinkError::Refused(text) if text.contains("404")), "{refused}");
        let link = greeted(&dial, 1).await;
        let (_, now) = all_changes(&link, None).await;
        let wait = tokio::spawn({
            let link = link.clone();
            async move { link.changes(Some(now), Vec::new(), Some(Duration::from_secs(60))).await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!wait.is_finished());
        daemon.kill();
        let lost = wait.await.unwrap().unwrap_err();
        assert!(matches!(lost, LinkError::Lost(_)), "{lost}");
        let again = place.serve_with(&[("FUSE_MOUNT", "none"), ("WSD_TOKEN", "s3cret")]);
        let lost = link.flush(0).await.unwrap_err();
        assert!(matches!(lost, LinkError::Lost(_)), "{lost}");
        again.stop();
        let nobody = Link::dial(&dial).await.unwrap_err();
        assert!(matches!(nobody, LinkError::Lost(_)), "{nobody}");
    });
}

#[test]
fn a_limit_of_bandwidth_holds() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    run(async {
        let link = greeted(&Dial { bandwidth: Some(512 << 10), ..here(&daemon) }, 1).await;
        let begun = Instant::now();
        let objects = |seed: u64| (0..8).map(|at| object(noise(seed + at, 64 << 10))).collect::<Vec<_>>();
        link.bring(objects(0)).await.unwrap();
        link.bring(objects(100)).await.unwrap();
        let took = begun.elapsed();
        assert!((Duration::from_millis(1500)..Duration::from_secs(15)).contains(&took), "{took:?}");
    });
    daemon.stop();
}

/// A daemon's port over TLS, with a certificate of a made-up authority.
struct Proxy {
    port: u16,
    ca: PathBuf,
    _runtime: tokio::runtime::Runtime,
}

const CERTIFICATES: &str = "
ec='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -x509 $ec -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
openssl req $ec -subj /CN=localhost -keyout key.pem -out csr.pem
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext
openssl x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem
";

impl Proxy {
    fn before(daemon: &Daemon, directory: &Path) -> Self {
        sh(directory, &format!("{{ {CERTIFICATES} }} 2>/dev/null"));
        let certs = CertificateDer::pem_file_iter(directory.join("cert.pem")).unwrap();
        let certs = certs.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(directory.join("key.pem")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(certs, key).unwrap()));
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (port, behind) = (listener.local_addr().unwrap().port(), daemon.port);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut outside) = acceptor.accept(stream).await else { return };
                    let mut inside = TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
        Self { port, ca: directory.join("ca.pem"), _runtime: runtime }
    }

    fn url(&self) -> String {
        format!("wss://localhost:{}", self.port)
    }
}

#[test]
fn over_tls_an_authority_is_trusted_that_was_named() {
    if !has("openssl") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    let proxy = Proxy::before(&daemon, place.dir.path());
    run(async {
        let strange = Link::dial(&to(proxy.url())).await.unwrap_err();
        assert!(matches!(&strange, LinkError::Lost(text) if text.contains("certificate")), "{strange}");
        let link = greeted(&Dial { ca: Some(proxy.ca.clone()), ..to(proxy.url()) }, 1).await;
        let told = Told { what: file(1, 2, b"x"), bytes: Some(b"x".to_vec()), allocated: 0 };
        assert!(matches!(link.push(vec![told], 1, Author([1; 16])).await.unwrap(), Pushed::Taken(_)));
        let no_file = Dial { ca: Some(place.dir.path().join("none")), ..to(proxy.url()) };
        let refused = Link::dial(&no_file).await.unwrap_err();
        assert!(matches!(&refused, LinkError::Refused(text) if text.contains("none")), "{refused}");
    });
    // The command line trusts what the system does, and the system is told by this variable.
    let list = |trusted: Option<&Path>| {
        let mut command = Command::new(WSD);
        command.env_clear().args(["ls", "--url", &proxy.url()]);
        trusted.map(|path| command.env("SSL_CERT_FILE", path));
        command.output().unwrap()
    };
    let output = list(Some(&proxy.ca));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = list(None);
    assert!(text(&output.stderr).contains("is its certificate one"), "{}", text(&output.stderr));
    daemon.stop();
}

fn wsd(daemon: &Daemon, args: &[&str]) -> Output {
    let mut command = Command::new(WSD);
    command.env_clear().env("PORT", daemon.port.to_string()).args(args).output().unwrap()
}

#[test]
fn a_hub_shows_its_replicas_and_has_no_upstream() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    run(async { greeted(&here(&daemon), 7).await });
    for args in [&["sync"][..], &["sync", "status"]] {
        let output = wsd(&daemon, args);
        assert!(output.status.success() && text(&output.stdout).contains("no upstream"), "{output:?}");
    }
    let output = wsd(&daemon, &["sync", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((status["link"].as_str(), &status["upstream"]), (Some("off"), &serde_json::Value::Null));
    let output = wsd(&daemon, &["sync", "watermarks", "--json"]);
    let mark: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (mark["replica"].as_str(), mark["label"].as_str()),
        (Some("07".repeat(16).as_str()), Some("replica-7"))
    );
    for args in [&["sync", "now"][..], &["sync", "join", "--merge"]] {
        let output = wsd(&daemon, args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains("EREFUSED"), "{output:?}");
    }
    assert_eq!(wsd(&daemon, &["sync", "nonsense"]).status.code(), Some(2));
    let (_, _, stats) = daemon.ask("GET /__wsd/stats", "");
    assert!(stats.contains("\"sync\":{"), "{stats}");
    daemon.stop();
}

#[test]
fn ready_is_who_has_synced_once() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("UPSTREAM_URL", "ws://127.0.0.1:9")]);
    let (status, _, body) = daemon.ask("GET /health?ready", "");
    assert!(status == 503 && body.contains("the first sync is not done"), "{status} {body}");
    assert_eq!(daemon.ask("GET /health", "").0, 200);
    let (_, _, info) = daemon.ask("GET /__wsd/info", "");
    assert!(info.contains("\"upstream\":\"ws://127.0.0.1:9/ws\""), "{info}");
    daemon.stop();
}
