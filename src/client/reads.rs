//! Calls that change nothing. They are asked again when their answer was lost.

use super::convert;
use super::error::check;
use super::vat::Effect::Reads;
use super::{Attr, Client, ClientError, DirEntry, Info, Page, Space};
use bytes::Bytes;

/// Most entries that one page of a directory has.
const PAGE: u32 = 10_000;

impl Client {
    /// What the daemon says of itself.
    pub async fn info(&self) -> Result<Info, ClientError> {
        self.ask(Reads, |link| {
            let asked = link.workspace.info_request().send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(convert::info(answer.get_info()?)?)
            }
        })
        .await
    }

    /// Attributes of what a path leads to.
    pub async fn stat(&self, path: impl AsRef<[u8]>) -> Result<Attr, ClientError> {
        let path = path.as_ref().to_owned();
        self.ask(Reads, move |link| {
            let mut request = link.fs.stat_request();
            request.get().set_path(&path);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(convert::attr(answer.get_attr()?)?)
            }
        })
        .await
    }

    /// Attributes of a name, which may be a symlink's.
    pub async fn lstat(&self, path: impl AsRef<[u8]>) -> Result<Attr, ClientError> {
        let path = path.as_ref().to_owned();
        self.ask(Reads, move |link| {
            let mut request = link.fs.lstat_request();
            request.get().set_path(&path);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(convert::attr(answer.get_attr()?)?)
            }
        })
        .await
    }

    /// All of a directory, without `.` and `..`.
    pub async fn readdir(&self, path: impl AsRef<[u8]>) -> Result<Vec<DirEntry>, ClientError> {
        let path = path.as_ref();
        let mut page = self.readdir_page(path, 0, PAGE).await?;
        let mut all = std::mem::take(&mut page.entries);
        while let Some(after) = page.next {
            page = self.readdir_page(path, after, PAGE).await?;
            all.append(&mut page.entries);
        }
        Ok(all)
    }

    /// A part of a directory; the first when `after` is 0.
    pub async fn readdir_page(
        &self,
        path: impl AsRef<[u8]>,
        after: u64,
        limit: u32,
    ) -> Result<Page, ClientError> {
        let path = path.as_ref().to_owned();
        self.ask(Reads, move |link| {
            let mut request = link.fs.readdir_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_after(after);
            params.set_limit(limit);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                let entries = answer.get_entries()?.iter().map(convert::dir_entry).collect::<Result<_, _>>();
                Ok(Page { entries: entries?, next: (!answer.get_end()).then_some(answer.get_next()) })
            }
        })
        .await
    }

    /// Bytes of a file, at most 4 MiB, fewer only at its end; and its attributes.
    pub async fn read(
        &self,
        path: impl AsRef<[u8]>,
        offset: u64,
        count: u32,
    ) -> Result<(Bytes, Attr), ClientError> {
        let path = path.as_ref().to_owned();
        self.ask(Reads, move |link| {
            let mut request = link.fs.read_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_offset(offset);
            params.set_count(count);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok((Bytes::copy_from_slice(answer.get_data()?), convert::attr(answer.get_attr()?)?))
            }
        })
        .await
    }

    /// What a symlink holds.
    pub async fn readlink(&self, path: impl AsRef<[u8]>) -> Result<Vec<u8>, ClientError> {
        let path = path.as_ref().to_owned();
        self.ask(Reads, move |link| {
            let mut request = link.fs.readlink_request();
            request.get().set_path(&path);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(answer.get_target()?.to_vec())
            }
        })
        .await
    }

    /// The value of an extended attribute.
    pub async fn getxattr(
        &self,
        path: impl AsRef<[u8]>,
        name: impl AsRef<[u8]>,
        follow: bool,
    ) -> Result<Vec<u8>, ClientError> {
        let (path, name) = (path.as_ref().to_owned(), name.as_ref().to_owned());
        self.ask(Reads, move |link| {
            let mut request = link.fs.getxattr_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_name(&name);
            params.set_follow(follow);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(answer.get_value()?.to_vec())
            }
        })
        .await
    }

    /// The names of the extended attributes.
    pub async fn listxattr(&self, path: impl AsRef<[u8]>, follow: bool) -> Result<Vec<Vec<u8>>, ClientError> {
        let path = path.as_ref().to_owned();
        self.ask(Reads, move |link| {
            let mut request = link.fs.listxattr_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_follow(follow);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                let names = answer.get_names()?.iter().map(|name| name.map(<[u8]>::to_vec));
                Ok(names.collect::<Result<_, _>>()?)
            }
        })
        .await
    }

    /// How full the workspace is.
    pub async fn statfs(&self) -> Result<Space, ClientError> {
        self.ask(Reads, |link| {
            let asked = link.fs.statfs_request().send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(Space { total: answer.get_total(), free: answer.get_free(), nodes: answer.get_nodes() })
            }
        })
        .await
    }

    /// Waits until everything up to now is on the disk; the revision that is.
    pub async fn sync(&self) -> Result<u64, ClientError> {
        self.ask(Reads, |link| {
            let asked = link.fs.sync_request().send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(answer.get_revision())
            }
        })
        .await
    }
}
