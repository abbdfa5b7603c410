//! The director of a scenario: worker, control side, and both wires.

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::{Result, anyhow, bail};
use dataplane::units::Mac;
use serde_json::Value;

use crate::oracle::dissect::dissect;
use crate::oracle::language;
use crate::oracle::purpose::Out;
use crate::oracle::rules::{MACS, Rules};
use crate::rig::Rig;

/// Flows that a scenario may have at a time.
const FLOWS: u32 = 32_768;

/// Rules, the worker under them, and what it sent last.
pub struct Director {
    /// The worker.
    pub rig: Rig,
    /// The control side.
    pub rules: Rules,
    macs: HashMap<[u8; 6], String>,
    last: HashMap<String, Vec<u8>>,
}

impl Director {
    /// A director in the world of the recordings, with real servers' Ethernet addresses.
    pub fn new(scenario: &Value, vips: Vec<IpAddr>, servers: &HashMap<IpAddr, Mac>) -> Result<Self> {
        let rig = Rig::with_flows(1, FLOWS);
        let rules = Rules::new(scenario, vips, servers, &rig.links, u64::from(rig.now.0))?;
        let macs = servers.iter().map(|(a, mac)| (mac.0, a.to_string())).collect();
        Ok(Self { rig, rules, macs, last: HashMap::new() })
    }

    /// The time, milliseconds.
    pub fn now(&self) -> u64 {
        u64::from(self.rig.now.0)
    }

    /// The control side's turn, and the workers'.
    pub fn tick(&mut self) {
        self.rules.tick(self.now());
        self.rig.run();
    }

    /// Lets time pass.
    pub fn sleep_ms(&mut self, ms: u32) {
        for _ in 0..ms / 250 {
            self.rig.sleep_ms(250);
            self.tick();
        }
        self.rig.sleep_ms(ms % 250);
        self.tick();
    }

    /// One ipvsadm line: exit code and standard error.
    pub fn ipvsadm(&mut self, line: &str, stdin: &str) -> (i32, String) {
        let now = self.now();
        let answer = self.rules.run(line, stdin, now);
        self.rig.run();
        answer
    }

    /// The packet that a description quotes, null if none.
    pub fn quoted(&self, text: &str) -> Value {
        language::quotes(text).and_then(|q| self.last.get(q)).map_or(Value::Null, |p| dissect(p, false))
    }

    /// Sends a described packet and returns what came out.
    ///
    /// # Errors
    /// When the description is not understood.
    pub fn send(&mut self, side: &str, text: &str) -> Result<Vec<Out>> {
        let inner = match language::quotes(text) {
            Some(q) => Some(self.last.get(q).cloned().ok_or_else(|| anyhow!("`{q}` was not sent before: {text}"))?),
            None => None,
        };
        let packets = language::build(text, inner.as_deref()).ok_or_else(|| anyhow!("not understood: {text}"))?;
        let (port, to) = match side {
            "c" => (0, MACS[0]),
            "s" => (1, MACS[1]),
            _ => bail!("there is no side `{side}`: {text}"),
        };
        let mut frames = Vec::new();
        for p in packets {
            let ethertype: [u8; 2] = if p[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
            frames.extend(self.rig.send(port, &[&to.0[..], &[2, 0, 0, 0, 9, 9], &ethertype, &p].concat()));
        }
        self.tick();
        Ok(frames.into_iter().map(|(port, f)| self.out(port, &f)).collect())
    }

    fn out(&mut self, port: usize, frame: &[u8]) -> Out {
        let (side, p) = (if port == 0 { "c" } else { "s" }, &frame[14..]);
        let to = frame.first_chunk::<6>().and_then(|mac| self.macs.get(mac)).cloned();
        // `last` is what the director last sent, per side; a server's address what went to it.
        if p.len() >= 20 && !matches!(p[if p[0] >> 4 == 4 { 9 } else { 6 }], 1 | 58) {
            self.last.insert("last".into(), p.to_vec());
            self.last.insert(format!("last-{side}"), p.to_vec());
            if let Some(server) = &to {
                self.last.insert(server.clone(), p.to_vec());
            }
        }
        Out { side, ip: dissect(p, false), len: p.len(), to }
    }
}
