//! `wsd gc`.

use super::{StoreArg, complain, say};
use crate::store::Store;
use clap::Args;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct GcArgs {
    #[command(flatten)]
    store: StoreArg,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn gc(args: &GcArgs) -> ExitCode {
    let report =
        match args.store.path().and_then(|path| Store::open_existing(&path)).and_then(|store| store.gc()) {
            Ok(report) => report,
            Err(error) => return complain(error, 1),
        };
    if args.json {
        say(serde_json::json!(report));
    } else {
        say(format_args!("chunks deleted: {} ({} bytes)", report.chunks, report.bytes));
        say(format_args!("store file: {} bytes, was {}", report.size_after, report.size_before));
    }
    ExitCode::SUCCESS
}
