"""The repositories, archives and packages that bench_works.py works with, made the same way each time."""

import io
import random
import tarfile
from pathlib import Path

from bench_works import KIB, Skip, git, npm_install, run


def text_pool(dice):
    """Lines of random words, from which files are cut."""
    words = ["".join(dice.choices("etaoinshrdlu", k=dice.randint(2, 9))) for _ in range(3000)]
    lines = [" " * dice.choice((0, 4, 8)) + " ".join(dice.choices(words, k=dice.randint(1, 14)))
             for _ in range(60_000)]
    return "\n".join(lines).encode()


def source_text(dice, pool):
    """Text of the size of a source file: 200 bytes to 40 KiB, most often small."""
    size = int(200 * (40 * KIB / 200) ** dice.random())
    offset = dice.randrange(len(pool) - size)
    return pool[offset:offset + size]


def source_names(dice, count):
    """Names in nested directories, about twelve to each."""
    directories = [""]
    while len(directories) < max(2, count // 12):
        parent = dice.choice(directories)
        if parent.count("/") < 6:
            directories.append(f"{parent}part{len(directories)}/")
    return [f"{dice.choice(directories)}source{number}.txt" for number in range(count)]


class Assets:
    """Makes repositories, archives and packages once, below a directory on the disk."""

    def __init__(self, directory):
        """Nothing is made before it is asked for."""
        self.directory = Path(directory)
        self.made = {}
        self.pool = text_pool(random.Random(3))

    def once(self, name, make):
        """The path of what `make` fills, made at the first call."""
        if name not in self.made:
            path = self.directory / name
            make(path)
            self.made[name] = path
        return self.made[name]

    def repository(self, files, commits):
        """A repository with `files` files on its main branch, and a branch that differs in a fifth."""
        return self.once(f"repository-{files}", lambda path: self.make_repository(path, files, commits))

    def make_repository(self, path, files, commits):
        """Commit all files, change some in every further commit, and pack the result."""
        dice = random.Random(files)
        paths = source_names(dice, files)
        git("init", "-q", "-b", "main", path)
        self.write_sources(path, paths, dice)
        for commit in range(commits):
            if commit > 0:
                self.write_sources(path, dice.sample(paths, files // 40), dice)
            self.commit(path, commit)
        git("checkout", "-q", "-b", "other", cwd=path)
        self.write_sources(path, dice.sample(paths, files // 5), dice)
        self.commit(path, commits)
        git("checkout", "-q", "main", cwd=path)
        git("gc", "-q", cwd=path)

    @staticmethod
    def commit(path, number):
        """Commit everything."""
        git("add", "-A", cwd=path)
        date = f"2024-02-{number % 28 + 1:02}T00:00:00Z"
        git("commit", "-q", "-m", f"Change {number}", cwd=path, date=date)

    def write_sources(self, top, paths, dice):
        """Write each file with new text."""
        for name in paths:
            target = top / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source_text(dice, self.pool))

    def tarball(self, files):
        """An archive, not compressed, of a source tree."""
        return self.once("source.tar", lambda path: self.make_tarball(path, files))

    def make_tarball(self, path, files):
        """Add each file with a fixed date."""
        dice = random.Random(5)
        with tarfile.open(path, "w") as archive:
            for name in source_names(dice, files):
                text = source_text(dice, self.pool)
                member = tarfile.TarInfo(f"source/{name}")
                member.size, member.mtime = len(text), 1_700_000_000
                archive.addfile(member, io.BytesIO(text))

    def crate(self):
        """A crate of forty modules without dependencies."""
        return self.once("crate", self.make_crate)

    @staticmethod
    def make_crate(path):
        """Write modules that each have some types and functions."""
        modules = range(40)
        (path / "src").mkdir(parents=True)
        # The empty workspace keeps cargo from looking for one in the directories above.
        manifest = '[package]\nname = "modules"\nversion = "0.1.0"\nedition = "2021"\n\n[workspace]\n'
        (path / "Cargo.toml").write_text(manifest)
        for module in modules:
            (path / "src" / f"module{module}.rs").write_text("\n".join(map(rust_type, range(25))))
        uses = "".join(f"mod module{module};\n" for module in modules)
        calls = "".join(f"    total += module{module}::Thing{module % 25}::new(7).sum();\n"
                        for module in modules)
        main = f"#![allow(dead_code)]\n{uses}\nfn main() {{\n    let mut total = 0;\n{calls}"
        (path / "src" / "main.rs").write_text(main + '    println!("{total}");\n}\n')

    def package(self):
        """A package for npm with its lock file; npm's cache holds all that it needs."""
        return self.once("package", self.make_package)

    @staticmethod
    def make_package(path):
        """Write the package, resolve its dependencies and install them once."""
        path.mkdir()
        (path / "package.json").write_text(
            '{"name": "bench", "version": "1.0.0", "private": true, "dependencies": {"express": "4.21.2", '
            '"webpack": "5.97.1", "webpack-cli": "6.0.1", "eslint": "9.17.0"}}\n')
        try:
            run("npm", "install", "--package-lock-only", "--no-audit", "--no-fund", cwd=path)
            npm_install(path)
        except RuntimeError as error:
            raise Skip(f"needs npm's registry ({error})") from None


def rust_type(number):
    """A type of Rust with a few functions and derived traits."""
    return f"""
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Thing{number} {{
    pub numbers: Vec<u64>,
    pub text: String,
}}

impl Thing{number} {{
    pub fn new(count: u64) -> Self {{
        let numbers: Vec<u64> = (0..count).map(|value| value * {number} + 1).collect();
        let text = numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        Self {{ numbers, text }}
    }}

    pub fn sum(&self) -> u64 {{
        self.numbers.iter().filter(|value| **value % 2 == 1).sum::<u64>() + self.text.len() as u64
    }}
}}
"""
