//! The `-cpu` option: a model's name and QEMU's properties, turned into an `IsaConfig`. Wording of
//! errors is QEMU's, without the program's name in front.

mod names;
#[cfg(test)]
mod tests;

use names::{DEPRECATED, MISSING, OTHER_MODELS};

use super::isa::{IsaConfig, SatpMode};
use crate::qom::types::SWITCHES;

/// A `-cpu` option that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    #[error("-cpu option cannot be empty")]
    Empty,
    #[error("unable to find CPU model '{0}'")]
    UnknownModel(String),
    #[error("CPU model '{0}' is not implemented, only {list}", list = MODELS.join(", "))]
    Model(String),
    #[error("Expected key=value format, found {0}.")]
    NotKeyValue(String),
    #[error("can't apply global {model}-riscv-cpu.{name}={value}: {reason}")]
    Property { model: String, name: String, value: String, reason: String },
    /// Properties that are good one by one and not together.
    #[error("{0}")]
    Combination(String),
}

const MODELS: &[&str] = &["max", "rv64", VEYRON_V1];
/// The one that is a product, and what it lacks here.
const VEYRON_V1: &str = "veyron-v1";
const VEYRON_V1_LACKS: &str = "H, Smaia and Ssaia";

/// Where `virt` has its reset vector.
const RESET_VECTOR: u64 = 0x1000;

/// The version of the privileged specification.
const PRIV_SPEC: &str = "v1.13.0";

const SATP_MODES: [(&str, Option<SatpMode>); 4] = [
    ("sv39", Some(SatpMode::Sv39)),
    ("sv48", Some(SatpMode::Sv48)),
    ("sv57", Some(SatpMode::Sv57)),
    ("sv64", None),
];

/// The models that `-cpu` takes.
pub fn cpu_models() -> &'static [&'static str] {
    MODELS
}

/// What the model of this name has in QEMU and not here, if anybody has to be told.
pub fn lacks(model: &str) -> Option<&'static str> {
    (model == VEYRON_V1).then_some(VEYRON_V1_LACKS)
}

/// What `-cpu help` prints.
pub fn cpu_help() -> String {
    let mut help = String::from("Available CPUs:\n");
    for model in MODELS {
        help.push_str("  ");
        help.push_str(model);
        help.push('\n');
    }
    help
}

impl IsaConfig {
    /// Read `MODEL[,PROPERTY=VALUE]...`: the model's name and what the hart then has.
    pub fn from_cpu_option(option: &str) -> Result<(String, IsaConfig), CpuError> {
        if option.is_empty() {
            return Err(CpuError::Empty);
        }
        let (model, properties) = option.split_once(',').unwrap_or((option, ""));
        let mut given = Vec::new();
        for property in properties.split(',').filter(|p| !p.is_empty()) {
            let (name, value) =
                property.split_once('=').ok_or_else(|| CpuError::NotKeyValue(property.into()))?;
            given.push((name.to_owned(), value.to_owned()));
        }
        Ok((model.into(), Self::of_model(model, &given)?))
    }

    /// What a hart of the model of this name has, with these properties.
    pub fn of_model(model: &str, given: &[(String, String)]) -> Result<IsaConfig, CpuError> {
        let isa = match model {
            "rv64" => Self::rv64(),
            "max" => Self::max(),
            VEYRON_V1 => Self::veyron_v1(),
            other if OTHER_MODELS.contains(&other) => return Err(CpuError::Model(other.into())),
            other => return Err(CpuError::UnknownModel(other.into())),
        };
        let mut choice = Choice { model, isa, by_hand: Vec::new(), satp: [None; 4] };
        for (name, value) in given {
            choice.apply(name, value).map_err(|reason| CpuError::Property {
                model: model.into(),
                name: name.clone(),
                value: value.clone(),
                reason,
            })?;
        }
        choice.finish().map_err(CpuError::Combination)
    }
}

