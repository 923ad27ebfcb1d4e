//! What a command is given: its standard input, and the size of its terminal.
//!
//! Whoever writes to the input may wait for the command to read, so the size is changed without the input. Both are let go of
//! when the command has ended: it is remembered for much longer.

use super::ExecError;
use super::command::Running;
use pty_process::OwnedWritePty;
use rustix::termios::{Winsize, tcsetwinsize};
use std::os::fd::OwnedFd;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Its standard input.
pub(super) enum Input {
    Pipe(Option<Box<dyn AsyncWrite + Send + Unpin>>),
    Terminal(OwnedWritePty),
    /// It was open when the command ended.
    Ended,
}

/// Its terminal, for the size of it.
pub(super) enum Window {
    None,
    Open(OwnedFd),
    Ended,
}

impl Running {
    /// Writes to its standard input; false when nobody reads it any more.
    pub async fn feed(&self, bytes: &[u8]) -> bool {
        let mut input = self.input.lock().await;
        let written = match &mut *input {
            Input::Pipe(None) | Input::Ended => false,
            Input::Pipe(Some(pipe)) => {
                let write = async { pipe.write_all(bytes).await.is_ok() && pipe.flush().await.is_ok() };
                tokio::select! { biased; written = write => written, () = self.wait() => false }
            }
            Input::Terminal(terminal) => {
                let write = async { terminal.write_all(bytes).await.is_ok() };
                tokio::select! { biased; written = write => written, () = self.wait() => false }
            }
        };
        if !written && matches!(*input, Input::Pipe(_)) {
            *input = Input::Pipe(None);
        }
        written
    }

    /// Ends its standard input. A terminal is sent its end-of-file character.
    pub async fn close_input(&self) -> bool {
        let mut input = self.input.lock().await;
        match &mut *input {
            Input::Pipe(pipe) => pipe.take().is_some(),
            Input::Terminal(terminal) => {
                let write = async { terminal.write_all(&[4]).await.is_ok() };
                tokio::select! { biased; written = write => written, () = self.wait() => true }
            }
            Input::Ended => true,
        }
    }

    /// Sets the size of its terminal.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), ExecError> {
        match &*self.window.lock() {
            Window::Open(terminal) => {
                let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                tcsetwinsize(terminal, size)
                    .map_err(|error| ExecError::Spec(format!("the size cannot be set: {error}")))
            }
            Window::Ended => Ok(()),
            Window::None => Err(ExecError::NoTerminal(self.id.clone())),
        }
    }

    /// Closes what of the two is open.
    pub(super) async fn let_go_of_input(&self) {
        {
            let mut window = self.window.lock();
            if matches!(*window, Window::Open(_)) {
                *window = Window::Ended;
            }
        }
        let mut input = self.input.lock().await;
        if !matches!(*input, Input::Pipe(None)) {
            *input = Input::Ended;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::tests::{Still, hear, settings, sh, store};
    use crate::exec::{Execs, Spec};
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::{sleep, timeout};

    /// A window that changed its size waited for the command to read, and so did who had to take what the command said.
    #[test]
    fn the_size_does_not_wait_for_the_input_and_neither_outlives_the_command() {
        let (dir, runtime) = (tempfile::tempdir().unwrap(), tokio::runtime::Runtime::new().unwrap());
        let (settings, still) = (settings(&dir, 1 << 20), Arc::new(Still::default()));
        let execs = Execs::open(settings, store(&dir), still, runtime.handle().clone()).unwrap();
        runtime.block_on(async {
            let line =
                sh("stty raw -echo; echo ready; while [ ! -e go ]; do sleep 0.1; done; stty size >size");
            let (command, mut reader) = execs.run(Spec { terminal: Some((24, 80)), ..line }).await.unwrap();
            assert_eq!(reader.next(1, Duration::from_secs(20)).await.unwrap().0.len(), 1);
            let fed = Arc::clone(&command);
            let feeding = tokio::spawn(async move { fed.feed(&[b'x'; 1 << 20]).await });
            sleep(Duration::from_millis(200)).await;
            assert!(!feeding.is_finished());
            command.resize(40, 120).unwrap();
            std::fs::write(dir.path().join("ws/go"), "").unwrap();
            assert!(hear(&mut reader).await.exit.is_some());
            assert_eq!(std::fs::read_to_string(dir.path().join("ws/size")).unwrap(), "40 120\n");
            assert!(!timeout(Duration::from_secs(10), feeding).await.unwrap().unwrap());
            while !matches!(&*command.input.lock().await, Input::Ended) {
                sleep(Duration::from_millis(1)).await;
            }
            assert!(matches!(&*command.window.lock(), Window::Ended));
            assert!(command.resize(1, 1).is_ok() && command.close_input().await && !command.feed(b"x").await);
        });
    }
}
