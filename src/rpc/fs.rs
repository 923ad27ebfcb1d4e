//! The files as an object: each method takes its arguments off the wire, makes one call, and puts the result on it.

use super::convert::{
    answer, count, kind_in, owner, rename_mode, set_attr, set_error, set_time, text, write_query, xattr_mode,
};
use super::cursors::{EntryCursorObject, MatchCursorObject, WatchObject};
use super::session::Session;
use super::streams::{SinkObject, SourceObject};
use crate::service::{Files, FindQuery, GrepQuery, MAX_DATA, MAX_ENTRIES, Outcome, Stopped};
use capnp::Error;
use std::rc::Rc;
use wsd_schema::fs_capnp::{find_options, fs};

/// Bytes of an entry of a listing on the wire, roughly.
const ENTRY_BYTES: usize = 192;

/// Most bytes of the value of an extended attribute, and of all names of a node's.
const XATTR_BYTES: usize = 64 << 10;

pub(super) struct FsObject {
    session: Rc<Session>,
}

impl FsObject {
    pub(super) fn new(session: Rc<Session>) -> Self {
        Self { session }
    }
}

impl fs::Server for FsObject {
    async fn stat(self: Rc<Self>, params: fs::StatParams, mut results: fs::StatResults) -> Result<(), Error> {
        let path = params.get()?.get_path()?;
        let outcome = match self.session.at_once("stat", |files| files.stat_at_once(path)) {
            Some(attr) => Ok(attr),
            None => {
                let path = path.to_vec();
                self.session.run("stat", move |files, _| files.stat(&path)).await
            }
        };
        answer!(results, outcome, |attr| set_attr(results.get().init_attr(), &attr));
        Ok(())
    }

    async fn lstat(
        self: Rc<Self>,
        params: fs::LstatParams,
        mut results: fs::LstatResults,
    ) -> Result<(), Error> {
        let path = params.get()?.get_path()?.to_vec();
        let outcome = self.session.run("lstat", move |files, _| files.lstat(&path)).await;
        answer!(results, outcome, |attr| set_attr(results.get().init_attr(), &attr));
        Ok(())
    }

    async fn readdir(
        self: Rc<Self>,
        params: fs::ReaddirParams,
        mut results: fs::ReaddirResults,
    ) -> Result<(), Error> {
        let (path, after, limit) = {
            let params = params.get()?;
            (params.get_path()?.to_vec(), params.get_after(), params.get_limit() as usize)
        };
        let _room = self.session.ledger.reserve(limit.min(MAX_ENTRIES) * ENTRY_BYTES).await;
        let outcome = self.session.run("readdir", move |files, _| files.readdir(&path, after, limit)).await;
        answer!(results, outcome, |page| {
            let mut listed = results.get();
            listed.set_next(page.next);
            listed.set_end(page.end);
            let mut entries = listed.init_entries(count(&page.entries));
            for (index, entry) in (0..).zip(&page.entries) {
                let mut to = entries.reborrow().get(index);
                to.set_name(&entry.name);
                set_attr(to.init_attr(), &entry.attr);
            }
        });
        Ok(())
    }

    async fn read(self: Rc<Self>, params: fs::ReadParams, mut results: fs::ReadResults) -> Result<(), Error> {
        let (path, offset, size) = {
            let params = params.get()?;
            (params.get_path()?.to_vec(), params.get_offset(), params.get_count() as usize)
        };
        let _room = self.session.ledger.reserve(size.min(MAX_DATA)).await;
        let outcome = self.session.run("read", move |files, _| files.read(&path, offset, size)).await;
        answer!(results, outcome, |(bytes, attr)| {
            results.get().set_data(&bytes);
            set_attr(results.get().init_attr(), &attr);
        });
        Ok(())
    }

