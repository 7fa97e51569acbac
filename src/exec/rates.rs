//! What adapters do a second: as measured, else as assumed for their class.
//!
//! Measures nothing (`probe` does) and reads no files. Assumptions are those of a class's lesser members, so that a
//! plan promises too little rather than too much. Invariant: a figure measured with another driver is not used.

use std::collections::BTreeMap;

use crate::gpu::AdapterInfo;
use crate::plan::Rates;

/// By [`AdapterInfo::kind`]: memory in GB/s, unpacking in billions of weights a second, bus, reads in place and staging
/// in GB/s, arithmetic in TFLOP/s, dispatch and crossing in µs.
const ASSUMED: [(&str, [f64; 8]); 4] = [
    ("discrete", [300.0, 250.0, 8.0, 8.0, 6.0, 10.0, 5.0, 100.0]),
    ("integrated", [40.0, 30.0, 8.0, 8.0, 6.0, 0.5, 12.0, 150.0]),
    ("virtual", [100.0, 80.0, 5.0, 5.0, 4.0, 2.0, 12.0, 300.0]),
    // two cores under llvmpipe
    ("software", [3.0, 2.0, 3.0, 3.0, 2.0, 0.02, 60.0, 100.0]),
];

/// Discrete adapters with this much memory are built for servers, with faster memory on faster buses.
const LARGE: (u64, [f64; 8]) = (36_000_000_000, [1300.0, 1300.0, 20.0, 20.0, 15.0, 50.0, 5.0, 60.0]);

/// Bytes a second that a host reads of its memory: two channels of DDR4.
const ASSUMED_HOST: f64 = 30e9;

/// What was measured: on adapters, each with its driver, and on the host.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct MeasuredRates {
    adapters: BTreeMap<String, Rates>,
    /// Bytes that the host's cores read of its memory a second.
    host: Option<f64>,
}

impl MeasuredRates {
    /// Keeps what was measured on an adapter.
    pub fn insert(&mut self, info: &AdapterInfo, rates: Rates) {
        self.adapters.insert(identity(info), rates);
    }

    /// What was measured on an adapter, where it was.
    pub fn get(&self, info: &AdapterInfo) -> Option<Rates> {
        self.adapters.get(&identity(info)).copied()
    }

    /// Keeps what was measured on the host: bytes read a second.
    pub fn insert_host(&mut self, memory: f64) {
        self.host = Some(memory);
    }

    /// Whether the host was measured.
    pub const fn has_host(&self) -> bool {
        self.host.is_some()
    }

    /// Bytes that the host reads a second, as measured or assumed.
    pub(super) fn host(&self) -> f64 {
        self.host.unwrap_or(ASSUMED_HOST)
    }
}

/// The adapter, where it sits, and what drives it.
pub(super) fn identity(info: &AdapterInfo) -> String {
    [&info.name, &info.pci_bus_id, &info.backend, &info.driver].map(String::as_str).join(" | ")
}

/// What an adapter of this class is taken to do.
pub(super) fn assumed(info: &AdapterInfo) -> Rates {
    let line = ASSUMED.iter().find(|(kind, _)| *kind == info.kind).unwrap_or(&ASSUMED[1]).1;
    let large = info.kind == "discrete" && info.memory.is_some_and(|memory| memory.total >= LARGE.0);
    let [memory, unpacking, bus, in_place, staging, compute, dispatch, crossing] = if large { LARGE.1 } else { line };
    Rates {
        memory: memory * 1e9,
        unpacking: unpacking * 1e9,
        bus: bus * 1e9,
        in_place: in_place * 1e9,
        staging: staging * 1e9,
        flops: compute * 1e12,
        dispatch: dispatch * 1e-6,
        crossing: crossing * 1e-6,
    }
}
