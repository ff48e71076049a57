# The gate: what CI runs. `just` alone lists the recipes.
gate:
    bash .ci/run

# Every benchmark; `just bench update` one group. docs/performance.md says how to read it.
bench *GROUP:
    cargo bench --bench paths -- {{GROUP}}

# The main job on the input that ships with the repository.
demo:
    JOBS_DATA="$PWD/examples/jobs/data" cargo run -- --root target/demo run --batch demo --retries 1 --timeout 5s examples/jobs/jobs.txt

# Every harness of docs/reliability.md at full size, which takes many hours; `just campaign 60` in about so many minutes.
campaign *MINUTES:
    tests/campaign {{MINUTES}}

# The public interface, written anew to tests/public-api.txt: look at its difference before it is committed.
public-api:
    FIEFDOM_BLESS=1 cargo test --test public_api

# Licences, advisories, duplicates and sources of the dependencies. Needs `cargo install --locked cargo-deny`.
deny:
    cargo deny check
