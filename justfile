# What CI runs is `just ci`; each recipe does its part of it alone.

workspaces := ". fuzz skills sdk/rust host/runtime/tests/guests"

set shell := ["bash", "-euo", "pipefail", "-c"]

[private]
default:
    @just --list

# Everything, what fails soonest first.
ci:
    @for part in fmt deny test clippy doc features fuzz; do \
        SECONDS=0; just "$part"; echo "$part: ${SECONDS} s"; \
    done

# Formatting, in every workspace.
fmt:
    for workspace in {{ workspaces }}; do (cd "$workspace" && cargo fmt --all --check); done

# Licences, sources and bans of dependencies, in every workspace; advisories where their database can be fetched.
deny:
    @checks="bans licenses sources"; \
    if cargo deny fetch db; then checks="advisories $checks"; \
    else echo "NOT CHECKED: advisories: their database cannot be fetched here"; fi; \
    for workspace in {{ workspaces }}; do \
        echo "$workspace: $checks"; \
        cargo deny --locked --manifest-path "$workspace/Cargo.toml" --config deny.toml --log-level error check $checks; \
    done

# The README's test command. It builds and tests the SDK and the skills too.
test:
    WAZA_REQUIRE_GPU=1 cargo test --release --workspace --locked

# --release shares what the tests have built.
clippy:
    cargo clippy --release --workspace --all-targets --locked -- -D warnings
    for workspace in skills sdk/rust; do (cd "$workspace" && cargo clippy --all-targets --locked -- -D warnings); done

# What `cargo doc` shows, links included.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --locked

# The model for machines without a GPU, as it is built without wgpu.
features:
    cargo clippy --release --package waza-model --no-default-features --all-targets --locked -- -D warnings

# Builds the fuzz targets and looks for faults with each for some seconds; what broke one lies in fuzz/artifacts.
fuzz seconds="10":
    cd fuzz && cargo build --release --locked
    mkdir -p fuzz/artifacts
    cd fuzz && ls fuzz_targets | sed 's/\.rs$//' | xargs -P "$(nproc)" -I '{}' just fuzz-one '{}' {{ seconds }}

[private]
fuzz-one target seconds:
    @cd fuzz && log=artifacts/{{ target }}.log; \
    if cargo run --quiet --release --locked --bin {{ target }} -- -max_total_time={{ seconds }} -rss_limit_mb=4096 \
        -max_len=16384 -artifact_prefix=artifacts/{{ target }}- >"$log" 2>&1; \
    then echo "{{ target }}: $(tail -n 1 "$log")"; else tail -n 40 "$log"; exit 1; fi
