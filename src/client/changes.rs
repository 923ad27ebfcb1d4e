//! Calls that change something. When the answer of one was lost, nobody can tell whether it did.

use super::convert;
use super::error::check;
use super::vat::Effect::Changes;
use super::{Attr, Client, ClientError, Copied, MAX_DATA, RenameMode, SetTime, XattrMode};

/// Refuses what the daemon would not take in one message.
fn fits(path: &[u8], bytes: usize) -> Result<(), ClientError> {
    if bytes <= MAX_DATA {
        return Ok(());
    }
    let message = format!("{bytes} bytes in one call: at most {MAX_DATA} are taken; stream the file instead");
    Err(ClientError::refusal("EPROTOCOL", message, path))
}

impl Client {
    /// Writes bytes in place, at most 4 MiB, into a file that exists.
    pub async fn write(
        &self,
        path: impl AsRef<[u8]>,
        offset: u64,
        data: impl AsRef<[u8]>,
    ) -> Result<Attr, ClientError> {
        let (path, data) = (path.as_ref().to_owned(), data.as_ref().to_owned());
        fits(&path, data.len())?;
        self.ask(Changes, move |link| {
            let mut request = link.fs.write_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_offset(offset);
            params.set_data(&data);
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

    /// Adds bytes at the end, at most 4 MiB; a file that is not there is made with the mode `create`, if
    /// one is given.
    pub async fn append(
        &self,
        path: impl AsRef<[u8]>,
        data: impl AsRef<[u8]>,
        create: Option<u32>,
    ) -> Result<Attr, ClientError> {
        let (path, data) = (path.as_ref().to_owned(), data.as_ref().to_owned());
        fits(&path, data.len())?;
        self.ask(Changes, move |link| {
            let mut request = link.fs.append_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_data(&data);
            params.set_create(create.is_some());
            if let Some(mode) = create {
                params.set_mode(mode);
            }
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

    /// Cuts a file, or extends it by a hole.
    pub async fn truncate(&self, path: impl AsRef<[u8]>, size: u64) -> Result<Attr, ClientError> {
        let path = path.as_ref().to_owned();
        self.ask(Changes, move |link| {
            let mut request = link.fs.truncate_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_size(size);
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

    /// Makes a directory; with `recursive` also what is missing on the way, and one that is there is no error.
    pub async fn mkdir(
        &self,
        path: impl AsRef<[u8]>,
        mode: u32,
        recursive: bool,
    ) -> Result<Attr, ClientError> {
        let path = path.as_ref().to_owned();
        self.ask(Changes, move |link| {
            let mut request = link.fs.mkdir_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_mode(mode);
            params.set_recursive(recursive);
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

    /// Removes a name, with `recursive` all below it, with `force` without complaint that it is not there; how
    /// many names went.
    pub async fn rm(&self, path: impl AsRef<[u8]>, recursive: bool, force: bool) -> Result<u64, ClientError> {
        let path = path.as_ref().to_owned();
        self.ask(Changes, move |link| {
            let mut request = link.fs.rm_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_recursive(recursive);
            params.set_force(force);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(answer.get_removed())
            }
        })
        .await
    }

    /// Gives a node another name.
    pub async fn rename(
        &self,
        from: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
        mode: RenameMode,
    ) -> Result<(), ClientError> {
        let (from, to) = (from.as_ref().to_owned(), to.as_ref().to_owned());
        self.ask(Changes, move |link| {
            let mut request = link.fs.rename_request();
            let mut params = request.get();
            params.set_from(&from);
            params.set_to(&to);
            params.set_mode(convert::rename_mode(mode));
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                check(answer.get()?.get_error())
            }
        })
        .await
    }

    /// Gives the file `target` the additional name `path`.
    pub async fn link(&self, target: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> Result<Attr, ClientError> {
        let (target, path) = (target.as_ref().to_owned(), path.as_ref().to_owned());
        self.ask(Changes, move |link| {
            let mut request = link.fs.link_request();
            let mut params = request.get();
            params.set_target(&target);
            params.set_path(&path);
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

    /// Makes a symlink at `path` that holds `target`.
    pub async fn symlink(
        &self,
        target: impl AsRef<[u8]>,
        path: impl AsRef<[u8]>,
    ) -> Result<Attr, ClientError> {
        let (target, path) = (target.as_ref().to_owned(), path.as_ref().to_owned());
        self.ask(Changes, move |link| {
            let mut request = link.fs.symlink_request();
            let mut params = request.get();
            params.set_target(&target);
            params.set_path(&path);
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

    /// Sets the permission bits.
    pub async fn chmod(&self, path: impl AsRef<[u8]>, mode: u32) -> Result<Attr, ClientError> {
        let path = path.as_ref().to_owned();
        self.ask(Changes, move |link| {
            let mut request = link.fs.chmod_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_mode(mode);
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

    /// Sets the owner and the group; none leaves one as it is.
    pub async fn chown(
        &self,
        path: impl AsRef<[u8]>,
        uid: Option<u32>,
        gid: Option<u32>,
        follow: bool,
    ) -> Result<Attr, ClientError> {
        let path = path.as_ref().to_owned();
        self.ask(Changes, move |link| {
            let mut request = link.fs.chown_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_uid(uid.unwrap_or(u32::MAX));
            params.set_gid(gid.unwrap_or(u32::MAX));
            params.set_follow(follow);
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

    /// Sets the times of access and modification.
    pub async fn utimes(
        &self,
        path: impl AsRef<[u8]>,
        atime: SetTime,
        mtime: SetTime,
        follow: bool,
    ) -> Result<Attr, ClientError> {
        let path = path.as_ref().to_owned();
        self.ask(Changes, move |link| {
            let mut request = link.fs.utimes_request();
            let mut params = request.get();
            params.set_path(&path);
            convert::set_time(atime, params.reborrow().init_atime());
            convert::set_time(mtime, params.reborrow().init_mtime());
            params.set_follow(follow);
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

    /// Sets an extended attribute.
    pub async fn setxattr(
        &self,
        path: impl AsRef<[u8]>,
        name: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        mode: XattrMode,
        follow: bool,
    ) -> Result<(), ClientError> {
        let (path, name, value) =
            (path.as_ref().to_owned(), name.as_ref().to_owned(), value.as_ref().to_owned());
        fits(&path, value.len())?;
        self.ask(Changes, move |link| {
            let mut request = link.fs.setxattr_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_name(&name);
            params.set_value(&value);
            params.set_mode(convert::xattr_mode(mode));
            params.set_follow(follow);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                check(answer.get()?.get_error())
            }
        })
        .await
    }

    /// Removes an extended attribute.
    pub async fn removexattr(
        &self,
        path: impl AsRef<[u8]>,
        name: impl AsRef<[u8]>,
        follow: bool,
    ) -> Result<(), ClientError> {
        let (path, name) = (path.as_ref().to_owned(), name.as_ref().to_owned());
        self.ask(Changes, move |link| {
            let mut request = link.fs.removexattr_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_name(&name);
            params.set_follow(follow);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                check(answer.get()?.get_error())
            }
        })
        .await
    }

    /// Copies a file, a symlink or, with `recursive`, a tree, on the daemon's side. `to` is the new name itself.
    pub async fn copy(
        &self,
        from: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
        recursive: bool,
        replace: bool,
    ) -> Result<Copied, ClientError> {
        let (from, to) = (from.as_ref().to_owned(), to.as_ref().to_owned());
        self.ask(Changes, move |link| {
            let mut request = link.fs.copy_request();
            let mut params = request.get();
            params.set_from(&from);
            params.set_to(&to);
            params.set_recursive(recursive);
            params.set_replace(replace);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(Copied { files: answer.get_files(), bytes: answer.get_bytes() })
            }
        })
        .await
    }

    /// Replaces `old`, which must be there exactly once, or every `old` with `all`; how many were.
    pub async fn edit(
        &self,
        path: impl AsRef<[u8]>,
        old: impl AsRef<[u8]>,
        new: impl AsRef<[u8]>,
        all: bool,
    ) -> Result<(u64, Attr), ClientError> {
        let (path, old, new) = (path.as_ref().to_owned(), old.as_ref().to_owned(), new.as_ref().to_owned());
        fits(&path, old.len() + new.len())?;
        self.ask(Changes, move |link| {
            let mut request = link.fs.edit_request();
            let mut params = request.get();
            params.set_path(&path);
            params.set_old(&old);
            params.set_new(&new);
            params.set_all(all);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok((answer.get_replaced(), convert::attr(answer.get_attr()?)?))
            }
        })
        .await
    }
}
