//! `wsd check`.

use super::{StoreArg, complain, say};
use crate::store::Store;
use clap::Args;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    store: StoreArg,
    /// Do not read and hash all content
    #[arg(long)]
    quick: bool,
    /// Print a JSON array of the flaws
    #[arg(long)]
    json: bool,
}

pub(super) fn check(args: &CheckArgs) -> ExitCode {
    let flaws = match args.store.path().and_then(|path| Store::check_at(&path, !args.quick)) {
        Ok(flaws) => flaws.iter().map(ToString::to_string).collect::<Vec<_>>(),
        Err(error) => return complain(error, 1),
    };
    if args.json {
        say(serde_json::json!(flaws));
    } else {
        flaws.iter().for_each(say);
    }
    ExitCode::from(u8::from(!flaws.is_empty()))
}
