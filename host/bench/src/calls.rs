//! `waza-bench calls`.

use anyhow::Result;
use clap::Args;
use serde_json::json;
use waza_robot::sim::{SceneSpec, Simulator};
use waza_runtime::{Host, HostOptions};
use waza_toolchain::Build;

use crate::stage::{Stage, build_guests, guests};

#[derive(Debug, Args)]
pub struct Calls {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Calls {
    pub fn run(self) -> Result<()> {
        build_guests(Build::Packages(&["probe"]))?;
        // Robot time that stands still would wake the probe at every call.
        let stage = Stage::open()?;
        let simulator = Simulator::new(stage.embodiment.clone(), &SceneSpec::tabletop(), 0);
        let host = stage.host(simulator, HostOptions::default())?;
        let probe = host.load(&guests().join("probe"))?;
        let costs = pollster::block_on(waza_runtime::bench::calls(&host, probe.as_str()))?;
        let [sync, asynchronous, instantiate] =
            [costs.sync_import, costs.async_import, costs.instantiate].map(|cost| cost.as_nanos() as u64);
        let grpc = over_grpc(&host)?;
        let ratio = grpc.map(|grpc| grpc as f64 / sync.max(1) as f64);
        if self.json {
            println!(
                "{}",
                json!({
                    "sync_import_ns": sync, "async_import_ns": asynchronous, "instantiate_ns": instantiate,
                    "grpc_ns": grpc, "grpc_ratio": ratio,
                })
            );
        } else {
            println!("synchronous import   {sync:>8} ns");
            println!("asynchronous import  {asynchronous:>8} ns");
            println!("instantiate          {instantiate:>8} ns");
            if let Some((grpc, ratio)) = grpc.zip(ratio) {
                println!("the same over gRPC   {grpc:>8} ns, {ratio:.0} times a synchronous import");
            }
        }
        Ok(())
    }
}

/// The same call over gRPC, ns, in a build that has it.
#[cfg(feature = "grpc")]
fn over_grpc(host: &Host) -> Result<Option<u64>> {
    Ok(Some(crate::grpc::call(host.robot())?.as_nanos() as u64))
}

#[cfg(not(feature = "grpc"))]
fn over_grpc(_: &Host) -> Result<Option<u64>> {
    Ok(None)
}
