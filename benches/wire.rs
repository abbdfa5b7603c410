//! Bytes and fields: checksums, and the parsing of headers.
//!
//! `cargo bench -p pollux-dataplane --bench wire [-- FILTER]`

mod rig;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use dataplane::wire::{checksum, ipv4, ipv6, tcp, vlan};
use rig::traffic::{ACK, Stamp, Template, Way, is_sound};

fn checksums(c: &mut Criterion) {
    let data: Vec<u8> = (0..9000u32).map(|n| (n * 7) as u8).collect();
    let mut group = c.benchmark_group("checksum");
    for len in [20, 40, 64, 576, 1480, 8960] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::new("sum", len), &data[..len], |b, d| {
            b.iter(|| checksum::sum(black_box(d)))
        });
    }
    group.throughput(Throughput::Elements(1));
    let header: [u8; 20] = std::array::from_fn(|n| n as u8);
    group.bench_function("ipv4 header", |b| b.iter(|| checksum::sum_header(black_box(&header))));
    group.bench_function("delta of an address", |b| {
        b.iter(|| checksum::delta(black_box(&header[12..16]), black_box(&header[16..20])));
    });
    group.bench_function("apply a delta", |b| b.iter(|| checksum::apply(black_box(0x1234), black_box(0x4321))));
}

fn parsing(c: &mut Criterion) {
    let frame = |six| Template::new(six, Way::Request, ACK).frame(Stamp { client: 0x0b00_0001, port: 1024, peer: 0 });
    let (four, six) = (frame(false), frame(true));
    assert!(is_sound(&four) && is_sound(&six), "the frames are right");
    let mut group = c.benchmark_group("parse");
    group.bench_function("ethernet and vlan", |b| b.iter(|| vlan::parse(black_box(&four))));
    group.bench_function("ipv4", |b| b.iter(|| ipv4::Header::new_checked(black_box(&four[14..]), 40).is_ok()));
    group.bench_function("ipv6", |b| b.iter(|| ipv6::Header::new_checked(black_box(&six[14..]), 60).is_ok()));
    group.bench_function("tcp", |b| b.iter(|| tcp::Tcp::new_checked(black_box(&four[34..]), 20).is_some()));
}

fn main() {
    let mut c = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    checksums(&mut c);
    parsing(&mut c);
    c.final_summary();
}
