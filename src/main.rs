//! The `wsd` command.

fn main() -> std::process::ExitCode {
    wsd::cli::main()
}
