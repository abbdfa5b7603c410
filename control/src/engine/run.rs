//! The engine as a task: requests, a tick, signals.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::core::Engine;
use super::handle::Envelope;
use super::request::{Reply, Request, Response};

/// Between two ticks.
const TICK: Duration = Duration::from_millis(10);
/// Between two ticks while an answer is waited for, at first: with the kernel's timer slack 70 µs, far less than
/// the event loop's timer can tell.
const NAP: Duration = Duration::from_micros(20);
/// So many of them, about a millisecond, in which workers nearly always answer.
const NAPS: u32 = 16;
/// Between two ticks while it is waited for longer.
const SHORT_TICK: Duration = Duration::from_millis(1);

/// Names an answer that comes later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket(pub u64);

/// How far a request has come.
#[derive(Debug)]
pub enum Progress {
    /// Answered.
    Done(Reply),
    /// A later tick has the answer.
    Pending(Ticket),
}

/// Serves requests until `shutdown` is done or every handle is gone. `clock` gives the
/// milliseconds since the daemon's epoch. `hangup` (SIGHUP) reads the configuration file again.
pub async fn run(
    mut engine: Engine,
    mut requests: mpsc::Receiver<Envelope>,
    mut hangup: tokio::signal::unix::Signal,
    clock: impl Fn() -> u64,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<Engine> {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pending: HashMap<Ticket, oneshot::Sender<Reply>> = HashMap::new();
    let mut naps = 0;
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(engine),
            _ = hangup.recv() => reload(&mut engine, clock()),
            envelope = requests.recv() => match envelope {
                None => return Ok(engine),
                Some(Envelope { request, reply }) => match engine.start(request, clock()) {
                    // Whoever asked may have gone away: then nobody needs the answer.
                    Progress::Done(answer) => drop(reply.send(answer)),
                    Progress::Pending(ticket) => {
                        naps = 0;
                        pending.insert(ticket, reply);
                    }
                },
            },
            _ = ticks.tick() => answer(&mut engine, &mut pending, clock()),
            () = pause(naps), if engine.is_waiting() => {
                naps = naps.saturating_add(1);
                answer(&mut engine, &mut pending, clock());
            }
        }
    }
}

/// The pause before the next look at what is waited for, after so many before it.
async fn pause(naps: u32) {
    if naps < NAPS {
        // Whatever else can go on does so first: the nap stops this thread.
        tokio::task::yield_now().await;
        std::thread::sleep(NAP);
    } else {
        tokio::time::sleep(SHORT_TICK).await;
    }
}

/// SIGHUP: nobody waits for the answer, so it goes to the log.
fn reload(engine: &mut Engine, now: u64) {
    match engine.handle(Request::Reload, now) {
        Ok(Response::Accepted(a)) => {
            tracing::info!(generation = a.generation, "the configuration file was read again");
            a.notes.iter().for_each(|note| tracing::warn!("{note}"));
        }
        Ok(_) => {}
        Err(e) => tracing::error!("the configuration file was read again and not used: {e}"),
    }
}

/// One tick, and the answers that it brings.
fn answer(engine: &mut Engine, pending: &mut HashMap<Ticket, oneshot::Sender<Reply>>, now: u64) {
    for (ticket, answer) in engine.tick(now) {
        if let Some(reply) = pending.remove(&ticket) {
            let _ = reply.send(answer);
        }
    }
}
