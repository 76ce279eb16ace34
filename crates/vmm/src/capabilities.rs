//! The rights of root that a thread keeps.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
};

use crate::{Error, ThreadKind};

/// What a server of files that runs as root needs to do what root may do with files.
const FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// What this kind of thread keeps of what it has, which for an ordinary user is nothing.
fn kept(kind: ThreadKind) -> CapabilitySet {
    match kind {
        ThreadKind::NineP => CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH),
        ThreadKind::WritableNineP => FILES,
        _ => CapabilitySet::empty(),
    }
}

/// Gives up all others, for good: with no-new-privs set, nothing brings them back.
pub(crate) fn drop_others(kind: ThreadKind) -> Result<(), Error> {
    let failed = |e: rustix::io::Errno| Error::System("give up capabilities", e.into());
    let has = capabilities(None).map_err(failed)?;
    if (has.permitted | has.inheritable).is_empty() {
        return Ok(());
    }
    clear_ambient_capability_set().map_err(failed)?;
    let keep = kept(kind) & has.permitted;
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(failed)
}
