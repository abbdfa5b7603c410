//! What a few flows need beyond their record: full NAT's local address and port, and what
//! shifts the sequence numbers of a connection.
//!
//! A flow with [`flags::EXTENDED`](super::record::flags::EXTENDED) holds the number of its
//! extension. Room for all is reserved once; memory is touched as it is used, so that a
//! director without such flows pays nothing, and none is asked of the system afterwards.

use serde::{Deserialize, Serialize};

use super::memory::prefetch_near;
use super::sequence::Shift;
use super::table::FlowId;
use crate::units::{Be16, Ip};

/// How a real server is told a client's address, besides the packet's source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAddress {
    /// Not at all.
    #[default]
    None,
    /// By the PROXY protocol, version 2, in front of the first data.
    Proxy,
    /// By a TCP option in the segments that open the connection.
    Toa,
}

/// One flow's extension: one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct Extension {
    /// The flow it belongs to; [`FlowId::NONE`] when it is free.
    pub flow: FlowId,
    /// The persistence template of the flow, or [`FlowId::NONE`].
    pub template: FlowId,
    /// Full NAT: the address that the real server sees instead of the client's.
    pub local: Ip,
    /// Full NAT: the port beside it.
    pub local_port: Be16,
    /// How the real server is told the client's address.
    pub tells: ClientAddress,
    /// FTP's control connection: read for data connections.
    pub ftp: bool,
    /// The client's SYN was seen, with the sequence number `isn`.
    pub started: bool,
    /// The client's first sequence number.
    pub isn: u32,
    /// Sequence numbers from the client.
    pub to_server: Shift,
    /// Sequence numbers from the real server.
    pub to_client: Shift,
}

const _: () = assert!(size_of::<Extension>() == 64);

impl Extension {
    /// Of no flow yet.
    pub const EMPTY: Self = Self {
        flow: FlowId::NONE,
        template: FlowId::NONE,
        local: Ip::UNSPECIFIED,
        local_port: Be16([0; 2]),
        tells: ClientAddress::None,
        ftp: false,
        started: false,
        isn: 0,
        to_server: Shift::NONE,
        to_client: Shift::NONE,
    };

    /// Whether the flow is known under its local address and port as well.
    #[inline]
    pub fn has_local(&self) -> bool {
        self.local_port != Be16([0; 2])
    }

    /// Whether the flow's TCP segments need a look.
    #[inline]
    pub fn edits(&self) -> bool {
        self.ftp || self.tells != ClientAddress::None
    }
}

/// All extensions of one worker.
#[derive(Debug)]
pub struct Extensions {
    items: Vec<Extension>,
    free: Vec<u32>,
    most: usize,
    /// Where the search for a local port goes on.
    pub cursor: u32,
}

impl Extensions {
    /// Room for `most` of them.
    pub fn new(most: u32) -> Self {
        let most = most as usize;
        Self { items: Vec::with_capacity(most), free: Vec::with_capacity(most), most, cursor: 0 }
    }

    /// How many are in use.
    pub fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }
    /// Whether none is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a free one; `None` when all are in use.
    pub fn take(&mut self, with: Extension) -> Option<u32> {
        let id = match self.free.pop() {
            Some(id) => id,
            None if self.items.len() < self.most => {
                self.items.push(Extension::EMPTY);
                (self.items.len() - 1) as u32
            }
            None => return None,
        };
        *self.items.get_mut(id as usize)? = with;
        Some(id)
    }

    /// Gives one back and returns what it held.
    pub fn give(&mut self, id: u32) -> Option<Extension> {
        let held = std::mem::replace(self.items.get_mut(id as usize)?, Extension::EMPTY);
        self.free.push(id);
        Some(held)
    }

    /// Brings one of them in.
    #[inline(always)]
    pub fn prefetch(&self, id: u32) {
        if let Some(e) = self.items.get(id as usize) {
            prefetch_near(e);
        }
    }

    /// One of them.
    #[inline]
    pub fn get(&self, id: u32) -> Option<&Extension> {
        self.items.get(id as usize)
    }
    /// One of them, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: u32) -> Option<&mut Extension> {
        self.items.get_mut(id as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_taken_again_and_no_more_than_there_is_room_for() {
        let mut e = Extensions::new(2);
        let of = |n| Extension { flow: FlowId(n), ..Extension::EMPTY };
        let (a, b) = (e.take(of(1)).unwrap(), e.take(of(2)).unwrap());
        assert_eq!((e.take(of(3)), e.len()), (None, 2));
        assert_eq!(e.give(a), Some(of(1)));
        assert_eq!(e.len(), 1);
        assert_eq!(e.take(of(3)), Some(a));
        assert_eq!((e.get(a).unwrap().flow, e.get(b).unwrap().flow), (FlowId(3), FlowId(2)));
        assert_eq!(e.get(2), None);
    }
}
