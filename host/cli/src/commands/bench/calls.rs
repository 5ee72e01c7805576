//! `waza bench calls`.

use anyhow::Result;
use clap::Args;
use serde_json::json;
use waza_robot::sim::{SceneSpec, Simulator};

use super::super::stage::{StageOptions, build};
use super::grpc;
use crate::assets::Checkout;
use crate::fault::OrBadInput;

#[derive(Debug, Args)]
pub struct Calls {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Calls {
    pub fn run(self) -> Result<()> {
        let checkout = Checkout::find()?;
        let guests = checkout.guests();
        build(&guests, &["probe"])?;
        // Robot time that stands still would wake the probe at every call.
        let stage = StageOptions::realtime_on_cpu().open(&checkout)?;
        let simulator = Simulator::new(stage.embodiment.clone(), &SceneSpec::tabletop(), 0);
        let host = stage.host(simulator)?;
        let probe = host.load(&guests.join("probe")).or_bad_input()?;
        let costs = pollster::block_on(waza_runtime::bench::calls(&host, probe.as_str()))?;
        let [sync, asynchronous, instantiate] =
            [costs.sync_import, costs.async_import, costs.instantiate].map(|cost| cost.as_nanos() as u64);
        let grpc = grpc::call(host.robot())?.as_nanos() as u64;
        let ratio = grpc as f64 / sync.max(1) as f64;
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
            println!("the same over gRPC   {grpc:>8} ns, {ratio:.0} times a synchronous import");
        }
        Ok(())
    }
}
