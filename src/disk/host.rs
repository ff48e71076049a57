//! What this machine says of itself. Nothing is changed there.

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

/// Whether `syncfs(2)` tells of every failure: of bytes it does since Linux 5.8, of names since 5.17.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn tells_of_failed_flushes() -> bool {
    is_at_least(&rustix::system::uname().release().to_string_lossy(), (5, 17))
}

/// Whether the release of a kernel is this one or a later one.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_at_least(release: &str, least: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    numbers.next().zip(numbers.next()).is_some_and(|found: (u32, u32)| found >= least)
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    #[test]
    fn the_release_of_a_kernel_is_compared_by_its_numbers() {
        for old in ["5.16.20", "4.19.0-26-amd64", "5.4", "", "unknown", "5"] {
            assert!(!is_at_least(old, (5, 17)), "{old}");
        }
        for new in ["5.17", "5.17.0-rc1", "6.1.0-13-amd64", "6.18.44", "10.0.0"] {
            assert!(is_at_least(new, (5, 17)), "{new}");
        }
    }
}
