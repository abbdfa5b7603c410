//! Checksums left to the device: the frames on the wire are those that the software sums up.

use dataplane::snapshot::{DeviceWork, ForwardingMode, GueChecksum, Spec, Tunnel};
use proptest::prelude::*;

use super::world::*;

const CLIENTS: [&str; 2] = ["10.1.0.1:40000", "[2001:db8:1::1]:40000"];
const VIPS: [&str; 2] = ["10.9.0.1:80", "[2001:db8:9::1]:80"];
const GUE: Tunnel = Tunnel::Gue { port: 6080, checksum: GueChecksum::Udp };
const VXLAN: Tunnel = Tunnel::Vxlan { port: 4789, vni: 7 };

/// Services of both families, whose servers' addresses are of the other one if `crossed`.
fn spec(tunnel: Tunnel, crossed: bool) -> Spec {
    let mut spec = world(ForwardingMode::Tunnel, 1);
    let (four, six): (Vec<_>, Vec<_>) = spec.reals.iter().cloned().partition(|r| r.id.0 < 100);
    for real in &mut spec.reals {
        (real.tunnel, real.port) = (tunnel, 80);
        let other = if real.id.0 < 100 { &six[0] } else { &four[0] };
        if crossed {
            (real.addr, real.source, real.next_hop) = (other.addr, other.source, other.next_hop);
        }
    }
    spec
}

/// What leaves for a SYN and some data, and of how many frames the devices made the sums.
fn forwarded(
    spec: &Spec,
    family: usize,
    payload: &[u8],
    first: usize,
    checksums: bool,
) -> (Vec<(usize, Vec<u8>)>, u64) {
    let devices = vec![DeviceWork { tags: false, checksums }; 2];
    let mut rig = rig(&Spec { devices, ..spec.clone() }, 1);
    let mut out = rig.send(0, &Segment::tcp(CLIENTS[family], VIPS[family], SYN).frame(CLI));
    let data = Segment::tcp(CLIENTS[family], VIPS[family], ACK).at(1001, 5001).payload(payload).frame(CLI);
    rig.wire.push_chained(0, 0, &data, first);
    rig.run();
    out.extend(rig.take());
    assert_eq!(rig.wire.live(), 0);
    (out, rig.wire.summed())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_device_comes_to_the_same_checksums(
        payload in prop::collection::vec(any::<u8>(), 0..1300), crossed: bool, family in 0..2_usize, first in 74..1500_usize,
    ) {
        for tunnel in [GUE, VXLAN] {
            let spec = spec(tunnel, crossed);
            let (software, none) = forwarded(&spec, family, &payload, first, false);
            let (device, summed) = forwarded(&spec, family, &payload, first, true);
            prop_assert_eq!((software.len(), none), (2, 0));
            prop_assert_eq!(software, device);
            // Over IPv4, VXLAN has no checksum.
            let over_v6 = (family == 1) != crossed;
            prop_assert_eq!(summed, if tunnel == GUE || over_v6 { 2 } else { 0 });
        }
    }
}

#[test]
fn what_leaves_in_pieces_is_summed_here() {
    // A client that may not be told of the smaller path: without DF the outer packet is cut.
    let mut spec = spec(GUE, false);
    spec.settings.pmtu_disc = false;
    let (software, _) = forwarded(&spec, 0, &[7; 1460], 2000, false);
    let (device, summed) = forwarded(&spec, 0, &[7; 1460], 2000, true);
    assert_eq!((software.len(), summed), (3, 1), "the SYN, and two pieces");
    assert_eq!(software, device);
}