impl IsaConfig {
    /// The values of the properties of QEMU's type of CPU, but for those that are not the hart's to
    /// know.
    pub fn properties(&self) -> Vec<(&'static str, serde_json::Value)> {
        let mut all: Vec<(&'static str, serde_json::Value)> = vec![
            ("debug", self.debug.into()),
            ("mmu", self.mmu.into()),
            ("pmp", (self.pmp_entries > 0).into()),
            ("pmu-num", self.pmu_mask.count_ones().into()),
            // QEMU shows the low byte.
            ("pmu-mask", (self.pmu_mask as u8).into()),
            ("priv_spec", PRIV_SPEC.into()),
            ("cbom_blocksize", self.cbom_size.into()),
            ("cbop_blocksize", self.cbop_size.into()),
            ("cboz_blocksize", self.cbo_size.into()),
            ("mvendorid", self.mvendorid.into()),
            ("marchid", self.marchid.into()),
            ("mimpid", self.mimpid.into()),
        ];
        all.extend(SWITCHES.iter().map(|(name, _)| (*name, self.is_on(name).into())));
        all
    }

    /// Whether the property of this name is on.
    pub fn is_on(&self, name: &str) -> bool {
        let name = DEPRECATED.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| new);
        if let Some((_, mode)) = SATP_MODES.iter().find(|(mode, _)| *mode == name) {
            return mode.is_some_and(|mode| self.mmu && mode <= self.satp_mode);
        }
        match name {
            "i" => true,
            "pmp" => self.pmp_entries > 0,
            _ if NAMED_FEATURES.contains(&name) => self.isa_extensions().contains(&name),
            _ => self.has(name).unwrap_or(false),
        }
    }
}

/// The name of a model's type in the object model.
pub fn type_name(model: &str) -> String {
    format!("{model}-riscv-cpu")
}

/// What has a name without being an option.
const NAMED_FEATURES: [&str; 4] = ["zic64b", "ssstateen", "sha", "ziccrse"];

/// What `query-cpu-model-expansion` tells of: extensions beyond the single letters, and profiles.
pub fn expanded() -> impl Iterator<Item = &'static str> {
    let is_mode = |name: &str| SATP_MODES.iter().any(|(mode, _)| *mode == name);
    let is_deprecated = |name: &str| DEPRECATED.iter().any(|(old, _)| *old == name);
    let switches = SWITCHES.iter().map(|(name, _)| *name);
    let extensions =
        switches.filter(move |name| name.len() > 1 && !is_mode(name) && !is_deprecated(name));
    extensions.chain(NAMED_FEATURES).chain(["mmu", "pmp"])
}

/// A model with the properties read so far.
struct Choice<'a> {
    model: &'a str,
    isa: IsaConfig,
    /// Switches that were set in words, with their last value.
    by_hand: Vec<(String, bool)>,
    /// `sv39`, `sv48`, `sv57`, `sv64` as set in words.
    satp: [Option<bool>; 4],
}

