//! Kernel times as a table, summed over layers, and as a trace for chrome://tracing or Perfetto.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;
use wgpt::exec::KernelTime;

/// One kind of kernel: what it computes in every layer.
#[derive(Debug, Clone, PartialEq)]
struct Row<'t> {
    kernel: &'static str,
    result: &'t str,
    count: usize,
    seconds: f64,
}

/// The kernels of one forward, those that take longest first.
pub(super) fn table(label: &str, times: &[KernelTime]) -> String {
    let total: f64 = times.iter().map(|time| time.seconds).sum();
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

/// Complete events in the Trace Event Format, microseconds; one row for each forward.
pub(super) fn trace(profiles: &[(String, Vec<KernelTime>)]) -> String {
    let mut events = Vec::new();
    for (label, times) in profiles {
        let mut start = 0.0;
        for time in times {
            let duration = time.seconds * 1e6;
            events.push(json!({
                "name": time.result, "cat": time.kernel, "ph": "X", "ts": start, "dur": duration, "pid": "wgpt",
                "tid": label, "args": { "kernel": time.kernel },
            }));
            start += duration;
        }
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ns" }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times() -> Vec<KernelTime> {
        let time = |result: &str, kernel, seconds| KernelTime { result: result.into(), kernel, seconds };
        vec![
            time("embedding", "embed", 1e-6),
            time("layer 0 qkv", "gemv", 4e-6),
            time("layer 1 qkv", "gemv", 6e-6),
            time("layer x qkv", "gemv", 1e-6),
        ]
    }

    #[test]
    fn layers_are_summed_and_the_longest_come_first() {
        let times = times();
        let rows = rows(&times);
        assert_eq!((rows[0].result, rows[0].count), ("qkv", 2), "both layers");
        assert!((rows[0].seconds - 1e-5).abs() < 1e-12, "their sum");
        assert_eq!(rows.len(), 3, "what is no layer keeps its name");
        let text = table("tg1", &times);
        assert!(text.contains("5.00") && text.contains("83.3 %"), "{text}");
    }

    #[test]
    fn a_trace_lays_kernels_end_to_end() {
        let value: serde_json::Value = serde_json::from_str(&trace(&[("tg1".into(), times())])).expect("JSON");
        assert_eq!(value["traceEvents"][2]["ts"], 5.0, "behind the two before it");
        assert_eq!(value["traceEvents"][2]["dur"], 6.0, "microseconds");
    }
}