    async fn write(
        self: Rc<Self>,
        params: fs::WriteParams,
        mut results: fs::WriteResults,
    ) -> Result<(), Error> {
        let (path, offset, data) = {
            let params = params.get()?;
            (params.get_path()?.to_vec(), params.get_offset(), params.get_data()?.to_vec())
        };
        let outcome = self.session.run("write", move |files, _| files.write(&path, offset, &data)).await;
        answer!(results, outcome, |attr| set_attr(results.get().init_attr(), &attr));
        Ok(())
    }

    async fn append(
        self: Rc<Self>,
        params: fs::AppendParams,
        mut results: fs::AppendResults,
    ) -> Result<(), Error> {
        let (path, data, create) = {
            let params = params.get()?;
            let create = params.get_create().then_some(params.get_mode());
            (params.get_path()?.to_vec(), params.get_data()?.to_vec(), create)
        };
        let outcome = self.session.run("append", move |files, _| files.append(&path, &data, create)).await;
        answer!(results, outcome, |attr| set_attr(results.get().init_attr(), &attr));
        Ok(())
    }

    async fn truncate(
        self: Rc<Self>,
        params: fs::TruncateParams,
        mut results: fs::TruncateResults,
    ) -> Result<(), Error> {
        let (path, size) = (params.get()?.get_path()?.to_vec(), params.get()?.get_size());
        let outcome = self.session.run("truncate", move |files, _| files.truncate(&path, size)).await;
        answer!(results, outcome, |attr| set_attr(results.get().init_attr(), &attr));
        Ok(())
    }

    async fn mkdir(
        self: Rc<Self>,
        params: fs::MkdirParams,
        mut results: fs::MkdirResults,
    ) -> Result<(), Error> {
        let (path, mode, recursive) = {
            let params = params.get()?;
            (params.get_path()?.to_vec(), params.get_mode(), params.get_recursive())
        };
        let outcome = self.session.run("mkdir", move |files, _| files.mkdir(&path, mode, recursive)).await;
        answer!(results, outcome, |attr| set_attr(results.get().init_attr(), &attr));
        Ok(())
    }

    async fn rm(self: Rc<Self>, params: fs::RmParams, mut results: fs::RmResults) -> Result<(), Error> {
        let (path, recursive, force) = {
            let params = params.get()?;
            (params.get_path()?.to_vec(), params.get_recursive(), params.get_force())
        };
        let outcome =
            self.session.run("rm", move |files, stopped| files.rm(&path, recursive, force, stopped)).await;
        answer!(results, outcome, |removed| results.get().set_removed(removed));
        Ok(())
    }

    async fn rename(
        self: Rc<Self>,
        params: fs::RenameParams,
        mut results: fs::RenameResults,
    ) -> Result<(), Error> {
        let (from, to, mode) = {
            let params = params.get()?;
            (params.get_from()?.to_vec(), params.get_to()?.to_vec(), rename_mode(params.get_mode()?))
        };
        let outcome = self.session.run("rename", move |files, _| files.rename(&from, &to, mode)).await;
        answer!(results, outcome, |()| {});
        Ok(())
    }

    async fn link(self: Rc<Self>, params: fs::LinkParams, mut results: fs::LinkResults) -> Result<(), Error> {
        let (target, path) = (params.get()?.get_target()?.to_vec(), params.get()?.get_path()?.to_vec());
        let outcome = self.session.run("link", move |files, _| files.link(&target, &path)).await;
        answer!(results, outcome, |attr| set_attr(results.get().init_attr(), &attr));
        Ok(())
    }

    async fn symlink(
        self: Rc<Self>,
        params: fs::SymlinkParams,
        mut results: fs::SymlinkResults,
    ) -> Result<(), Error> {
        let (target, path) = (params.get()?.get_target()?.to_vec(), params.get()?.get_path()?.to_vec());
        let outcome = self.session.run("symlink", move |files, _| files.symlink(&target, &path)).await;
        answer!(results, outcome, |attr| set_attr(results.get().init_attr(), &attr));
        Ok(())
    }

