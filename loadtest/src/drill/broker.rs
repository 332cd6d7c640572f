//! A broker that closes connections, goes away, comes back and takes no messages: one of the drill's own,
//! or, where none can be started, the usual one behind a proxy that resets connections. Either way a proxy
//! reads along, to see deliveries that come again.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::deck::Deck;
use super::deliveries::Redeliveries;
use super::frame::{Faults, Setup};
use super::scene::{Scene, seen};
use crate::proxy::{Proxy, Rule};
use crate::report::Check;
use crate::rig::{Private, Rig, Unavailable, Ways};

/// RabbitMQ 3.10 loses a quorum queue that is stopped right after it was declared.
const SETTLE: Duration = Duration::from_secs(4);
const RENEWED: &str = "the consuming connection to RabbitMQ is renewed";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Every connection is closed; the broker itself goes on.
    Close,
    /// The broker's application stops and starts.
    Stop,
    /// The whole process ends and starts.
    Restart,
    /// It is short of memory, and takes no messages for a while.
    Alarm,
}

const FAULTS: [Fault; 4] = [Fault::Close, Fault::Stop, Fault::Restart, Fault::Alarm];

pub(super) struct Broker {
    services: Option<Private>,
    proxy: Option<Proxy>,
    redeliveries: Redeliveries,
    faults: [u64; 4],
    struck: u64,
}

impl Broker {
    pub(super) async fn start() -> Result<Self> {
        let services = match Private::start("rabbitmq").await {
            Ok(services) => Some(services),
            Err(error) if error.is::<Unavailable>() => {
                eprintln!("{error:#}\nthe usual broker is used, behind a proxy that resets connections");
                None
            }
            Err(error) => return Err(error),
        };
        let redeliveries = Redeliveries::default();
        Ok(Self { services, proxy: None, redeliveries, faults: [0; 4], struck: 0 })
    }

    async fn strike(&mut self, fault: Fault, scene: &mut Scene<'_>) -> Result<()> {
        let Some(services) = &self.services else { return Ok(()) };
        scene.mark(format!("broker: {fault:?}"));
        match fault {
            Fault::Close => {
                services.ctl(&["rabbitmqctl", "close_all_connections", "drill"]).await?;
            }
            Fault::Stop => {
                services.ctl(&["rabbitmqctl", "stop_app"]).await?;
                scene.pause(500..3_000).await;
                services.ctl(&["rabbitmqctl", "start_app"]).await?;
            }
            Fault::Restart => services.act("restart", "rabbitmq").await?,
            Fault::Alarm => {
                services.ctl(&["rabbitmqctl", "set_vm_memory_high_watermark", "0.00001"]).await?;
                scene.pause(500..3_000).await;
                services.ctl(&["rabbitmqctl", "set_vm_memory_high_watermark", "0.4"]).await?;
            }
        }
        self.faults[fault as usize] += 1;
        Ok(())
    }
}

impl Faults for Broker {
    const NAME: &'static str = "broker";

    fn shape(&self, setup: &mut Setup) {
        if let Some(services) = &self.services {
            services.shape(&mut setup.rig);
        }
        // A delivery is with a worker for as long as its call: some always are.
        setup.rig.provider.latency.base_ms = 400.0;
    }

    async fn stand_between(&mut self, rig: &mut Rig) -> Result<()> {
        if self.services.is_some() {
            tokio::time::sleep(SETTLE).await;
        }
        let [_, broker, _] = rig.services().await?;
        let proxy = Proxy::overheard(broker, self.redeliveries.listen()).await?;
        rig.lead_workers(Ways { broker: Some(proxy.addr()), ..Ways::default() })?;
        self.proxy = Some(proxy);
        Ok(())
    }

    async fn unfold(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        let mut deck = Deck::new(&FAULTS);
        while !deck.is_through() || !scene.is_over() {
            let fault = deck.draw(&mut scene.dice);
            scene.pause(500..2_000).await;
            if self.services.is_some() {
                self.strike(fault, scene).await?;
            } else {
                let proxy = self.proxy.as_ref().context("a proxy stands before the broker")?;
                scene.mark("broker: reset");
                self.struck += proxy.strike(Rule::Reset) as u64;
            }
        }
        Ok(())
    }

    async fn evidence(&self, scene: &Scene<'_>) -> Result<Vec<Check>> {
        let renewed = scene.logged(RENEWED);
        let lost = seen(
            "Workers lost their connections to the broker and made new ones",
            renewed > 0,
            format!("{renewed} times by the workers' logs"),
        );
        let again = self.redeliveries.count();
        let again = seen("Deliveries came again", again > 0, format!("{again} redeliveries on the wire"));
        let failed = if self.services.is_some() {
            let told: Vec<String> =
                FAULTS.iter().map(|fault| format!("{fault:?} {}", self.faults[*fault as usize])).collect();
            let all = self.faults.iter().all(|times| *times > 0);
            seen("The broker failed in every way", all, told.join(", "))
        } else {
            let reset = self.proxy.as_ref().map_or(0, |proxy| proxy.done().reset);
            let name = "Connections to the broker were reset while they were alive";
            seen(name, reset > 0, format!("{reset} of {} struck", self.struck))
        };
        Ok(vec![failed, lost, again])
    }
}
