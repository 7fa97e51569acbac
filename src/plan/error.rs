//! Why there is no plan, and the smallest change after which there would be one.

use super::policy::Search;
use super::{AdapterBudget, Bytes, Offload, PlanRequest, Residency};

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No adapter to plan for.
    #[error("a plan needs at least one adapter")]
    NoAdapter,
    /// More layers to stream than the model has.
    #[error("--offload {wanted}: the model has {layers} layers; --offload all streams every one")]
    TooManyLayers {
        /// What was asked for.
        wanted: usize,
        /// The model's.
        layers: usize,
    },
    /// The budgets don't hold the model.
    #[error(
        "the model does not fit: it needs {} on one adapter, there is room for {}; {change}",
        Bytes(*needed),
        .budgets.iter().map(|bytes| Bytes(*bytes).to_string()).collect::<Vec<_>>().join(" and ")
    )]
    DoesNotFit {
        /// Bytes of all of it on the first adapter, nothing streamed.
        needed: u64,
        /// Bytes of each budget.
        budgets: Vec<u64>,
        /// The smallest change that would do, as a user types it.
        change: String,
    },
}

impl Search<'_> {
    /// The error of a search without a plan, with what to change.
    pub(super) fn does_not_fit(&self) -> PlanError {
        let resident = self.with(Offload::Never, 1.0, |search| search.whole());
        let budgets = self.budgets.iter().map(|budget| budget.bytes).collect();
        PlanError::DoesNotFit { needed: resident, budgets, change: self.change() }
    }

    /// Streaming more, if that is enough; else larger budgets, with as much streaming as the request allows.
    fn change(&self) -> String {
        let layers = self.layers();
        let fits = |offload| self.with(offload, 1.0, |search| search.first_fit());
        let more = match self.request.offload {
            Offload::Never => fits(Offload::AsNeeded).map(|plan| {
                let streamed = plan.placements.iter().filter(|p| p.residency == Residency::Streamed).count();
                format!("--offload would stream {streamed} of its {} units from host memory", layers + 2)
            }),
            Offload::Layers(count) => {
                let enough = (count + 1..=layers).find(|more| fits(Offload::Layers(*more)).is_some());
                enough.map(|more| format!("--offload {more} would do"))
            }
            Offload::AsNeeded | Offload::All => None,
        };
        more.unwrap_or_else(|| self.larger_budgets())
    }

    /// The least budgets that would do, all grown by the same factor.
    fn larger_budgets(&self) -> String {
        let offload = match self.request.offload {
            Offload::All => Offload::All,
            _ => Offload::AsNeeded,
        };
        let fits = |factor: f64| self.with(offload, factor, |search| search.first_fit()).is_some();
        let flag = if offload == self.request.offload { "" } else { " with --offload" };
        let needed = self.with(offload, 1.0, |search| search.whole()) as f64;
        let most = self.budgets.iter().map(|budget| budget.bytes.max(1)).min().unwrap_or(1) as f64;
        // Budgets that each hold everything hold it together.
        let (mut too_little, mut enough) = (1.0, (needed / most).max(1.0) * 2.0);
        if !fits(enough) {
            return "use a smaller --context-length or a quantized checkpoint".into();
        }
        while enough / too_little > 1.001 {
            let middle = f64::midpoint(too_little, enough);
            if fits(middle) { enough = middle } else { too_little = middle }
        }
        let flags: Vec<String> = match self.budgets {
            [budget] => vec![Bytes(grown(budget.bytes, enough)).as_flag()],
            several => several
                .iter()
                .map(|budget| format!("{}={}", budget.number, Bytes(grown(budget.bytes, enough)).as_flag()))
                .collect(),
        };
        let memory = flags.join(",");
        format!("--memory {memory}{flag} would do, or a smaller --context-length, or a quantized checkpoint")
    }

    /// The same search with another request and budgets grown by a factor.
    fn with<R>(&self, offload: Offload, factor: f64, then: impl FnOnce(&Search<'_>) -> R) -> R {
        let grow = |budget: &AdapterBudget| AdapterBudget { bytes: grown(budget.bytes, factor), ..*budget };
        let budgets: Vec<AdapterBudget> = self.budgets.iter().map(grow).collect();
        let request = PlanRequest { offload, ..self.request };
        then(&Search { budgets: &budgets, request, ..*self })
    }
}

/// At least one byte, so that factors do something.
fn grown(bytes: u64, factor: f64) -> u64 {
    (bytes.max(1) as f64 * factor).ceil() as u64
}
