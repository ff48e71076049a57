//! What this machine says of itself.

use std::sync::OnceLock;

/// What tells one run of the system from the next: after a reboot it is another. Empty where the
/// system does not say.
pub(crate) fn boot_id() -> String {
    // Asked for with every command that is started.
    static ID: OnceLock<String> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned());
    ID.get_or_init(|| read().unwrap_or_default()).clone()
}

/// The name of the machine, for messages.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
