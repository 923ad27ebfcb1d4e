//! A daemon that is attacked, and what must be true of it all the time.

use crate::peer::{FILES, Peer, SINK_DONE, Target, WRITE_FILE, call, code, finish, sink_write, stat};
use crate::support::{Daemon, Place};
use std::fs::read_to_string;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};
use wsd_schema::fs_capnp::fs::write_file_params;

/// The most memory that the daemon may have had at any moment of an attack by one peer, bytes: its cache of 32 MiB,
/// what it takes without any peer, and what one connection may have with it (see `Limits` in `src/wire/ledger.rs`).
pub(crate) const BOUND: u64 = 224 << 20;

pub(crate) struct Siege {
    pub(crate) place: Place,
    pub(crate) daemon: Daemon,
}

impl Siege {
    pub(crate) fn begin() -> Self {
        let place = Place::new();
        let settings = [("FUSE_MOUNT", "none"), ("WSD_CACHE_BYTES", "32M"), ("WSD_LOG", "info")];
        let daemon = place.serve_with(&settings);
        Self { place, daemon }
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer::connect(&self.daemon)
    }

    pub(crate) fn root(&self) -> Vec<u8> {
        self.place.point.as_os_str().as_bytes().to_vec()
    }

    pub(crate) fn path(&self, name: &str) -> Vec<u8> {
        self.place.point.join(name).as_os_str().as_bytes().to_vec()
    }

    /// Makes a file.
    pub(crate) fn fill(&self, name: &str, bytes: &[u8]) {
        let mut peer = self.peer();
        peer.send(call(2, FILES, WRITE_FILE, |params| {
            params.init_as::<write_file_params::Builder<'_>>().set_path(&self.path(name));
        }));
        let sink = Target::Answer(2, 1);
        for (question, portion) in (3..).zip(bytes.chunks(4 << 20)) {
            peer.send(sink_write(question, sink, portion));
            peer.answers(if question == 3 { 2 } else { 1 });
            peer.send(finish(question));
        }
        peer.send(call(u32::MAX, sink, SINK_DONE, |_| {}));
        assert_eq!(code(&peer.answers(1)[0]), "");
    }

    /// The daemon is quick to say that it is well, and serves whoever behaves.
    pub(crate) fn holds(&self) {
        let begun = Instant::now();
        assert_eq!(self.daemon.ask("GET /health", "").0, 200);
        let mut peer = self.peer();
        peer.send(stat(2, &self.root()));
        assert_eq!(code(&peer.answers(1)[0]), "");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(3), "it took {took:?} to answer");
        let log = self.place.log();
        assert!(!log.contains("panicked") && !log.contains("ended in a fault"), "{log}");
    }

    /// The most memory that the daemon had so far.
    pub(crate) fn peak(&self) -> u64 {
        let status = read_to_string(format!("/proc/{}/status", self.daemon.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// The attack is over: nothing is left of it.
    pub(crate) fn end(self) {
        self.end_within(BOUND);
    }

    pub(crate) fn end_within(self, bound: u64) {
        self.holds();
        let peak = self.peak();
        println!("{} MiB at most, {} now", peak >> 20, self.daemon.stat("/rssBytes") >> 20);
        assert!(peak < bound, "{} MiB were resident", peak >> 20);
        self.daemon.stop();
        self.place.check();
    }
}
