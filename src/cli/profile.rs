//! Where a forward's time goes: tables of its kernels summed over layers and of its units, and how long the adapter
//! waits for the host; the same as a trace for chrome://tracing or Perfetto.
//!
//! Prints what `exec` measured. Invariant: parts add up to the sum that stands below them; the time between forwards is
//! told apart from them.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use wgpt::exec::{KernelTime, Profile};

/// A forward, by itself and among others.
#[derive(Debug)]
pub(super) struct Profiled {
    pub(super) label: String,
    pub(super) profile: Profile,
    /// Seconds of one forward in the run that was measured, host included.
    pub(super) forward: f64,
}

/// One kind of kernel: what it computes in every layer.
#[derive(Debug, Clone, PartialEq)]
struct Row<'t> {
    kernel: &'static str,
    result: &'t str,
    count: usize,
    seconds: f64,
}

impl Profiled {
    /// Seconds a forward in which the adapter has nothing to do.
    fn idle(&self) -> f64 {
        (self.forward - self.profile.span).max(0.0)
    }

    /// All of it as numbers, seconds each: what the tables say.
    pub(super) fn json(&self) -> Value {
        let times = &self.profile.kernels;
        let kernel = |Row { kernel, result, count, seconds }: Row<'_>| {
            json!({
                "result": result, "kernel": kernel, "dispatches": count, "seconds": seconds,
            })
        };
        let unit =
            |unit: &[KernelTime]| json!({ "name": unit[0].unit, "dispatches": unit.len(), "seconds": sum(unit) });
        json!({
            "forward_seconds": self.forward,
            "adapter_seconds": self.profile.span,
            "idle_seconds": self.idle(),
            "dispatches": times.len(),
            "kernels": rows(times).into_iter().map(kernel).collect::<Vec<_>>(),
            "units": by_unit(times).map(unit).collect::<Vec<_>>(),
        })
    }

    /// Kernels, those that take longest first; then units; then what lies between forwards.
    pub(super) fn tables(&self) -> String {
        let times = &self.profile.kernels;
        let (dispatches, span, idle) = (times.len(), self.profile.span, self.idle());
        let share = 100.0 * idle / self.forward.max(f64::MIN_POSITIVE);
        format!(
            "{}{}\n{}: {dispatches} dispatches take {:.3} ms on the adapter when none is timed, {:.2} µs each; a forward takes \
             {:.3} ms, in {:.3} ms of which ({share:.1} %) the adapter waits for the host\n",
            kernels(&self.label, times),
            units(&self.label, times),
            self.label,
            span * 1e3,
            span / dispatches.max(1) as f64 * 1e6,
            self.forward * 1e3,
            idle * 1e3,
        )
    }
}

/// Every unit with its dispatches.
fn units(label: &str, times: &[KernelTime]) -> String {
    let total = sum(times);
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([label, "dispatches", "ms", "of all"]);
    for unit in by_unit(times) {
        let seconds = sum(unit);
        table.add_row([
            unit[0].unit.clone(),
            unit.len().to_string(),
            format!("{:.3}", seconds * 1e3),
            format!("{:.1} %", 100.0 * seconds / total.max(f64::MIN_POSITIVE)),
        ]);
    }
    for column in 1..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("\n{table}\n")
}

/// The kernels of one forward, those that take longest first.
fn kernels(label: &str, times: &[KernelTime]) -> String {
    let total = sum(times);
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header([label, "kernel", "times", "µs each", "ms", "of all"]);
    for row in rows(times) {
        table.add_row([
            row.result.to_owned(),
            row.kernel.to_owned(),
            row.count.to_string(),
            format!("{:.2}", row.seconds / row.count as f64 * 1e6),
            format!("{:.3}", row.seconds * 1e3),
            format!("{:.1} %", 100.0 * row.seconds / total.max(f64::MIN_POSITIVE)),
        ]);
    }
    let sum = format!("{:.3}", total * 1e3);
    table.add_row(["all".to_owned(), String::new(), times.len().to_string(), String::new(), sum, String::new()]);
    for column in 2..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("\n{table}\n")
}

fn by_unit(times: &[KernelTime]) -> impl Iterator<Item = &[KernelTime]> {
    times.chunk_by(|a, b| a.unit == b.unit)
}

fn sum(times: &[KernelTime]) -> f64 {
    times.iter().map(|time| time.seconds).sum()
}