impl Choice<'_> {
    fn apply(&mut self, name: &str, value: &str) -> Result<(), String> {
        if self.model == VEYRON_V1 {
            self.check_product(name, value)?;
        }
        let name = match DEPRECATED.iter().find(|(old, _)| *old == name) {
            Some((old, new)) => {
                tracing::warn!("CPU property '{old}' is deprecated. Please use '{new}' instead");
                new
            }
            None => name,
        };
        if let Some(i) = SATP_MODES.iter().position(|(mode, _)| *mode == name) {
            self.satp[i] = Some(boolean(name, value)?);
            return Ok(());
        }
        match name {
            // `g=on` stands for IMAFD_Zicsr_Zifencei; `g=off` says nothing about them.
            "i" | "g" => {
                self.set(name, boolean(name, value)?);
                return Ok(());
            }
            "pmp" => {
                let on = boolean(name, value)?;
                self.isa.pmp_entries = if on { super::state::PMP_ENTRIES } else { 0 };
                return Ok(());
            }
            "cbom_blocksize" => return set_block(&mut self.isa.cbom_size, name, value),
            "cbop_blocksize" => return set_block(&mut self.isa.cbop_size, name, value),
            "cboz_blocksize" => return set_block(&mut self.isa.cbo_size, name, value),
            "pmu-mask" => {
                self.isa.pmu_mask = unsigned(name, value, u32::MAX.into(), "uint32_t")? as u32;
                return Ok(());
            }
            "pmu-num" => {
                let count = unsigned(name, value, u8::MAX.into(), "uint8_t")?;
                if count > 29 {
                    return Err("Number of counters exceeds maximum available".into());
                }
                tracing::warn!("\"pmu-num\" property is deprecated; use \"pmu-mask\"");
                self.isa.pmu_mask = (((1u64 << count) - 1) << 3) as u32;
                return Ok(());
            }
            "mvendorid" => {
                self.isa.mvendorid = unsigned(name, value, u32::MAX.into(), "uint32_t")? as u32;
                return Ok(());
            }
            "marchid" => {
                let id = unsigned(name, value, u64::MAX, "uint64")?;
                // Privileged spec 3.1.3: the top bit marks a commercial implementation, and the
                // rest is then not zero.
                if id == 1 << 63 {
                    return Err(
                        "Unable to set marchid with MSB (64) bit set and the remaining bits zero"
                            .into(),
                    );
                }
                self.isa.marchid = id;
                return Ok(());
            }
            "mimpid" => {
                self.isa.mimpid = unsigned(name, value, u64::MAX, "uint64")?;
                return Ok(());
            }
            "priv_spec" => {
                return match value {
                    PRIV_SPEC => Ok(()),
                    "v1.10.0" | "v1.11.0" | "v1.12.0" => {
                        Err(format!("privilege spec version '{value}' is not implemented"))
                    }
                    _ => Err(format!("Unsupported privilege spec version '{value}'")),
                };
            }
            "vlen" | "elen" | "vext_spec" | "rvv_ta_all_1s" | "rvv_ma_all_1s"
            | "rvv_vl_half_avl" | "rvv_vsetvl_x0_vill" => {
                return Err("the V extension is not implemented".into());
            }
            "short-isa-string" | "x-misa-w" if !boolean(name, value)? => return Ok(()),
            "resetvec" if unsigned(name, value, u64::MAX, "uint64")? == RESET_VECTOR => {
                return Ok(());
            }
            "short-isa-string" | "resetvec" | "cfg" | "x-misa-w" => {
                return Err(format!("property '{name}' is not implemented"));
            }
            _ => {}
        }
        if MISSING.contains(&name) {
            return match boolean(name, value)? {
                true => Err(format!("extension '{name}' is not implemented")),
                false => Ok(()),
            };
        }
        if self.isa.switch(name).is_none() {
            return Err(format!("Property '{}-riscv-cpu.{name}' not found", self.model));
        }
        self.set(name, boolean(name, value)?);
        Ok(())
    }

    /// A product is what it is: its extensions can only be left out.
    fn check_product(&self, name: &str, value: &str) -> Result<(), String> {
        let model = self.model;
        let isa = &self.isa;
        let number = |text: &str| unsigned(name, text, u64::MAX, "uint64");
        let fixed = match name {
            "mvendorid" => Some(isa.mvendorid.into()),
            "marchid" => Some(isa.marchid),
            "mimpid" => Some(isa.mimpid),
            _ => None,
        };
        if let Some(fixed) = fixed {
            return match number(value)? == fixed {
                true => Ok(()),
                false => Err(format!("Unable to change {model}-riscv-cpu {name} ({fixed:#x})")),
            };
        }
        let keeps = match name {
            "mmu" => boolean(name, value)? == isa.mmu,
            "pmp" => boolean(name, value)? == (isa.pmp_entries > 0),
            "pmu-mask" => number(value)? == u64::from(isa.pmu_mask),
            "pmu-num" => number(value)? == u64::from(isa.pmu_mask.count_ones()),
            "cbom_blocksize" => number(value)? == isa.cbom_size,
            "cbop_blocksize" => number(value)? == isa.cbop_size,
            "cboz_blocksize" => number(value)? == isa.cbo_size,
            _ => {
                let is_switch = SWITCHES.iter().any(|(known, _)| *known == name)
                    && !SATP_MODES.iter().any(|(mode, _)| *mode == name);
                return match is_switch && boolean(name, value)? && !isa.is_on(name) {
                    true => Err(format!("'{model}' CPU does not allow enabling extensions")),
                    false => Ok(()),
                };
            }
        };
        match keeps {
            true => Ok(()),
            false => Err(format!("CPU '{model}' does not allow changing the value of '{name}'")),
        }
    }

    fn set(&mut self, name: &str, on: bool) {
        if let Some(switch) = self.isa.switch(name) {
            *switch = on;
        }
        match self.by_hand.iter_mut().find(|(known, _)| known == name) {
            Some((_, value)) => *value = on,
            None => self.by_hand.push((name.into(), on)),
        }
    }

    fn by_hand(&self, name: &str) -> Option<bool> {
        self.by_hand.iter().find(|(known, _)| known == name).map(|(_, on)| *on)
    }

    /// The rules between properties, in QEMU's order of complaint.
    fn finish(mut self) -> Result<IsaConfig, String> {
        for (whole, parts) in
            [("g", &["m", "a", "f", "d", "zicsr", "zifencei"][..]), ("b", &["zba", "zbb", "zbs"])]
        {
            if self.by_hand(whole) != Some(true) && !(whole == "b" && self.isa.b) {
                continue;
            }
            for part in parts {
                match self.by_hand(part) {
                    Some(false) => {
                        let letter = whole.to_ascii_uppercase();
                        tracing::warn!("RV{letter} mandates disabled extension {part}");
                    }
                    Some(true) => {}
                    None => {
                        if let Some(switch) = self.isa.switch(part) {
                            *switch = true;
                        }
                    }
                }
            }
        }
        // What a model's letters brought along goes with them, unless it was asked for.
        let containers: [(&str, &[&str]); 3] =
            [("m", &["zmmul"]), ("a", &["zaamo", "zalrsc"]), ("c", &["zca", "zcd"])];
        for (letter, parts) in containers {
            if self.isa.switch(letter).is_some_and(|on| *on) {
                continue;
            }
            for part in parts {
                if self.by_hand(part).is_none()
                    && let Some(switch) = self.isa.switch(part)
                {
                    *switch = false;
                }
            }
        }
        if !self.isa.d && self.by_hand("zcd").is_none() {
            self.isa.zcd = false;
        }
        let by_hand = std::mem::take(&mut self.by_hand);
        let set_by_hand = |name: &str| by_hand.iter().any(|(known, _)| known == name);
        let asked = |name: &str| by_hand.iter().any(|(known, on)| known == name && *on);
        let isa = &mut self.isa;
        let rules = [
            (
                by_hand.iter().any(|(name, on)| name == "i" && !on),
                "Either I or E extension must be set",
            ),
            (isa.s && !isa.u, "Setting S extension without U extension is illegal"),
            (
                isa.smepmp && isa.pmp_entries == 0,
                "Invalid configuration: Smepmp requires PMP support",
            ),
            (isa.f && !isa.zicsr, "F extension requires Zicsr"),
            (isa.zacas && !isa.a, "Zacas extension requires A extension"),
            (isa.zawrs && !isa.a, "Zawrs extension requires A extension"),
            (isa.zfa && !isa.f, "Zfa extension requires F extension"),
            ((isa.zfh || isa.zfhmin) && !isa.f, "Zfh/Zfhmin extensions require F extension"),
            (isa.d && !isa.f, "D extension requires F extension"),
            (isa.zcd && !isa.d, "Zcd extension requires D extension"),
            (
                (isa.zcd || isa.c) && !isa.zca,
                "Zcf/Zcd/Zcb/Zcmp/Zcmt extensions require Zca extension",
            ),
            (!isa.zicsr && asked("zicntr"), "zicntr requires zicsr"),
            (!isa.zicsr && asked("zihpm"), "zihpm requires zicsr"),
            (isa.pmu_mask & 7 != 0, "\"pmu-mask\" contains invalid bits (0-2) set"),
        ];
        if let Some((_, sentence)) = rules.iter().find(|(broken, _)| *broken) {
            return Err((*sentence).into());
        }
        if !isa.zicsr {
            isa.zicntr = false;
            isa.zihpm = false;
        }
        // Without its letter, QEMU offers these alone; our decoder knows them only together.
        for (part, on, letter, whole) in [
            ("zmmul", isa.zmmul, "m", isa.m),
            ("zaamo", isa.zaamo, "a", isa.a),
            ("zalrsc", isa.zalrsc, "a", isa.a),
            ("zca", isa.zca, "c", isa.c),
        ] {
            if on && !whole {
                return Err(format!("extension '{part}' without '{letter}' is not implemented"));
            }
        }
        isa.complete(set_by_hand);
        if isa.c && isa.d && !isa.zcd {
            return Err("extension 'c' with 'd' and without 'zcd' is not implemented".into());
        }
        isa.satp_mode = satp_mode(&self.satp, isa.satp_mode)?;
        Ok(self.isa)
    }
}

