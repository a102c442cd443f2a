//! What NVIDIA's `trtexec` is asked, to build a TensorRT engine from an ONNX file of ours.
//!
//! An engine fits the GPU and the TensorRT version that built it: it is built where it will run.

use offshoot_graph::model::INPUT;

/// The type that an engine may compute in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EnginePrecision {
    /// f32, and f16 where it is faster. Inputs and outputs stay f32.
    #[default]
    F16,
    /// f32.
    F32,
    /// i8 where the file quantizes, f16 elsewhere. The file says itself where: by QuantizeLinear and DequantizeLinear
    /// ("explicit quantization").
    Int8,
}

/// The sizes of batches that an engine takes, and the one that it is tuned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The smallest.
    pub min: usize,
    /// The one to be fastest at.
    pub opt: usize,
    /// The largest.
    pub max: usize,
}

impl Default for Profile {
    fn default() -> Profile {
        Profile { min: 1, opt: 8, max: 32 }
    }
}

impl Profile {
    /// Whether the sizes stand in order and are at least 1.
    pub fn is_valid(&self) -> bool {
        1 <= self.min && self.min <= self.opt && self.opt <= self.max
    }
}

/// The arguments of `trtexec` that build `engine` from `onnx`, which takes pictures of `size` pixels a side.
pub fn arguments(
    onnx: &str,
    engine: &str,
    size: usize,
    profile: Profile,
    precision: EnginePrecision,
) -> Vec<String> {
    let shapes = |flag: &str, batch: usize| format!("--{flag}={INPUT}:{batch}x3x{size}x{size}");
    let mut arguments = vec![
        format!("--onnx={onnx}"),
        format!("--saveEngine={engine}"),
        shapes("minShapes", profile.min),
        shapes("optShapes", profile.opt),
        shapes("maxShapes", profile.max),
    ];
    match precision {
        EnginePrecision::F16 => arguments.push("--fp16".to_owned()),
        EnginePrecision::F32 => {}
        EnginePrecision::Int8 => arguments.extend(["--int8".to_owned(), "--fp16".to_owned()]),
    }
    arguments
}

/// A shell script that runs `trtexec` with `arguments` in its own folder. `TRTEXEC` may say where the program is.
pub fn script(arguments: &[String]) -> String {
    let lines: Vec<String> = arguments.iter().map(|a| format!(" \\\n    {}", quoted(a))).collect();
    format!(
        "#!/bin/sh\n# Builds the TensorRT engine, on the machine that will run it.\nset -e\ncd \"$(dirname \"$0\")\"\nexec \"${{TRTEXEC:-trtexec}}\"{}\n",
        lines.concat()
    )
}

/// An argument as a shell takes it.
pub fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=:./,".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_files_profile_and_precision() {
        let profile = Profile { min: 1, opt: 4, max: 16 };
        let arguments = arguments("model.onnx", "model.engine", 224, profile, EnginePrecision::F16);
        assert_eq!(
            arguments,
            [
                "--onnx=model.onnx",
                "--saveEngine=model.engine",
                "--minShapes=input:1x3x224x224",
                "--optShapes=input:4x3x224x224",
                "--maxShapes=input:16x3x224x224",
                "--fp16",
            ]
        );
        assert!(script(&arguments).ends_with("--maxShapes=input:16x3x224x224 \\\n    --fp16\n"));
    }

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        assert_eq!(quoted("--onnx=a b.onnx"), "'--onnx=a b.onnx'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("--fp16"), "--fp16");
    }

    #[test]
    fn a_profile_stands_in_order() {
        assert!(Profile::default().is_valid());
        for (min, opt, max) in [(0, 1, 2), (2, 1, 4), (1, 8, 4)] {
            assert!(!Profile { min, opt, max }.is_valid());
        }
    }
}