fn rows(times: &[KernelTime]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for time in times {
        let result = without_layer(&time.result);
        match rows.iter_mut().find(|row| row.kernel == time.kernel && row.result == result) {
            Some(row) => {
                row.count += 1;
                row.seconds += time.seconds;
            }
            None => rows.push(Row { kernel: time.kernel, result, count: 1, seconds: time.seconds }),
        }
    }
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    rows
}

/// `layer 3 qkv` is `qkv`.
fn without_layer(name: &str) -> &str {
    let inside = name.strip_prefix("layer ").and_then(|rest| rest.split_once(' '));
    inside.filter(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit())).map_or(name, |(_, rest)| rest)
}

/// Complete events in the Trace Event Format, microseconds; one row for each forward: units, their kernels inside them, and
/// behind them the time in which the adapter waits for the host.
pub(super) fn trace(profiles: &[Profiled]) -> String {
    let mut events = Vec::new();
    for profiled in profiles {
        let mut event = |name: &str, category: &str, start: f64, seconds: f64, unit: &str| {
            events.push(json!({
                "name": name, "cat": category, "ph": "X", "ts": start * 1e6, "dur": seconds * 1e6, "pid": "wgpt",
                "tid": profiled.label, "args": { "kernel": category, "unit": unit },
            }));
        };
        let mut start = 0.0;
        for unit in by_unit(&profiled.profile.kernels) {
            let name = &unit[0].unit;
            event(name, "unit", start, sum(unit), name);
            for time in unit {
                event(&time.result, time.kernel, start, time.seconds, name);
                start += time.seconds;
            }
        }
        event("idle", "idle", start, profiled.idle(), "");
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ns" }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times() -> Vec<KernelTime> {
        let time = |unit: &str, result: &str, kernel, seconds| {
            let (unit, result) = (unit.into(), result.into());
            KernelTime { unit, result, kernel, seconds }
        };
        vec![
            time("embedding", "embedding", "embed", 1e-6),
            time("layer 0", "layer 0 qkv", "gemv", 4e-6),
            time("layer 0", "layer 0 hidden", "norm", 2e-6),
            time("layer 1", "layer 1 qkv", "gemv", 6e-6),
            time("layer 1", "layer x qkv", "gemv", 1e-6),
        ]
    }

    fn profiled() -> Profiled {
        let profile = Profile { kernels: times(), span: 1.2e-5 };
        Profiled { label: "tg1".into(), profile, forward: 1.6e-5 }
    }

    #[test]
    fn layers_are_summed_and_the_longest_come_first() {
        let times = times();
        let rows = rows(&times);
        assert_eq!((rows[0].result, rows[0].count), ("qkv", 2), "both layers");
        assert!((rows[0].seconds - 1e-5).abs() < 1e-12, "their sum");
        assert_eq!(rows.len(), 4, "what is no layer keeps its name");
        let text = kernels("tg1", &times);
        assert!(text.contains("5.00") && text.contains("71.4 %"), "{text}");
    }

    #[test]
    fn units_and_what_lies_between_forwards_are_shown() {
        let text = profiled().tables();
        let layer = text.lines().find(|line| line.starts_with("| layer 0 ")).expect("a line for the layer");
        assert!(layer.contains("| 2 ") || layer.contains(" 2 |"), "its dispatches: {layer}");
        assert!(layer.contains("0.006") && layer.contains("42.9 %"), "their sum: {layer}");
        assert!(text.contains("5 dispatches take 0.012 ms") && text.contains("0.004 ms of which (25.0 %)"), "{text}");
    }

    #[test]
    fn a_trace_lays_kernels_end_to_end_inside_their_units() {
        let value: Value = serde_json::from_str(&trace(&[profiled()])).expect("JSON");
        let events = value["traceEvents"].as_array().expect("a list");
        let find = |name: &str| events.iter().find(|event| event["name"] == name).expect("it is there");
        let number = |event: &Value, key: &str| event[key].as_f64().expect("a number");
        let (layer, hidden, idle) = (find("layer 0"), find("layer 0 hidden"), find("idle"));
        assert!((number(hidden, "ts") - 5.0).abs() < 1e-9, "behind the two before it");
        assert!((number(hidden, "dur") - 2.0).abs() < 1e-9, "microseconds");
        assert!((number(layer, "ts") - 1.0).abs() < 1e-9 && (number(layer, "dur") - 6.0).abs() < 1e-9, "around both");
        assert!((number(idle, "ts") - 14.0).abs() < 1e-9 && (number(idle, "dur") - 4.0).abs() < 1e-9, "at the end");
        assert_eq!(hidden["args"]["unit"], "layer 0", "each says where it is");
    }
}
