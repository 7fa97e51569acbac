//! What adapters do a second: as measured, else as assumed for their class.
//!
//! Measures nothing (`probe` does) and reads no files. Assumptions are those of a class's lesser members, so that a
//! plan promises too little rather than too much. Invariant: a figure measured with another driver is not used.

use std::collections::BTreeMap;

use crate::gpu::AdapterInfo;
use crate::plan::Rates;

/// By [`AdapterInfo::kind`]: memory and bus in GB/s, arithmetic in TFLOP/s, dispatch and crossing in µs.
const ASSUMED: [(&str, [f64; 5]); 4] = [
    ("discrete", [300.0, 8.0, 10.0, 3.0, 150.0]),
    ("integrated", [40.0, 8.0, 0.5, 10.0, 150.0]),
    ("virtual", [100.0, 5.0, 2.0, 10.0, 300.0]),
    // two cores under llvmpipe
    ("software", [3.0, 3.0, 0.02, 60.0, 100.0]),
];

/// What was measured, by adapter and driver.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct MeasuredRates(BTreeMap<String, Rates>);

impl MeasuredRates {
    /// Keeps what was measured on an adapter.
    pub fn insert(&mut self, info: &AdapterInfo, rates: Rates) {
        self.0.insert(identity(info), rates);
    }

    /// What was measured on an adapter, where it was.
    pub fn get(&self, info: &AdapterInfo) -> Option<Rates> {
        self.0.get(&identity(info)).copied()
    }
}

/// The adapter, where it sits, and what drives it.
fn identity(info: &AdapterInfo) -> String {
    [&info.name, &info.pci_bus_id, &info.backend, &info.driver].map(String::as_str).join(" | ")
}

/// What an adapter of this class is taken to do.
pub(super) fn assumed(info: &AdapterInfo) -> Rates {
    let line = ASSUMED.iter().find(|(kind, _)| *kind == info.kind).unwrap_or(&ASSUMED[1]);
    let [memory, bus, compute, dispatch, crossing] = line.1;
    Rates {
        memory: memory * 1e9,
        bus: bus * 1e9,
        flops: compute * 1e12,
        dispatch: dispatch * 1e-6,
        crossing: crossing * 1e-6,
    }
}
