# Everything that has to hold before a change goes in.
ci:
    .ci/run

# The quick part of it.
check:
    .ci/run fmt clippy test

# The embedded guest; `just run -smp 4` and so on.
run *options:
    cargo run --release -- {{ options }}

# Debian on the emulator.
linux *options:
    scripts/linux {{ options }}

# A hundred boots in a row.
hundred-boots:
    ROUNDS=34 scripts/boot-linux

# Device register access, timers.
bench:
    cargo bench --bench mmio

# Linux workloads side by side with QEMU.
versus:
    benches/vs-qemu
