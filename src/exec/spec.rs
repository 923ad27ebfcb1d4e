//! What is to be run, and whether that makes sense.

use super::ExecError;
use std::time::Duration;

/// Longest id.
const MAX_ID: usize = 128;

/// Most bytes of arguments and environment together; the kernel's own limit is near.
const MAX_WORDS: usize = 1 << 20;

/// Most bytes of a command that are shown, and what stands for the rest.
const MAX_SHOWN: usize = 2048;
const CUT: &[u8] = "\u{2026}".as_bytes();

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Words {
    /// By `/bin/sh -c`.
    Shell(Vec<u8>),
    /// A program and its arguments.
    Argv(Vec<Vec<u8>>),
}

/// Where standard input comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// There is none.
    #[default]
    None,
    /// These bytes.
    Bytes(Vec<u8>),
    /// What is written later.
    Stream,
}

/// Limits of its processes, as in setrlimit(2); `None`: the daemon's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in `Limits` of the schema")]
pub struct Limits {
    pub cpu_seconds: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub processes: Option<u64>,
    pub file_bytes: Option<u64>,
    pub open_files: Option<u64>,
}

/// A command.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in `Command` of the schema")]
pub struct Spec {
    pub words: Words,
    /// Empty: the mount point; relative: below it.
    pub cwd: Vec<u8>,
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    pub stdin: Stdin,
    pub timeout: Option<Duration>,
    /// Rows and columns of its pseudo-terminal, if it has one.
    pub terminal: Option<(u16, u16)>,
    /// Empty: one is chosen.
    pub id: String,
    pub limits: Limits,
    pub output_grace: Duration,
    pub detach: bool,
    pub pull: bool,
    pub push: bool,
    /// How long upstream is waited for; `None`: as long as it takes.
    pub sync_timeout: Option<Duration>,
}

impl Limits {
    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        *self != Self::default()
    }
}

impl Spec {
    /// A command with nothing special about it.
    pub fn new(words: Words) -> Self {
        Self {
            words,
            cwd: Vec::new(),
            env: Vec::new(),
            stdin: Stdin::None,
            timeout: None,
            terminal: None,
            id: String::new(),
            limits: Limits::default(),
            output_grace: Duration::from_secs(5),
            detach: false,
            pull: false,
            push: false,
            sync_timeout: Some(Duration::from_secs(60)),
        }
    }

    /// The program and its arguments.
    pub(super) fn argv(&self) -> Vec<Vec<u8>> {
        match &self.words {
            Words::Shell(line) => vec![b"/bin/sh".to_vec(), b"-c".to_vec(), line.clone()],
            Words::Argv(argv) => argv.clone(),
        }
    }

    /// The command as a person reads it.
    pub(super) fn shown(&self) -> Vec<u8> {
        shortened(match &self.words {
            Words::Shell(line) => line.clone(),
            Words::Argv(argv) => argv.join(&b' '),
        })
    }

    /// Fails when it makes no sense.
    pub(super) fn check(&self) -> Result<(), ExecError> {
        let wrong = |text: String| Err(ExecError::Spec(text));
        let argv = self.argv();
        if argv.first().is_none_or(Vec::is_empty) {
            return wrong("there is no program to run".into());
        }
        let of_env = self.env.iter().flat_map(|(name, value)| [name, value]);
        let mut words = argv.iter().chain(of_env).chain([&self.cwd]);
        if words.any(|word| word.contains(&0)) {
            return wrong("a word, a variable or the directory holds a NUL byte".into());
        }
        let bytes: usize = argv.iter().map(Vec::len).sum::<usize>()
            + self.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
        if bytes > MAX_WORDS {
            return wrong(format!("{bytes} bytes of arguments and environment: at most {MAX_WORDS}"));
        }
        if let Some((name, _)) = self.env.iter().find(|(name, _)| name.is_empty() || name.contains(&b'=')) {
            return wrong(format!("{:?} is no name of a variable", String::from_utf8_lossy(name)));
        }
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if self.id.len() > MAX_ID || !self.id.bytes().all(is_good) {
            return wrong(format!("{:?} is no id: at most {MAX_ID} letters, digits, '.', '_', '-'", self.id));
        }
        Ok(())
    }
}

/// As much of a command as is shown: all that are remembered are told in one answer.
pub(super) fn shortened(mut command: Vec<u8>) -> Vec<u8> {
    if command.len() > MAX_SHOWN {
        let most = MAX_SHOWN - CUT.len();
        // Not within a character.
        let end = (0..=most).rev().take(4).find(|at| command[*at] & 0xc0 != 0x80);
        command.truncate(end.unwrap_or(most));
        command.extend_from_slice(CUT);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_command_the_beginning_is_shown() {
        let shown = |line: &[u8]| Spec::new(Words::Shell(line.to_vec())).shown();
        assert_eq!(shown(b"short"), b"short");
        assert_eq!(shown(&[b'x'; MAX_SHOWN]), [b'x'; MAX_SHOWN]);
        for character in ["x", "\u{e9}", "\u{20ac}", "\u{1f600}"] {
            let text = String::from_utf8(shown(character.repeat(2 * MAX_SHOWN).as_bytes())).unwrap();
            assert!(text.len() <= MAX_SHOWN && text.len() > MAX_SHOWN - 4, "{}", text.len());
            assert!(text.ends_with('\u{2026}') && text.starts_with(character));
        }
        assert!(shown(&[0x80; 2 * MAX_SHOWN]).len() <= MAX_SHOWN);
    }

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        let good = Spec::new(Words::Shell(b"true".to_vec()));
        assert!(good.check().is_ok());
        let bad = [
            Spec::new(Words::Argv(vec![])),
            Spec::new(Words::Argv(vec![vec![]])),
            Spec::new(Words::Shell(b"a\0b".to_vec())),
            Spec { env: vec![(b"A=B".to_vec(), vec![])], ..good.clone() },
            Spec { env: vec![(vec![], vec![])], ..good.clone() },
            Spec { id: "a b".into(), ..good.clone() },
            Spec { id: "x".repeat(129), ..good.clone() },
            Spec { env: vec![(b"A".to_vec(), vec![b'x'; MAX_WORDS])], ..good },
        ];
        for spec in bad {
            assert!(matches!(spec.check(), Err(ExecError::Spec(_))), "{spec:?}");
        }
    }
}
