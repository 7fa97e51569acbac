//! Workgroup shapes that were found for adapters, as they are kept: which adapter they are for, and which are sound.
//!
//! Reads and writes text, no files. Invariant: a shape goes only to the adapter and driver that it was measured with, and
//! only where it fits what the device was opened with; what is unknown or unsound is left out, and said once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rates::identity;
use crate::gpu::{AdapterInfo, Device};
use crate::graph::{Graph, TensorKind};
use crate::ops::{Shape, TunedKernel, TuningKey};
use crate::quant::{BlockFormat, format};

/// A weight matrix, as far as kernels are concerned.
#[derive(Debug, Clone, Copy)]
pub struct WeightShape {
    /// Its format.
    pub format: &'static dyn BlockFormat,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

impl PartialEq for WeightShape {
    fn eq(&self, other: &Self) -> bool {
        (self.format.name(), self.rows, self.cols) == (other.format.name(), other.rows, other.cols)
    }
}

impl WeightShape {
    /// The weights that a graph multiplies by, those that fall under one key once, by the largest of them.
    pub fn of(graph: &Graph) -> Vec<Self> {
        let products = graph.nodes.iter().filter(|node| node.op.name() == "matmul");
        let weights = products.filter_map(|node| match graph.tensors[node.inputs[1].0].kind {
            TensorKind::Weight(id) => Some(&graph.weights[id.0]),
            _ => None,
        });
        Self::distinct(weights.map(|weight| Self { format: weight.format, rows: weight.rows(), cols: weight.cols() }))
    }

    /// Those that shapes are kept apart for, the largest of each.
    pub fn distinct(weights: impl Iterator<Item = Self>) -> Vec<Self> {
        let mut distinct: BTreeMap<TuningKey, Self> = BTreeMap::new();
        for weight in weights {
            let key = TuningKey::of(TunedKernel::Gemv, weight.format, weight.rows, weight.cols);
            let largest = distinct.entry(key).or_insert(weight);
            if weight.rows * weight.cols > largest.rows * largest.cols {
                *largest = weight;
            }
        }
        distinct.into_values().collect()
    }
}

/// A shape and what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunedShape {
    /// The matrices.
    #[serde(flatten)]
    pub key: TuningKey,
    /// The shape.
    pub shape: Shape,
}

/// The shapes that were found, by adapter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TunedShapes {
    adapters: BTreeMap<String, Vec<TunedShape>>,
}

impl TunedShapes {
    /// Reads what [`Self::to_json`] wrote. Also says what of it is not to be used, if anything.
    pub fn parse(text: &[u8]) -> (Self, Option<String>) {
        let mut shapes = Self::default();
        let value = match serde_json::from_slice::<Value>(text) {
            Ok(value) => value,
            Err(error) => return (shapes, Some(format!("not JSON: {error}"))),
        };
        let Some(adapters) = value.get("adapters").and_then(Value::as_object) else {
            return (shapes, Some("lists no adapters".into()));
        };
        let (mut wrong, mut first) = (0, None);
        for (adapter, entries) in adapters {
            for entry in entries.as_array().map(Vec::as_slice).unwrap_or_default() {
                match sound(entry) {
                    Ok(entry) => shapes.adapters.entry(adapter.clone()).or_default().push(entry),
                    Err(reason) => {
                        wrong += 1;
                        first.get_or_insert(reason);
                    }
                }
            }
        }
        let warning = first.map(|first| format!("{wrong} of its entries are not used, the first since {first}"));
        (shapes, warning)
    }

    /// As it is kept.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("names and numbers can be written")
    }

    /// Keeps what was found for these matrices on an adapter, or that nothing was.
    pub fn keep(&mut self, info: &AdapterInfo, key: &TuningKey, shape: Option<Shape>) {
        let entries = self.adapters.entry(identity(info)).or_default();
        entries.retain(|entry| entry.key != *key);
        entries.extend(shape.map(|shape| TunedShape { key: key.clone(), shape }));
    }

    /// What was found for an adapter.
    pub fn get(&self, info: &AdapterInfo) -> &[TunedShape] {
        self.adapters.get(&identity(info)).map_or(&[], Vec::as_slice)
    }

    /// Has a device use what was found for its adapter.
    pub fn apply(&self, device: &mut Device) {
        for TunedShape { key, shape } in self.get(&device.info) {
            // A lower tier may have been asked for than that it was measured in.
            if format(&key.format).is_some_and(|format| shape.fits(key.kernel, format, &device.traits)) {
                device.traits.tuning.insert(key.clone(), *shape);
            }
        }
    }
}

