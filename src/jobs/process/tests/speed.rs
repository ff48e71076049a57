//! How fast jobs go through. It is shown, not judged: machines differ.

use super::*;

/// `--nocapture` shows the number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_jobs_run_two_at_a_time() {
    const JOBS: u32 = 500;
    let guardian = Guardian::start().unwrap();
    let begun = Instant::now();
    let worker = |guardian: Guardian| async move {
        let null = File::options().write(true).open("/dev/null").unwrap();
        for _ in 0..JOBS / 2 {
            let spec = CommandSpec {
                command: "true".into(),
                cwd: "/".into(),
                env: Vec::new(),
                stdout: null.try_clone().unwrap(),
                stderr: null.try_clone().unwrap(),
            };
            let mut job = spawn(&spec).unwrap().open(&guardian).await.unwrap();
            assert_eq!(job.wait().await.unwrap(), exited(0));
        }
    };
    let two = [guardian.clone(), guardian].map(|guardian| tokio::spawn(worker(guardian)));
    for one in two {
        within(one).await.unwrap();
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{:.0} jobs/s", f64::from(JOBS) / seconds);
}
