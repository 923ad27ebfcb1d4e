//! Drives a running daemon: `cargo run --example drive`.

use wsd::client::{Client, ClientOptions, Command, CommandEvent, WriteOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("WSD_URL").unwrap_or_else(|_| "ws://127.0.0.1:45678/ws".to_owned());
    let client = Client::connect(ClientOptions::new(url)).await?;
    let mut writer =
        client.write_file("notes/hello.txt", WriteOptions { make_dirs: true, ..Default::default() }).await?;
    writer.write("hello from Rust\n".into()).await?;
    println!("{} bytes written", writer.finish(true).await?.size);
    let mut command = client.exec(Command::shell("cat notes/hello.txt; ls -l notes")).await?;
    while let Some(event) = command.next().await {
        match event? {
            CommandEvent::Stdout(bytes) => print!("{}", String::from_utf8_lossy(&bytes)),
            CommandEvent::Exit(exit) => println!("exit {:?}", exit.code),
            other => println!("{other:?}"),
        }
    }
    Ok(())
}
