# The gate: what CI runs. `just` alone lists the recipes.
gate:
    bash .ci/run

# NAME is that of the disk in benches/peers/results/: after `just bench`, `just bench /mnt/other b` measures a second
# one, which stands beside the first. It takes a quiet machine, and its time.
# Measures fiefdom beside its peers in DIR, and writes docs/performance.md.
bench DIR="target/bench" NAME="a": others (peers "measure" "--dir" DIR "--out" "benches/peers/results/" + NAME + ".json")
    just report

# The page and its pictures again, from the figures that are there.
report: (peers "report" "benches/peers/results/*.json")

# A short look at some rows, small: `just bench-quick updates`. It writes no page.
bench-quick *ROWS:
    just peers measure --quick --runs 3 --seconds 0.5 --out target/quick.json {{prepend("--row ", ROWS)}}

# The criterion benchmarks of single paths, for day-to-day comparison; `just bench-paths update` one group.
bench-paths *GROUP:
    cargo bench --bench paths -- {{GROUP}}

# Peers that are programs of their own, beside the comparison. Where they cannot be fetched or built, the measurement
# says that they are left out.
[private]
others:
    -cargo build --release --locked --manifest-path benches/peers/durare/Cargo.toml --target-dir {{peers_target}}
    -cargo install pueue@4.0.4 --locked --root {{peers_target}}/release/tools

peers_target := env("CARGO_TARGET_DIR", justfile_directory() / "benches/peers/target")

# The comparison itself. It runs the release binary of the project.
[private]
peers *ARGS:
    cargo build --release
    cargo run --release --manifest-path benches/peers/Cargo.toml -- {{ARGS}}

# The main job on the input that ships with the repository.
demo:
    JOBS_DATA="$PWD/examples/jobs/data" cargo run -- --root target/demo run --batch demo --retries 1 --timeout 5s examples/jobs/jobs.txt

# Every harness of docs/reliability.md at full size, which takes many hours; `just campaign 60` in about so many minutes.
campaign *MINUTES:
    tests/campaign {{MINUTES}}

# The public interface, written anew to tests/public-api.txt: look at its difference before it is committed.
public-api:
    FIEFDOM_BLESS=1 cargo test --test public_api

# Builds with the oldest Rust that Cargo.toml states; it is installed for that. The gate does it where it is installed.
oldest-rust:
    rustup toolchain install 1.90 --profile minimal
    cargo +1.90 check --locked --lib --bins

# Licences, advisories, duplicates and sources of the dependencies. Needs `cargo install --locked cargo-deny`.
deny:
    cargo deny check
