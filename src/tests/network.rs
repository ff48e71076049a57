//! A root on a network file system: refused, unless that is allowed.

use crate::disk::model::Disk;
use crate::disk::root::Root;
use crate::error::Error;

#[test]
fn a_network_file_system_is_refused_with_the_reason_unless_it_is_allowed() {
    for (magic, name) in [(0x6969, "NFS"), (0xFE53_4D42, "SMB2"), (0x0102_1997, "9p"), (0x00C3_6400, "Ceph")] {
        let disk = Disk::new();
        let path = disk.path().join("root");
        disk.pretend(magic);
        let refused = Root::open_or_create(&path, false).expect_err("it is refused");
        let message = refused.to_string();
        assert!(matches!(refused, Error::Root { .. }), "{message}");
        assert!(message.contains(name) && message.contains("allow_network_file_system"), "{message}");
        assert!(disk.image().files().is_empty(), "nothing was written");
        Root::open_or_create(&path, true).expect("it is allowed");
        // What is there can be read wherever it is.
        assert!(Root::open_existing(&path).expect("a root").is_some());
    }
}
