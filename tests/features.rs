//! What goes beyond plain forwarding, end to end, on ports in memory.

mod features {
    mod answers;
    mod client_address;
    mod cut;
    mod fast;
    mod ftp;
    mod full_nat;
    mod handoff;
    mod jumbo;
    mod offload;
    mod overload;
    mod ping;
    mod replace;
    mod reuse;
    mod vlan;
    mod workers;
    mod world;
}