    async fn readlink(
        self: Rc<Self>,
        params: fs::ReadlinkParams,
        mut results: fs::ReadlinkResults,
    ) -> Result<(), Error> {
        let path = params.get()?.get_path()?.to_vec();
        let outcome = self.session.run("readlink", move |files, _| files.readlink(&path)).await;
        answer!(results, outcome, |target| results.get().set_target(&target));
        Ok(())
    }

    async fn chmod(
        self: Rc<Self>,
        params: fs::ChmodParams,
        mut results: fs::ChmodResults,
    ) -> Result<(), Error> {
        let (path, mode) = (params.get()?.get_path()?.to_vec(), params.get()?.get_mode());
        let outcome = self.session.run("chmod", move |files, _| files.chmod(&path, mode)).await;
        answer!(results, outcome, |attr| set_attr(results.get().init_attr(), &attr));
        Ok(())
    }

    async fn chown(
        self: Rc<Self>,
        params: fs::ChownParams,
        mut results: fs::ChownResults,
    ) -> Result<(), Error> {
        let (path, uid, gid, follow) = {
            let params = params.get()?;
            let (uid, gid) = (owner(params.get_uid()), owner(params.get_gid()));
            (params.get_path()?.to_vec(), uid, gid, params.get_follow())
        };
        let outcome = self.session.run("chown", move |files, _| files.chown(&path, uid, gid, follow)).await;
        answer!(results, outcome, |attr| set_attr(results.get().init_attr(), &attr));
        Ok(())
    }

    async fn utimes(
        self: Rc<Self>,
        params: fs::UtimesParams,
        mut results: fs::UtimesResults,
    ) -> Result<(), Error> {
        let (path, atime, mtime, follow) = {
            let params = params.get()?;
            let (atime, mtime) = (set_time(params.get_atime()?)?, set_time(params.get_mtime()?)?);
            (params.get_path()?.to_vec(), atime, mtime, params.get_follow())
        };
        let outcome =
            self.session.run("utimes", move |files, _| files.utimes(&path, atime, mtime, follow)).await;
        answer!(results, outcome, |attr| set_attr(results.get().init_attr(), &attr));
        Ok(())
    }

    async fn getxattr(
        self: Rc<Self>,
        params: fs::GetxattrParams,
        mut results: fs::GetxattrResults,
    ) -> Result<(), Error> {
        let (path, name, follow) = {
            let params = params.get()?;
            (params.get_path()?.to_vec(), params.get_name()?.to_vec(), params.get_follow())
        };
        let _room = self.session.ledger.reserve(XATTR_BYTES).await;
        let outcome =
            self.session.run("getxattr", move |files, _| files.getxattr(&path, &name, follow)).await;
        answer!(results, outcome, |value| results.get().set_value(&value));
        Ok(())
    }

    async fn setxattr(
        self: Rc<Self>,
        params: fs::SetxattrParams,
        mut results: fs::SetxattrResults,
    ) -> Result<(), Error> {
        let (path, name, value, mode, follow) = {
            let params = params.get()?;
            let (name, value) = (params.get_name()?.to_vec(), params.get_value()?.to_vec());
            (params.get_path()?.to_vec(), name, value, xattr_mode(params.get_mode()?), params.get_follow())
        };
        let outcome = self
            .session
            .run("setxattr", move |files, _| files.setxattr(&path, &name, &value, mode, follow))
            .await;
        answer!(results, outcome, |()| {});
        Ok(())
    }

    async fn listxattr(
        self: Rc<Self>,
        params: fs::ListxattrParams,
        mut results: fs::ListxattrResults,
    ) -> Result<(), Error> {
        let (path, follow) = (params.get()?.get_path()?.to_vec(), params.get()?.get_follow());
        let _room = self.session.ledger.reserve(XATTR_BYTES).await;
        let outcome = self.session.run("listxattr", move |files, _| files.listxattr(&path, follow)).await;
        answer!(results, outcome, |names| {
            let mut list = results.get().init_names(count(&names));
            for (index, name) in (0..).zip(&names) {
                list.set(index, name);
            }
        });
        Ok(())
    }

