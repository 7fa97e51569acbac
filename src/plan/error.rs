//! Why there is no plan, and the smallest change after which there would be one.

use super::policy::Search;
use super::{AdapterBudget, Bytes, Offload, PlanRequest, Residency, Sought, Uncut, UnitCost};

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
    /// A buffer that is bound whole is larger than any adapter binds.
    #[error(
        "the model does not fit: {what} needs {} in one buffer, of which adapter {adapter} binds no more than {}; {change}",
        Bytes(*bytes), Bytes(*limit)
    )]
    TooLarge {
        /// What it holds.
        what: Uncut,
        /// Its size.
        bytes: u64,
        /// The adapter that binds the most, as users number them.
        adapter: usize,
        /// How much that is.
        limit: u64,
        /// The smallest change that would do, as a user types it.
        change: String,
    },
}

impl Sought<'_> {
    /// Why there is no plan, with what to change.
    pub fn refusal(&self) -> PlanError {
        if let Some(error) = self.lacks() {
            return error;
        }
        let anything = self.with(self.request.offload, |_| u64::MAX, |sought| sought.shortest().first_fit());
        if let Some(error) = self.too_large().filter(|_| anything.is_none()) {
            return error;
        }
        let budgets = self.budgets.iter().map(|budget| budget.bytes).collect();
        PlanError::DoesNotFit { needed: self.shortest().whole(), budgets, change: self.change() }
    }

    /// The search that needs the least memory.
    const fn shortest(&self) -> Search<'_> {
        self.search(self.costs.len() - 1)
    }

    /// What the adapter that binds the most can't bind of what can't be cut.
    fn too_large(&self) -> Option<PlanError> {
        let search = self.shortest();
        let on = |(costs, budget): (&Vec<UnitCost>, &AdapterBudget)| {
            let largest = costs.iter().map(UnitCost::largest_uncut).max_by_key(|(_, bytes)| *bytes)?;
            (largest.1 > budget.max_binding).then_some((largest, *budget))
        };
        let too_large = search.costs.iter().zip(self.budgets).filter_map(on);
        let ((what, bytes), budget) = too_large.max_by_key(|(_, budget)| budget.max_binding)?;
        let change = format!("use a smaller {}", what.flag());
        Some(PlanError::TooLarge { what, bytes, adapter: budget.number, limit: budget.max_binding, change })
    }

    /// Streaming more, if that is enough; else larger budgets, with as much streaming as the request allows.
    fn change(&self) -> String {
        let layers = self.search(0).layers();
        let fits = |offload| self.with(offload, |budget| budget.bytes, |sought| sought.plan());
        let more = match self.request.offload {
            _ if self.request.resident => None,
            Offload::Never => fits(Offload::AsNeeded).map(|(plan, _)| {
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

    /// The least budgets that would do, all grown by the same factor as far as there is more to have.
    fn larger_budgets(&self) -> String {
        let had = |budget: &AdapterBudget| budget.most.map_or(u64::MAX, |most| most.max(budget.bytes));
        if let Some(flags) = self.least(had) {
            return format!("--memory {flags} would do");
        }
        match self.least(|_| u64::MAX) {
            Some(flags) if self.budgets.len() == 1 => format!("on a larger adapter --memory {flags} would do"),
            Some(flags) => format!("on larger adapters --memory {flags} would do"),
            None => "use a smaller model".into(),
        }
    }

    /// What to say of the least budgets that would do where none is more than this.
    fn least(&self, most: impl Fn(&AdapterBudget) -> u64) -> Option<String> {
        let offload = match self.request.offload {
            Offload::All => Offload::All,
            _ if self.request.resident => Offload::Never,
            _ => Offload::AsNeeded,
        };
        // What fits with a longer chunk does with the shortest.
        let shortest = |sought: &Sought<'_>| sought.shortest().first_fit();
        let grown = |budget: &AdapterBudget, factor: f64| {
            // At least one byte, so that factors do something.
            let grown = (budget.bytes.max(1) as f64 * factor).ceil() as u64;
            grown.min(most(budget))
        };
        let fits = |factor: f64| self.with(offload, |budget| grown(budget, factor), shortest).is_some();
        let needed = self.shortest().whole() as f64;
        let least = self.budgets.iter().map(|budget| budget.bytes.max(1)).min().unwrap_or(1) as f64;
        // Budgets that each hold everything hold it together.
        let (mut too_little, mut enough) = (1.0, (needed / least).max(1.0) * 2.0);
        if !fits(enough) {
            return None;
        }
        while enough / too_little > 1.001 {
            let middle = f64::midpoint(too_little, enough);
            if fits(middle) { enough = middle } else { too_little = middle }
        }
        // What is typed is for another model there too.
        let flag = |budget: &AdapterBudget| {
            let bytes = Bytes(grown(budget, enough).saturating_add(budget.beside));
            bytes.as_flag(most(budget).saturating_add(budget.beside))
        };
        // Where what is rounded up to holds it as the request is, nothing else need change.
        let rounded = |budget: &AdapterBudget| flag(budget).1.0.saturating_sub(budget.beside);
        let as_asked = self.with(self.request.offload, rounded, |sought| sought.plan());
        let flags: Vec<String> = match self.budgets {
            [budget] => vec![flag(budget).0],
            several => {
                // Where no one knows a limit there is nothing to say.
                let known = several.iter().filter(|budget| budget.bytes < u64::MAX);
                known.map(|one| format!("{}={}", one.number, flag(one).0)).collect()
            }
        };
        let streams = if as_asked.is_some() { "" } else { " with --offload" };
        Some(format!("{}{streams}", flags.join(",")))
    }

    /// The same with another request and other budgets.
    fn with<R>(
        &self,
        offload: Offload,
        bytes: impl Fn(&AdapterBudget) -> u64,
        then: impl FnOnce(&Sought<'_>) -> R,
    ) -> R {
        let other = |budget: &AdapterBudget| AdapterBudget { bytes: bytes(budget), ..*budget };
        let budgets: Vec<AdapterBudget> = self.budgets.iter().map(other).collect();
        let request = PlanRequest { offload, ..self.request };
        then(&Sought { costs: self.costs, budgets: &budgets, request })
    }
}
