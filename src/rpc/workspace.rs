//! The bootstrap object.

use super::convert::answer;
use super::exec::ExecObject;
use super::fs::FsObject;
use super::session::Session;
use super::sync::SyncObject;
use capnp::Error;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use wsd_schema::exec_capnp::exec;
use wsd_schema::fs_capnp::fs;
use wsd_schema::sync_capnp::sync;
use wsd_schema::workspace_capnp::workspace::{
    self, ExecParams, ExecResults, FsParams, FsResults, InfoParams, InfoResults, SyncParams, SyncResults,
};

/// What is told of the daemon.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in `Info` of the schema")]
pub struct About {
    pub version: &'static str,
    pub workspace_id: String,
    pub mount_point: PathBuf,
    pub mount: String,
    pub mount_reason: String,
    pub features: &'static [&'static str],
}

pub(super) struct WorkspaceObject {
    session: Rc<Session>,
    fs: fs::Client,
    exec: exec::Client,
    sync: sync::Client,
}

impl WorkspaceObject {
    pub(super) fn new(session: Rc<Session>) -> Self {
        let fs = capnp_rpc::new_client(FsObject::new(Rc::clone(&session)));
        let exec = capnp_rpc::new_client(ExecObject::new(Rc::clone(&session)));
        let sync = capnp_rpc::new_client(SyncObject::new(Rc::clone(&session)));
        Self { session, fs, exec, sync }
    }
}

impl workspace::Server for WorkspaceObject {
    async fn info(self: Rc<Self>, _: InfoParams, mut results: InfoResults) -> Result<(), Error> {
        let outcome = self.session.run("info", |files, _| Ok(files.vfs().revision())).await;
        let about = &self.session.host.about;
        answer!(results, outcome, |revision| {
            let mut info = results.get().init_info();
            info.set_version(about.version);
            info.set_workspace_id(about.workspace_id.as_str());
            info.set_mount_point(about.mount_point.as_os_str().as_bytes());
            info.set_mount(about.mount.as_str());
            info.set_mount_reason(about.mount_reason.as_str());
            info.set_revision(revision);
            let mut features = info.init_features(about.features.len() as u32);
            for (index, feature) in (0..).zip(about.features) {
                features.set(index, *feature);
            }
        });
        Ok(())
    }

    async fn exec(self: Rc<Self>, _: ExecParams, mut results: ExecResults) -> Result<(), Error> {
        results.get().set_exec(self.exec.clone());
        Ok(())
    }

    async fn fs(self: Rc<Self>, _: FsParams, mut results: FsResults) -> Result<(), Error> {
        results.get().set_fs(self.fs.clone());
        Ok(())
    }

    async fn sync(self: Rc<Self>, _: SyncParams, mut results: SyncResults) -> Result<(), Error> {
        results.get().set_sync(self.sync.clone());
        Ok(())
    }
}
