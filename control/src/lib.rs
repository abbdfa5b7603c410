//! What operators touch: configuration, API, statistics. Never links DPDK.
//!
//! A change takes a straight line ([`engine`]): request, validated [`model`], state file,
//! compiled snapshot, published to the workers, answer.
#![deny(unsafe_code)]

pub mod compile;

pub mod config;

pub mod ids;

pub mod ipvsadm;

pub mod model;

pub mod neighbour;

pub mod state;

pub mod topology;

pub mod vips;

pub mod engine;

pub mod api;

pub mod client;

pub mod ctl;

pub mod openapi;

pub mod server;
