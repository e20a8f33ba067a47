//! A service of systemd's, by what `systemctl show` prints of it.

use crate::child::Environment;
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Properties asked for: who the service is, what it runs, and what it may not reach.
const PROPERTIES: [&str; 27] = [
    "LoadState",
    "MainPID",
    "ExecStart",
    "User",
    "Group",
    "SupplementaryGroups",
    "DynamicUser",
    "WorkingDirectory",
    "Environment",
    "EnvironmentFiles",
    "UnsetEnvironment",
    "DevicePolicy",
    "DeviceAllow",
    "PrivateDevices",
    "PrivateUsers",
    "PrivateTmp",
    "ProtectKernelTunables",
    "ProtectHome",
    "RestrictAddressFamilies",
    "MemoryDenyWriteExecute",
    "SystemCallFilter",
    "CapabilityBoundingSet",
    "RootDirectory",
    "RootImage",
    "InaccessiblePaths",
    "TemporaryFileSystem",
    "LimitAS",
];

/// A service.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// Its name.
    pub name: String,
    properties: BTreeMap<String, Vec<String>>,
}

impl Unit {
    /// Asks `systemctl`.
    ///
    /// # Errors
    /// When there is no systemctl, or no such unit.
    pub fn ask(name: &str) -> anyhow::Result<Self> {
        let output = Command::new("systemctl")
            .arg("show")
            .arg("--property")
            .arg(PROPERTIES.join(","))
            .arg("--")
            .arg(name)
            .stdin(Stdio::null())
            .output()
            .context("systemctl cannot be run; without systemd, use --pid or -- COMMAND")?;
        if !output.status.success() {
            bail!(
                "`systemctl show {name}` failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let unit = Self::parse(name, &String::from_utf8_lossy(&output.stdout));
        if unit.first("LoadState") == "not-found" {
            bail!("there is no unit {name}; `systemctl list-units --type=service` lists them");
        }
        Ok(unit)
    }

    /// Reads what `systemctl show` printed.
    #[must_use]
    pub fn parse(name: &str, text: &str) -> Self {
        let mut unit = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        for line in text.lines() {
            if let Some((key, value)) = line.split_once('=') {
                let values = unit.properties.entry(key.to_owned()).or_default();
                values.push(value.to_owned());
            }
        }
        unit
    }

    /// A property's value, empty if it has none.
    #[must_use]
    pub fn first(&self, property: &str) -> &str {
        self.properties
            .get(property)
            .and_then(|values| values.first())
            .map_or("", String::as_str)
    }

    /// Whether a property says yes.
    #[must_use]
    pub fn says_yes(&self, property: &str) -> bool {
        matches!(self.first(property), "yes" | "true" | "1" | "self")
    }

    /// The process, if the service runs.
    #[must_use]
    pub fn main_pid(&self) -> Option<u32> {
        self.first("MainPID").parse().ok().filter(|pid| *pid > 0)
    }

    /// The program that `ExecStart=` names.
    #[must_use]
    pub fn program(&self) -> Option<PathBuf> {
        let text = self.first("ExecStart");
        let rest = text.split_once("path=")?.1;
        let path = rest.split(" ;").next()?.trim();
        (!path.is_empty()).then(|| PathBuf::from(path))
    }

    /// What the service's own environment is before the program starts.
    #[must_use]
    pub fn environment(&self) -> Environment {
        let mut variables = BTreeMap::new();
        variables.insert(
            "PATH".to_owned(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        );
        let mut set = |word: &str| {
            if let Some((name, value)) = word.split_once('=') {
                variables.insert(name.to_owned(), value.to_owned());
            }
        };
        for value in self.properties.get("Environment").into_iter().flatten() {
            words(value).iter().for_each(|word| set(word));
        }
        for value in self
            .properties
            .get("EnvironmentFiles")
            .into_iter()
            .flatten()
        {
            let path = value.split(" (").next().unwrap_or(value);
            let text = std::fs::read_to_string(path).unwrap_or_default();
            for line in text.lines().map(str::trim) {
                if !line.starts_with(['#', ';'])
                    && let Some((name, value)) = line.split_once('=')
                {
                    set(&format!("{}={}", name.trim(), words(value).join(" ")));
                }
            }
        }
        for name in self.first("UnsetEnvironment").split_whitespace() {
            variables.remove(name);
        }
        variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    }
}

/// Splits as systemd does: at blanks outside of quotes, with backslashes.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut inside, mut quote) = (false, None);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', _) => {
                inside = true;
                word.extend(letters.next());
            }
            (mark, Some(open)) if mark == open => quote = None,
            ('"' | '\'', None) => {
                inside = true;
                quote = Some(letter);
            }
            (blank, None) if blank.is_whitespace() => {
                if std::mem::take(&mut inside) {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => {
                inside = true;
                word.push(letter);
            }
        }
    }
    if inside {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "LoadState=loaded\nMainPID=0\nUser=ollama\nExecStart={ path=/usr/local/bin/ollama ; argv[]=/usr/local/bin/ollama serve ; ignore_errors=no ; status=0/0 }\nEnvironment=PATH=/usr/bin \"OLLAMA_HOST=a b\" EMPTY=\nDevicePolicy=closed\nPrivateUsers=yes\n";

    #[test]
    fn the_answer_of_systemctl_is_read() {
        let unit = Unit::parse("ollama", SHOWN);
        assert_eq!(unit.main_pid(), None);
        assert_eq!(unit.program(), Some(PathBuf::from("/usr/local/bin/ollama")));
        assert!(unit.says_yes("PrivateUsers"));
        assert_eq!(unit.first("DevicePolicy"), "closed");
        let environment = unit.environment();
        let value = |name: &str| {
            environment
                .iter()
                .find(|(have, _)| have == name)
                .map(|(_, value)| value.to_string_lossy().into_owned())
        };
        assert_eq!(value("OLLAMA_HOST").as_deref(), Some("a b"));
        assert_eq!(value("PATH").as_deref(), Some("/usr/bin"));
        assert_eq!(value("EMPTY").as_deref(), Some(""));
    }

    #[test]
    fn files_of_variables_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("env");
        std::fs::write(&file, "# remark\nOLLAMA_LLM_LIBRARY=\"cuda_v12\"\n").expect("written");
        let unit = Unit::parse(
            "x",
            &format!("EnvironmentFiles={} (ignore_errors=yes)\n", file.display()),
        );
        assert!(
            unit.environment()
                .contains(&("OLLAMA_LLM_LIBRARY".into(), "cuda_v12".into()))
        );
    }

    #[test]
    fn words_end_at_blanks_outside_of_quotes() {
        assert_eq!(words(r#"a "b c" d\ e '' "#), ["a", "b c", "d e", ""]);
    }
}
