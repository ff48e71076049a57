//! The tests are tested: for each protection that is taken away, a named test fails.

use std::process::Command;

use crate::mutants::Protection;

const CATCHERS: [(Protection, &str); 18] = [
    (Protection::LogFlush, "tests::crash::one_instance_through_everything"),
    (Protection::OutputGate, "tests::crash::one_instance_through_everything"),
    (Protection::LogFirst, "tests::crash::one_instance_through_everything"),
    (Protection::Replacement, "tests::crash::one_instance_through_everything"),
    (Protection::DirectoryFlush, "tests::crash::one_instance_through_everything"),
    (Protection::CarriedOnDisk, "tests::crash::an_instance_that_is_at_work_while_segments_go"),
    (Protection::CarriedWhole, "tests::crash::an_instance_that_is_at_work_while_segments_go"),
    (Protection::NameFlush, "tests::crash::one_instance_through_everything"),
    (Protection::AlarmFlush, "tests::crash::an_alarm_that_is_set_replaced_and_cleared"),
    (Protection::AlarmRecovery, "tests::crash::an_alarm_set_by_a_process_that_dies_is_in_the_index_after_recovery"),
    (Protection::BatchFlush, "tests::crash::instances_that_are_recovered_together_lose_nothing_in_a_power_cut"),
    (Protection::WholeFlush, "tests::crash::instances_that_were_let_go_lose_nothing_when_their_log_goes_at_once"),
    (Protection::OneFlush, "tests::errors::a_failed_flush_of_the_log_poisons"),
    (Protection::TornBytesCut, "tests::errors::a_failed_write_of_the_log_is_not_applied_and_the_next_works"),
    (Protection::Generations, "tests::errors::a_failed_write_of_the_log_is_not_applied_and_the_next_works"),
    (Protection::LockThenRead, "tests::two_processes::what_is_read_at_activation_is_never_older_than_the_lock"),
    (Protection::DamageIsNoTail, "tests::damage::a_flipped_byte_in_the_log_is_never_a_torn_tail"),
    (
        Protection::Tombstones,
        "tests::two_processes::a_deleted_instance_does_not_come_back_from_the_log_of_another_process",
    ),
];

#[test]
fn every_protection_that_is_taken_away_is_missed() {
    if std::env::var_os("FIEFDOM_TEST_WITHOUT").is_some() {
        return;
    }
    let mut missed = Vec::new();
    for (protection, catcher) in CATCHERS {
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", catcher, "--test-threads=1"])
            .env("FIEFDOM_TEST_WITHOUT", format!("{protection:?}"))
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("a child process");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("running 1 test"), "there is no test {catcher}");
        let caught = text.contains("1 failed");
        crate::tests::shown!("without {protection:?}: {} by {catcher}", if caught { "caught" } else { "MISSED" });
        if !caught {
            missed.push(protection);
        }
    }
    assert!(missed.is_empty(), "nobody misses {missed:?}");
}
