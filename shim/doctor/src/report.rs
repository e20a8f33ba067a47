//! What was found: findings by layer, the verdict among them, the exit status.

use serde::{Deserialize, Serialize};

/// The layers in the order in which a program meets them; the number is in the verdict and the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Machine, C library and kind of program.
    Context = 0,
    /// Socket, permissions, backend.
    Transport = 1,
    /// Our library as a file.
    Shim = 2,
    /// Which `libcuda.so.1` the loader takes.
    Loader = 3,
    /// What the consumers of CUDA import, against what is there.
    Exports = 4,
    /// Calls of the driver API and of libcudart.
    Driver = 5,
    /// `libnvidia-ml.so.1`.
    Nvml = 6,
    /// Variables that hide devices, or do nothing.
    Environment = 7,
    /// Ollama's own discovery.
    Ollama = 8,
    /// llama.cpp's.
    Llama = 9,
    /// PyTorch's.
    Torch = 10,
    /// A kernel that really runs.
    Compute = 11,
}

impl Layer {
    /// Every layer, in order.
    pub const ALL: [Layer; 12] = [
        Layer::Context,
        Layer::Transport,
        Layer::Shim,
        Layer::Loader,
        Layer::Exports,
        Layer::Driver,
        Layer::Nvml,
        Layer::Environment,
        Layer::Ollama,
        Layer::Llama,
        Layer::Torch,
        Layer::Compute,
    ];

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Its name in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Layer::Context => "context",
            Layer::Transport => "transport",
            Layer::Shim => "shim file",
            Layer::Loader => "loader",
            Layer::Exports => "exports",
            Layer::Driver => "driver calls",
            Layer::Nvml => "NVML",
            Layer::Environment => "environment",
            Layer::Ollama => "Ollama",
            Layer::Llama => "llama.cpp",
            Layer::Torch => "PyTorch",
            Layer::Compute => "computing",
        }
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing, or not checked.
    Note,
    /// May hurt, does not stop the GPU from being found.
    Warning,
    /// The program does not find the GPU because of this.
    Fault,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "WARN",
            Severity::Fault => "FAULT",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// Where it belongs.
    pub layer: Layer,
    /// How bad it is.
    pub severity: Severity,
    /// What was found, in one sentence.
    pub what: String,
    /// What a person should do about it: a command if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
    /// What the program itself said (a loader's message, the last lines of a probe).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// A GPU as a discovering program sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// What found it, e.g. `CUDA`.
    pub library: String,
    /// Its name.
    pub name: String,
    /// `GPU-` and the UUID; empty if the program does not ask for it.
    pub uuid: String,
    /// `dddd:bb:dd.f`; empty if the program does not ask for it.
    pub pci_id: String,
    /// Bytes in all.
    pub memory_total: u64,
    /// Bytes free at the time.
    pub memory_free: u64,
    /// Compute capability, major and minor.
    pub compute: (u32, u32),
}

impl Device {
    /// One line about it.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!(
            "{}, compute {}.{}, {} MiB",
            self.name,
            self.compute.0,
            self.compute.1,
            self.memory_total >> 20
        );
        for part in [&self.pci_id, &self.uuid] {
            if !part.is_empty() {
                line.push_str(", ");
                line.push_str(part);
            }
        }
        line
    }
}

/// What a discovering program would have found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Discovery {
    /// Which program, and of which versions.
    pub program: String,
    /// The devices; none means that it runs on the CPU.
    pub devices: Vec<Device>,
    /// Seconds that its probes took.
    pub seconds: f64,
}

/// Everything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// What was asked about.
    pub target: String,
    /// The findings, by layer.
    pub findings: Vec<Finding>,
    /// The GPUs by the driver's own answers.
    pub devices: Vec<Device>,
    /// What each discovering program would have found.
    pub discoveries: Vec<Discovery>,
    /// Seconds that all of it took.
    pub seconds: f64,
}

impl Report {
    /// Adds a finding.
    pub fn add(
        &mut self,
        layer: Layer,
        severity: Severity,
        what: impl Into<String>,
    ) -> &mut Finding {
        let at = self
            .findings
            .partition_point(|finding| finding.layer <= layer);
        self.findings.insert(
            at,
            Finding {
                layer,
                severity,
                what: what.into(),
                mend: None,
                evidence: None,
            },
        );
        &mut self.findings[at]
    }

    /// Adds a finding of severity [`Severity::Ok`].
    pub fn ok(&mut self, layer: Layer, what: impl Into<String>) -> &mut Finding {
        self.add(layer, Severity::Ok, what)
    }

    /// Adds a finding of severity [`Severity::Note`].
    pub fn note(&mut self, layer: Layer, what: impl Into<String>) -> &mut Finding {
        self.add(layer, Severity::Note, what)
    }

    /// Adds a warning.
    pub fn warning(&mut self, layer: Layer, what: impl Into<String>) -> &mut Finding {
        self.add(layer, Severity::Warning, what)
    }

