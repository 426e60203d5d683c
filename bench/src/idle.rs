//! `torc-bench idle`: what connections cost which say nothing.

use crate::client::{self, Client, Greeting};
use crate::error::Error;
use crate::process;
use crate::run::{check_open_files, seconds};
use crate::system;
use clap::Args;
use serde_json::json;
use std::time::{Duration, Instant};

#[derive(Args, Clone, Debug)]
pub struct IdleArgs {
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    #[arg(long, default_value_t = 6379)]
    pub port: u16,
    /// Processes of the server.
    #[arg(long, value_delimiter = ',', required = true)]
    pub pid: Vec<u32>,
    #[arg(long, default_value_t = 10_000)]
    pub connections: usize,
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    #[arg(long)]
    pub auth: Option<String>,
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &IdleArgs) -> Result<(), Error> {
    check_open_files(args.connections)?;
    system::catch_signals();
    let window = seconds(args.seconds)?;
    let address = client::resolve(&args.host, args.port)?;
    let greeting = Greeting { auth: args.auth.clone(), resp3: false };
    let empty = process::sample(&args.pid)?;
    let mut clients = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        system::check_interrupt()?;
        let mut client = Client::connect(&address, Duration::from_secs(5), &greeting)?;
        client.call(&[b"PING"])?;
        clients.push(client);
    }
    // What the last connections left to do is not idling.
    system::sleep(Duration::from_secs(1))?;
    let before = process::sample(&args.pid)?;
    let start = Instant::now();
    system::sleep(window)?;
    let elapsed = start.elapsed().as_secs_f64();
    let after = process::sample(&args.pid)?;
    for client in &mut clients {
        client.call(&[b"PING"])?;
    }
    let cpu_percent = after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / elapsed / 1e7;
    let growth = after.rss_bytes as f64 - empty.rss_bytes as f64;
    let per_connection = growth / args.connections as f64;
    if args.json {
        let result = json!({
            "connections": args.connections,
            "seconds": elapsed,
            "server_cpu_percent": cpu_percent,
            "rss_bytes_before": empty.rss_bytes,
            "rss_bytes_after": after.rss_bytes,
            "rss_bytes_per_connection": per_connection,
        });
        println!("{result:#}");
        return Ok(());
    }
    println!("{} idle connections over {elapsed:.1} s, all alive at the end", args.connections);
    println!("  server CPU {cpu_percent:.3} % of one core");
    println!(
        "  server RSS {:.1} -> {:.1} MiB, {per_connection:.0} bytes a connection (socket buffers of the kernel not included)",
        empty.rss_bytes as f64 / 1048576.0,
        after.rss_bytes as f64 / 1048576.0
    );
    Ok(())
}
