//! A guest with an IOMMU: the agent drives the device through VFIO and sleeps until an interrupt comes, programs compute.
//! `cargo xtask guest` prepares everything and runs this.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use vgpu_e2e::guest::{GuestParts, Options};
use vgpu_e2e::machine::Machine;

const FUNCTIONS: &str = include_str!("../src/machine.sh");

fn boot(device: &str) -> anyhow::Result<Machine> {
    let mut files = GuestParts::from_environment()?.vfio_modules();
    let mut functions = FUNCTIONS.to_owned();
    for (_, module) in &files {
        functions.push_str(&format!("insmod {module}\n"));
    }
    files.push((
        PathBuf::from(env!("CARGO_BIN_EXE_e2e-client")),
        "/bin/e2e-client".to_owned(),
    ));
    let options = Options {
        memory: 1024,
        huge_pages: 224,
        limit: Duration::from_secs(300),
        arguments: ["-device", "intel-iommu,intremap=on"]
            .map(OsString::from)
            .to_vec(),
        append: "intel_iommu=on".to_owned(),
        device: device.to_owned(),
        ..Options::default()
    };
    Machine::boot(&functions, &files, options)
}

/// Interrupts that the agent's two vectors have brought so far.
fn interrupts(machine: &mut Machine) -> anyhow::Result<u64> {
    let said = machine.ask("grep vfio-msix /proc/interrupts || cat /tmp/agent.log")?;
    // `24:  17   PCI-MSI 32768-edge  vfio-msix[0](0000:00:02.0)`
    said.lines()
        .map(|line| {
            let count = line.split_whitespace().nth(1).unwrap_or_default();
            count
                .parse::<u64>()
                .with_context(|| format!("no count in '{line}'"))
        })
        .sum()
}

#[test]
fn programs_run_over_vfio_and_interrupts_wake_them() -> anyhow::Result<()> {
    let mut machine = boot("")?;
    machine.ask("begin a copy")?;
    let log = machine.ask("cat /tmp/agent.log")?;
    ensure!(log.contains("through VFIO, with interrupts"), "{log}");
    let before = interrupts(&mut machine)?;
    // Host functions make the worker wake the program, over and over.
    machine.ask("begin b callback")?;
    let said = machine.ask("holders")?;
    ensure!(
        said.lines().count() == 1 && said.starts_with("0 ") && said.contains("agent-mapper"),
        "{said}"
    );
    for name in ["a", "b"] {
        let said = machine.ask(&format!("finish {name}"))?;
        ensure!(
            said.contains("done ") && said.contains("status 0"),
            "{said}"
        );
    }
    let after = interrupts(&mut machine)?;
    ensure!(
        after >= before + 4,
        "{before} interrupts before, {after} after: {log}"
    );
    Ok(())
}

/// The device takes the guest's physical addresses as they are; QEMU says so before anything boots.
#[test]
fn translated_addresses_are_refused_at_the_start() {
    let refused = boot(",iommu_platform=on").map(drop);
    let text = format!("{:#}", refused.expect_err("no guest"));
    assert!(
        text.contains("iommu_platform=true is not supported by the device"),
        "{text}"
    );
}