    /// Adds a fault.
    pub fn fault(&mut self, layer: Layer, what: impl Into<String>) -> &mut Finding {
        self.add(layer, Severity::Fault, what)
    }

    /// The first fault, by layer: the one to mend first.
    #[must_use]
    pub fn first_fault(&self) -> Option<&Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.severity == Severity::Fault)
            .min_by_key(|finding| finding.layer)
    }

    /// Whether a layer has a fault.
    #[must_use]
    pub fn failed(&self, layer: Layer) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.layer == layer && finding.severity == Severity::Fault)
    }

    /// 0 without a fault, else 10 and the number of the first failing layer.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.first_fault()
            .map_or(0, |finding| 10 + finding.layer.number())
    }

    /// One line: what is wrong and what mends it, or which GPU is there.
    #[must_use]
    pub fn verdict(&self) -> String {
        if let Some(fault) = self.first_fault() {
            let mut line = format!("layer {}: {}", fault.layer.number(), fault.what);
            if let Some(mend) = &fault.mend {
                line.push_str("; ");
                line.push_str(mend);
            }
            return line;
        }
        let mut line = match self.devices.as_slice() {
            [] => "no fault found, but no GPU was seen either; the table says what was not checked"
                .to_owned(),
            [device] => format!("GPU found: {}", device.line()),
            [first, rest @ ..] => format!("GPU found: {} and {} more", first.line(), rest.len()),
        };
        let mut warnings = self
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Warning);
        if let Some(warning) = warnings.next() {
            line.push_str(&format!("; but: {}", warning.what));
            if let Some(mend) = &warning.mend {
                line.push_str(&format!("; {mend}"));
            }
            match warnings.count() {
                0 => {}
                further => line.push_str(&format!(" (and {further} more warnings)")),
            }
        }
        line
    }

    /// The verdict, the table and what programs would find, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n\n{}\n\n", self.verdict(), self.target);
        for finding in &self.findings {
            text.push_str(&format!(
                "{:>2} {:<12} {:<5} {}\n",
                finding.layer.number(),
                finding.layer.name(),
                finding.severity.word(),
                finding.what
            ));
            if finding.severity > Severity::Ok {
                if let Some(mend) = &finding.mend {
                    text.push_str(&format!("{:22}→ {mend}\n", ""));
                }
                for line in finding
                    .evidence
                    .iter()
                    .flat_map(|evidence| evidence.lines())
                {
                    text.push_str(&format!("{:22}| {line}\n", ""));
                }
            }
        }
        for discovery in &self.discoveries {
            text.push_str(&format!(
                "\n{} would find ({:.1} s):\n",
                discovery.program, discovery.seconds
            ));
            if discovery.devices.is_empty() {
                text.push_str("   no GPU\n");
            }
            for device in &discovery.devices {
                text.push_str(&format!("   {}: {}\n", device.library, device.line()));
            }
        }
        text
    }

    /// All of it as JSON, with the verdict and the exit status.
    #[must_use]
    pub fn json(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.insert("verdict".to_owned(), self.verdict().into());
            object.insert("status".to_owned(), self.status().into());
            object.insert(
                "layer".to_owned(),
                self.first_fault().map(|fault| fault.layer.number()).into(),
            );
        }
        serde_json::to_string_pretty(&value).unwrap_or_default()
    }
}

impl Finding {
    /// Says what to do about it.
    pub fn mend(&mut self, mend: impl Into<String>) -> &mut Self {
        self.mend = Some(mend.into());
        self
    }

    /// Says what the program itself said; empty text says nothing.
    pub fn evidence(&mut self, evidence: impl Into<String>) -> &mut Self {
        let evidence = evidence.into();
        if !evidence.trim().is_empty() {
            self.evidence = Some(evidence.trim().to_owned());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_the_first_fault_by_layer_with_its_mending() {
        let mut report = Report::default();
        report.fault(Layer::Driver, "cuInit fails");
        report
            .fault(Layer::Loader, "no libcuda.so.1")
            .mend("run `vgpu install`");
        report.warning(Layer::Context, "odd");
        assert_eq!(
            report.verdict(),
            "layer 3: no libcuda.so.1; run `vgpu install`"
        );
        assert_eq!(report.status(), 13);
        assert!(report.json().contains("\"status\": 13"));
    }

    #[test]
    fn a_report_without_faults_names_the_gpu() {
        let mut report = Report::default();
        report.devices.push(Device {
            name: "A GPU".to_owned(),
            compute: (8, 0),
            memory_total: 1 << 30,
            ..Device::default()
        });
        assert_eq!(report.status(), 0);
        assert_eq!(report.verdict(), "GPU found: A GPU, compute 8.0, 1024 MiB");
    }

    #[test]
    fn findings_stay_in_the_order_of_layers() {
        let mut report = Report::default();
        report.ok(Layer::Driver, "b");
        report.ok(Layer::Context, "a");
        report.ok(Layer::Driver, "c");
        let order: Vec<_> = report.findings.iter().map(|f| f.what.as_str()).collect();
        assert_eq!(order, ["a", "b", "c"]);
    }
}