fn boolean(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(format!("Parameter '{name}' expects 'on' or 'off'")),
    }
}

/// A number as `strtoull` with base 0 reads it, at most `max`.
fn unsigned(name: &str, value: &str, max: u64, type_name: &str) -> Result<u64, String> {
    let digits = value.trim_start();
    let (negative, digits) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(digits)),
    };
    let lower = digits.to_ascii_lowercase();
    let parsed = if let Some(hex) = lower.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if lower.len() > 1 && lower.starts_with('0') {
        u64::from_str_radix(&lower, 8)
    } else {
        lower.parse()
    };
    let number = parsed.map_err(|_| format!("Parameter '{name}' expects uint64"))?;
    let number = if negative { number.wrapping_neg() } else { number };
    if number > max {
        return Err(format!("Parameter '{name}' expects {type_name}"));
    }
    Ok(number)
}

/// Cache blocks are a power of two within a page (CMO spec 2.7).
fn set_block(size: &mut u64, name: &str, value: &str) -> Result<(), String> {
    let bytes = unsigned(name, value, u16::MAX.into(), "uint16_t")?;
    if !bytes.is_power_of_two() || !(8..=4096).contains(&bytes) {
        return Err(format!("a cache block of {bytes} bytes is not a power of two from 8 to 4096"));
    }
    *size = bytes;
    Ok(())
}

/// The widest mode that the `svNN` properties leave: the widest one switched on, or else the one
/// below the narrowest switched off.
fn satp_mode(set: &[Option<bool>; 4], default: SatpMode) -> Result<SatpMode, String> {
    let Some(top) = set.iter().rposition(|mode| *mode == Some(true)) else {
        return Ok(match set.iter().position(|mode| *mode == Some(false)) {
            None | Some(3) => default,
            Some(0) => SatpMode::Bare,
            Some(i) => SATP_MODES[i - 1].1.unwrap_or(default),
        });
    };
    let (name, mode) = SATP_MODES[top];
    let Some(mode) = mode.filter(|mode| *mode <= default) else {
        let widest = SATP_MODES.iter().find(|(_, mode)| *mode == Some(default));
        let widest = widest.map_or("bare", |(name, _)| name);
        return Err(format!("satp_mode {name} is higher than hw max capability {widest}"));
    };
    if let Some(low) = set[..top].iter().rposition(|mode| *mode == Some(false)) {
        let low = SATP_MODES[low].0;
        return Err(format!("cannot disable {low} satp mode if {name} is enabled"));
    }
    Ok(mode)
}
