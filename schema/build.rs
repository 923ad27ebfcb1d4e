//! Turns the compiled schema (`wsd.bin`, made by `scripts/gen-schema.sh`) into Rust. Needs no C++ tool.

use std::env;
use std::fs::File;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=wsd.bin");
    let target = PathBuf::from(env::var("OUT_DIR")?);
    let request = File::open("wsd.bin")?;
    capnpc::codegen::CodeGenerationCommand::new().output_directory(target).run(request)?;
    Ok(())
}