/// An entry, where it is of a kernel and a format that there are.
fn sound(entry: &Value) -> Result<TunedShape, String> {
    let entry: TunedShape = serde_json::from_value(entry.clone()).map_err(|error| error.to_string())?;
    if format(&entry.key.format).is_none() {
        return Err(format!("no format is called \"{}\"", entry.key.format));
    }
    if !entry.key.rows.is_power_of_two() || !entry.key.cols.is_power_of_two() {
        return Err(format!("{} by {} are no powers of two", entry.key.rows, entry.key.cols));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, driver: &str) -> AdapterInfo {
        let (name, driver, backend) = (name.into(), driver.into(), "vulkan".into());
        AdapterInfo {
            name,
            backend,
            kind: "discrete".into(),
            driver,
            pci_bus_id: "01:00".into(),
            ..AdapterInfo::default()
        }
    }

    fn key(rows: usize) -> TuningKey {
        TuningKey::of(TunedKernel::Gemv, &crate::quant::F16, rows, 2560)
    }

    const SHAPE: Shape = Shape { workgroup: 64, lanes: 16, rows: 4 };

    #[test]
    fn shapes_are_those_of_an_adapter_with_its_driver() {
        let mut shapes = TunedShapes::default();
        shapes.keep(&info("Big", "1.0"), &key(2560), Some(SHAPE));
        let (read, warning) = TunedShapes::parse(&shapes.to_json());
        assert_eq!((&read, warning), (&shapes, None), "what is written is read");
        assert_eq!(read.get(&info("Big", "1.0")), [TunedShape { key: key(2560), shape: SHAPE }], "its own");
        assert!(read.get(&info("Big", "1.1")).is_empty(), "another driver");
        assert!(read.get(&info("Small", "1.0")).is_empty(), "another adapter");
    }

    #[test]
    fn what_is_found_later_replaces_what_was_found_before() {
        let mut shapes = TunedShapes::default();
        let big = info("Big", "1.0");
        shapes.keep(&big, &key(2560), Some(SHAPE));
        shapes.keep(&big, &key(10240), Some(SHAPE));
        shapes.keep(&big, &key(2560), Some(Shape { rows: 1, ..SHAPE }));
        assert_eq!(shapes.get(&big).len(), 2, "one for each size");
        shapes.keep(&big, &key(2048), None);
        assert_eq!(shapes.get(&big), [TunedShape { key: key(10240), shape: SHAPE }], "the default is best after all");
    }

    #[test]
    fn what_is_unsound_is_left_out_and_said_once() {
        for text in ["", "{", "[]", "{\"adapters\": 3}"] {
            let (shapes, warning) = TunedShapes::parse(text.as_bytes());
            assert!(shapes == TunedShapes::default() && warning.is_some(), "{text:?}");
        }
        let entry = |kernel: &str, format: &str, rows: i64| serde_json::json!({ "kernel": kernel, "format": format, "rows": rows, "cols": 2048, "shape": SHAPE });
        let entries = [
            entry("gemv", "f16", 2048),
            entry("gemx", "f16", 2048),
            entry("gemv", "q9_9", 2048),
            entry("gemv", "f16", 2560),
            entry("gemv", "f16", -1),
            Value::Null,
        ];
        let text = serde_json::json!({ "adapters": { "Big | 01:00 | vulkan | 1.0": entries } }).to_string();
        let (shapes, warning) = TunedShapes::parse(text.as_bytes());
        assert_eq!(shapes.get(&info("Big", "1.0")).len(), 1, "the sound one");
        assert!(warning.is_some_and(|warning| warning.starts_with("5 of its entries")), "all others are told of");
    }
}