    async fn removexattr(
        self: Rc<Self>,
        params: fs::RemovexattrParams,
        mut results: fs::RemovexattrResults,
    ) -> Result<(), Error> {
        let (path, name, follow) = {
            let params = params.get()?;
            (params.get_path()?.to_vec(), params.get_name()?.to_vec(), params.get_follow())
        };
        let outcome =
            self.session.run("removexattr", move |files, _| files.removexattr(&path, &name, follow)).await;
        answer!(results, outcome, |()| {});
        Ok(())
    }

    async fn copy(self: Rc<Self>, params: fs::CopyParams, mut results: fs::CopyResults) -> Result<(), Error> {
        let (from, to, recursive, replace) = {
            let params = params.get()?;
            let (from, to) = (params.get_from()?.to_vec(), params.get_to()?.to_vec());
            (from, to, params.get_recursive(), params.get_replace())
        };
        let outcome = self
            .session
            .run("copy", move |files, stopped| files.copy(&from, &to, recursive, replace, stopped))
            .await;
        answer!(results, outcome, |copied| {
            results.get().set_files(copied.files);
            results.get().set_bytes(copied.bytes);
        });
        Ok(())
    }

    async fn edit(self: Rc<Self>, params: fs::EditParams, mut results: fs::EditResults) -> Result<(), Error> {
        let (path, old, new, all) = {
            let params = params.get()?;
            let (old, new) = (params.get_old()?.to_vec(), params.get_new()?.to_vec());
            (params.get_path()?.to_vec(), old, new, params.get_all())
        };
        let turn = self.session.turn_to_edit().await;
        let work = move |files: &Files, _: Stopped<'_>| {
            let _turn = turn;
            files.edit(&path, &old, &new, all)
        };
        let outcome = self.session.run("edit", work).await;
        answer!(results, outcome, |edited| {
            results.get().set_replaced(edited.replaced);
            set_attr(results.get().init_attr(), &edited.attr);
        });
        Ok(())
    }

    async fn sync(self: Rc<Self>, _: fs::SyncParams, mut results: fs::SyncResults) -> Result<(), Error> {
        let outcome = self.session.run("sync", |files, _| files.sync()).await;
        answer!(results, outcome, |revision| results.get().set_revision(revision));
        Ok(())
    }

    async fn statfs(
        self: Rc<Self>,
        _: fs::StatfsParams,
        mut results: fs::StatfsResults,
    ) -> Result<(), Error> {
        let outcome = self.session.run("statfs", |files, _| files.statfs()).await;
        answer!(results, outcome, |space| {
            results.get().set_total(space.total);
            results.get().set_free(space.free);
            results.get().set_nodes(space.nodes);
        });
        Ok(())
    }

    async fn read_file(
        self: Rc<Self>,
        params: fs::ReadFileParams,
        mut results: fs::ReadFileResults,
    ) -> Result<(), Error> {
        let (path, offset, length) = {
            let params = params.get()?;
            (params.get_path()?.to_vec(), params.get_offset(), params.get_length())
        };
        let outcome =
            self.session.run("readFile", move |files, _| files.read_file(&path, offset, length)).await;
        let source = outcome.and_then(|(attr, source)| {
            set_attr(results.get().init_attr(), &attr);
            Ok((source, self.session.open()?))
        });
        if let Err(failure) = &source {
            set_error(results.get().init_error(), failure);
        }
        results.get().set_source(capnp_rpc::new_client(SourceObject::new(&self.session, source)));
        Ok(())
    }

    async fn write_file(
        self: Rc<Self>,
        params: fs::WriteFileParams,
        mut results: fs::WriteFileResults,
    ) -> Result<(), Error> {
        let path = params.get()?.get_path()?.to_vec();
        let query = write_query(params.get()?.get_options()?)?;
        let outcome = self.session.run("writeFile", move |files, _| files.write_file(&path, query)).await;
        let sink = outcome.and_then(|sink| Ok((sink, self.session.open()?)));
        if let Err(failure) = &sink {
            set_error(results.get().init_error(), failure);
        }
        results.get().set_sink(capnp_rpc::new_client(SinkObject::new(&self.session, sink)));
        Ok(())
    }

    async fn find(self: Rc<Self>, params: fs::FindParams, mut results: fs::FindResults) -> Result<(), Error> {
        let query = find_query(params.get()?.get_options()?)?;
        let outcome = match query {
            Ok(query) => self.session.search("find", move |files, _| files.find(query)).await,
            Err(failure) => Err(failure),
        };
        let cursor = outcome.and_then(|find| Ok((find, self.session.open_search()?)));
        if let Err(failure) = &cursor {
            set_error(results.get().init_error(), failure);
        }
        results.get().set_cursor(capnp_rpc::new_client(EntryCursorObject::new(&self.session, cursor)));
        Ok(())
    }

    async fn grep(self: Rc<Self>, params: fs::GrepParams, mut results: fs::GrepResults) -> Result<(), Error> {
        let query = {
            let options = params.get()?.get_options()?;
            let (query, pattern) = (find_query(options.get_in()?)?, options.get_pattern()?);
            query.and_then(|files| {
                Ok(GrepQuery {
                    files,
                    pattern: text(pattern)?,
                    literal: options.get_literal(),
                    ignore_case: options.get_ignore_case(),
                    word: options.get_word(),
                    before: options.get_before(),
                    after: options.get_after(),
                    max_per_file: options.get_max_per_file(),
                    multiline: options.get_multiline(),
                })
            })
        };
        let outcome = match query {
            Ok(query) => self.session.search("grep", move |files, _| files.grep(query)).await,
            Err(failure) => Err(failure),
        };
        let cursor = outcome.and_then(|grep| Ok((grep, self.session.open_search()?)));
        if let Err(failure) = &cursor {
            set_error(results.get().init_error(), failure);
        }
        results.get().set_cursor(capnp_rpc::new_client(MatchCursorObject::new(&self.session, cursor)));
        Ok(())
    }

    async fn watch(
        self: Rc<Self>,
        params: fs::WatchParams,
        mut results: fs::WatchResults,
    ) -> Result<(), Error> {
        let (path, recursive, after) = {
            let params = params.get()?;
            (params.get_path()?.to_vec(), params.get_recursive(), params.get_after())
        };
        let after = (after != u64::MAX).then_some(after);
        let outcome = self.session.run("watch", move |files, _| files.watch(&path, recursive, after)).await;
        let watch = outcome.and_then(|watch| Ok((watch, self.session.open()?)));
        match &watch {
            Ok((watch, _)) => results.get().set_revision(watch.cursor()),
            Err(failure) => set_error(results.get().init_error(), failure),
        }
        results.get().set_watch(capnp_rpc::new_client(WatchObject::new(&self.session, watch)));
        Ok(())
    }
}

fn find_query(options: find_options::Reader<'_>) -> Result<Outcome<FindQuery>, Error> {
    let texts = |list: capnp::text_list::Reader<'_>| -> Result<Outcome<Vec<String>>, Error> {
        let mut texts = Vec::new();
        for item in list {
            match text(item?) {
                Ok(item) => texts.push(item),
                Err(failure) => return Ok(Err(failure)),
            }
        }
        Ok(Ok(texts))
    };
    let mut kinds = Vec::new();
    for kind in options.get_kinds()? {
        kinds.push(kind_in(kind?));
    }
    let (globs, excludes) = (texts(options.get_globs()?)?, texts(options.get_excludes()?)?);
    let path = options.get_path()?.to_vec();
    Ok(globs.and_then(|globs| {
        Ok(FindQuery {
            path,
            globs,
            excludes: excludes?,
            kinds,
            max_depth: options.get_max_depth(),
            hidden: options.get_hidden(),
            gitignore: options.get_gitignore(),
        })
    }))
}
