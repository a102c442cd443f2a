//! What computes: one device for all that a process does.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use offshoot::{CpuOptions, Device, Isa};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::raised;

static DEVICE: Mutex<Option<Device>> = Mutex::new(None);

/// The device that [`configure`] chose, or all of the machine's processors.
pub(crate) fn device() -> offshoot::Result<Device> {
    let mut device = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    match &*device {
        Some(device) => Ok(device.clone()),
        None => Ok(device.insert(Device::cpu(CpuOptions::default())?).clone()),
    }
}

/// The device for a run with a number of threads of its own.
pub(crate) fn device_with(threads: Option<usize>) -> offshoot::Result<Device> {
    match threads.and_then(NonZeroUsize::new) {
        Some(threads) => Device::cpu(CpuOptions { threads: Some(threads), ..CpuOptions::default() }),
        None => device(),
    }
}

/// Chooses what computes from now on; what is `None` stays the machine's best. Gives the instruction set and the number of threads.
#[pyfunction]
pub(crate) fn configure(
    py: Python<'_>,
    threads: Option<NonZeroUsize>,
    isa: Option<&str>,
    memory_limit: Option<u32>,
    max_megapixels: Option<u32>,
) -> PyResult<(String, usize)> {
    let isa = isa.map(|name| Isa::by_name(name).ok_or_else(no_isa)).transpose()?;
    let options = CpuOptions { threads, isa, ..CpuOptions::default() };
    let device = py.detach(|| Device::cpu(options)).map_err(|error| raised(py, &error, &[]))?;
    if let Some(mib) = memory_limit {
        offshoot_files::set_memory_limit(u64::from(mib) << 20);
    }
    if let Some(millions) = max_megapixels {
        offshoot_data::set_max_pixels(u64::from(millions) * 1_000_000);
    }
    let chosen = (device.isa().to_owned(), device.threads());
    *DEVICE.lock().unwrap_or_else(PoisonError::into_inner) = Some(device);
    Ok(chosen)
}

fn no_isa() -> PyErr {
    let known: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
    PyValueError::new_err(format!("isa: this machine has {}", known.join(", ")))
}
