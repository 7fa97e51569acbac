//! stub
use super::args::InspectArgs;
use anyhow::Result;
pub(super) fn run(_args: &InspectArgs) -> Result<()> {
    Ok(())
}
