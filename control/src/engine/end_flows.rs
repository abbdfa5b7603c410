//! Ending flows on request, before their time.

use dataplane::link::Command;

use super::core::Engine;
use super::report::Accepted;
use super::request::EndFlows;
use crate::model::{Error, ErrorCode, ServerKey};

impl Engine {
    /// Asks every worker to end flows. They do it in slices between bursts, so the flows
    /// of a large table are gone some milliseconds after the answer.
    pub(super) fn end_flows(&self, asked: &EndFlows) -> Result<Accepted, Error> {
        let command = match (asked.service, asked.server, asked.all) {
            (None, None, true) => Command::FlushAll,
            (Some(service), None, false) => {
                let id = self.ids.service(&service).filter(|_| self.services.contains(&service));
                Command::FlushService(id.ok_or_else(|| Error::no_such_service(&service))?)
            }
            (Some(service), Some(server), false) => {
                let port = if server.port == 0 { service.port() } else { server.port };
                let server = ServerKey { port, ..server };
                self.services.get(&service)?;
                // One that was removed and still has flows is found as well.
                let id = self.ids.real(&service, &server);
                Command::FlushReal(id.ok_or_else(|| Error::no_such_server(&service, &server))?)
            }
            (None, Some(server), _) => {
                let m = format!("the real server {server} is named without its service");
                return Err(Error::invalid("server", m).remedy("name the service as well"));
            }
            (None, None, false) => {
                return Err(Error::invalid("service", "it was not said which flows to end")
                    .remedy("name a service, a service and its real server, or ask for `all`"));
            }
            (Some(service), _, true) => {
                let m = format!("all flows and those of {service} are asked for at once");
                return Err(Error::invalid("all", m).remedy("ask for one of the two"));
            }
        };
        // Told to those that have room even if one has not: ending twice does no harm.
        let full = self.links.iter().filter(|l| l.commands.push(command).is_err()).count();
        if full > 0 {
            let m = format!("{full} of {} workers have too much to do to end flows", self.links.len());
            return Err(Error::new(ErrorCode::Busy, m).remedy("try again in a moment"));
        }
        Ok(self.accepted(Vec::new()))
    }
}
